"""What the runtime rewrites before OpenVINO compiles a model."""

import json
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import openvino
import pytest
import torch
from artifacts import artifact, save
from bf16 import needs_bf16
from openvino import opset13 as ops

from dvfl_export.deploy.form import deploy_form
from dvfl_export.onnx_model import onnx_from_model
from dvfl_export.precision.quantise import quantise
from dvfl_export.precision.ranges import activation_ranges
from dvfl_models import VideoFocalNet, VideoFocalNetConfig
from dvfl_models.network.video_focalnet import init_weights
from dvfl_runtime import ClipSpec
from dvfl_runtime.artifact import FUSED_DOMAIN, ModelFile
from dvfl_runtime.artifact.onnx_edits import with_signed_bytes
from dvfl_runtime.artifact.onnx_file import OnnxFile
from dvfl_runtime.engines import cpus, open_engine, openvino_graph
from dvfl_runtime.engines import openvino as openvino_engine
from dvfl_runtime.engines.openvino_graph import as_convolutions, means_as_pooling, rewrite_for_cpu
from dvfl_runtime.engines.openvino_nodes import read_onnx
from dvfl_runtime.recognizer import BUNDLED_MODEL

SPEC = ClipSpec(num_frames=4, size=(32, 32), resize=36, window_s=1.0)
PRODUCTS = 4 * 8 + 4  # of a block: q, context, gates, h, h in time, proj, fc1, fc2; 4 embeddings
IN_TIME = 4 * 2  # convolutions
TENSORS = 4 * 7 + 4  # that are quantised: q, context, gates and the first convolution share one


@pytest.fixture(scope="module")
def clips() -> np.ndarray[Any, Any]:
    return np.random.default_rng(0).integers(0, 256, (2, 4, 32, 32, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, clips: np.ndarray[Any, Any]) -> Path:
    """A tiny network in float32 and in int8, all layers that can be.

    In "apart.onnx" products are nodes of their own, as in files of version 3.
    """
    folder = tmp_path_factory.mktemp("convolutions")
    torch.manual_seed(0)
    config = VideoFocalNetConfig(embed_dim=16, depths=(1, 1, 1, 1), num_classes=3)
    net = VideoFocalNet(config)
    init_weights(net, "xavier")
    model = onnx_from_model(deploy_form(net.eval(), SPEC), SPEC)
    ranges = activation_ranges(model, list(clips))
    save(model, folder / "fp32.onnx", {"dvfl": described()})
    save(quantise(model, ranges), folder / "int8.onnx", {"dvfl": described()})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dvfl_export.precision.quantise.fuse_products", lambda *_: None)
        save(quantise(model, ranges), folder / "apart.onnx", {"dvfl": described()})
    return folder


def described(**changes: Any) -> str:
    return artifact(spec=SPEC, **changes).to_json()


def read(path: Path) -> Any:
    """Read a file as the engine does."""
    return read_graph(onnx.load(path))


def read_graph(graph: onnx.ModelProto) -> Any:
    content = with_signed_bytes(graph.SerializeToString())
    with tempfile.NamedTemporaryFile(suffix=".onnx") as file:
        file.write(content)
        file.flush()
        return read_onnx(file.name, OnnxFile(content).operators(FUSED_DOMAIN))


def compiled(model: Any) -> Any:
    return openvino.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})


def kinds(model: Any) -> Counter[str]:
    return Counter(node.get_type_name() for node in model.get_ordered_ops())


@pytest.mark.parametrize("name", ["int8.onnx", "apart.onnx"])
def test_products_become_convolutions(folder: Path, name: str) -> None:
    model = read(folder / name)
    before = kinds(model)
    assert as_convolutions(model) == PRODUCTS + IN_TIME
    after = kinds(model)
    assert before["MatMul"] - after["MatMul"] == PRODUCTS
    assert after["Convolution"] - before["Convolution"] == PRODUCTS
    assert after["FakeQuantize"] == TENSORS
    for node in model.get_ordered_ops():
        if node.get_type_name() == "FakeQuantize":  # neither copies nor what convolutions give
            source = node.input_value(0).get_node()
            assert source.get_type_name() not in ("Reshape", "Transpose", "Convolution", "Subtract")


def test_a_float_file_keeps_its_products(folder: Path) -> None:
    model = read(folder / "fp32.onnx")
    before = kinds(model)
    assert as_convolutions(model) == 0
    assert kinds(model) == before


def test_means_over_frames_become_poolings(
    folder: Path, clips: np.ndarray[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = read(folder / "fp32.onnx")
    before = kinds(model)["ReduceMean"]
    assert means_as_pooling(model) == 4
    assert kinds(model)["AvgPool"] == before - kinds(model)["ReduceMean"] == 4
    logits = compiled(model)(clips)[0]
    exact = open_engine("onnxruntime", ModelFile(folder / "fp32.onnx"), device="cpu").run(clips)
    np.testing.assert_allclose(logits, exact, atol=1e-4)

    other = read(folder / "fp32.onnx")
    monkeypatch.setattr(openvino_graph.platform, "machine", lambda: "aarch64")
    rewrite_for_cpu(other)
    assert kinds(other)["AvgPool"] == 0  # not measured there


def activations(graph: onnx.ModelProto, part: str) -> list[onnx.TensorProto]:
    """The scales or zero points of tensors, which are single numbers; those of weights are not."""
    weights = graph.graph.initializer
    return [w for w in weights if part in w.name and not w.dims]


def other_zero_points(graph: onnx.ModelProto) -> None:
    for weight in activations(graph, "zero_point"):
        weight.CopyFrom(onnx.numpy_helper.from_array(np.int8(3), weight.name))


def bytes_that_absorb_a_relu(graph: onnx.ModelProto) -> None:
    """What is below 0 is cut off, as where a quantiser has taken a ReLU into it."""
    for weight in activations(graph, "zero_point"):
        weight.CopyFrom(onnx.numpy_helper.from_array(np.uint8(0), weight.name))


def another_scale_behind(graph: onnx.ModelProto) -> None:
    scales = {weight.name: weight for weight in activations(graph, "scale")}
    for node in graph.graph.node:
        if node.op_type == "DequantizeLinear" and node.input[1] in scales:
            doubled = onnx.numpy_helper.to_array(scales[node.input[1]]) * np.float32(2)
            node.input[1] += "_doubled"
            graph.graph.initializer.append(onnx.numpy_helper.from_array(doubled, node.input[1]))


def scales_along_the_inputs(graph: onnx.ModelProto) -> None:
    """Of square weights, where nothing but the axis shows it."""
    weights = {weight.name: weight.dims for weight in graph.graph.initializer}
    for node in graph.graph.node:
        dims = weights.get(node.input[0], ())
        if node.op_type == "DequantizeLinear" and len(dims) > 1 and dims[0] == dims[1]:
            (axis,) = (attribute for attribute in node.attribute if attribute.name == "axis")
            axis.i = 1 - axis.i


# what is inside of the contexts has no DequantizeLinear in the graph
EDITS = ((other_zero_points, 0), (bytes_that_absorb_a_relu, 0), (another_scale_behind, IN_TIME))


@pytest.mark.parametrize(("edit", "left"), EDITS)
def test_what_is_quantised_otherwise_stays_as_it_is(
    folder: Path, edit: Callable[[onnx.ModelProto], None], left: int
) -> None:
    graph = onnx.load(folder / "apart.onnx")
    edit(graph)
    assert as_convolutions(read_graph(graph)) == left


def test_only_scales_along_the_outputs_are_taken(folder: Path, clips: np.ndarray[Any, Any]) -> None:
    graph = onnx.load(folder / "apart.onnx")
    scales_along_the_inputs(graph)
    model = read_graph(graph)
    plain = compiled(model.clone())(clips)[0]
    # the products of other shapes are rewritten: fc1, fc2 and gates of 4 blocks, 4 embeddings
    assert as_convolutions(model) == 16 + IN_TIME
    np.testing.assert_allclose(compiled(model)(clips)[0], plain, atol=0.03 * np.abs(plain).max())


def other_levels(inputs: list[Any]) -> Any:
    return ops.fake_quantize(*inputs, 255)


def other_bounds(inputs: list[Any]) -> Any:
    """It cuts off more than int8 does."""
    halves = [np.float32(bound.get_node().data / 2) for bound in inputs[1:]]
    return ops.fake_quantize(inputs[0], *halves, 256)


@pytest.mark.parametrize("change", [other_levels, other_bounds])
def test_other_quantisers_stay_as_they_are(folder: Path, change: Callable[..., Any]) -> None:
    model = read(folder / "int8.onnx")
    for node in model.get_ordered_ops():
        if node.get_type_name() == "FakeQuantize":
            inputs = [node.input_value(i) for i in range(5)]
            node.output(0).replace(change(inputs).output(0))
    assert as_convolutions(model) == 0


@pytest.fixture
def rewritten(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[int]:
    """How many places were rewritten in each model that was opened, products included."""
    counts: list[int] = []

    def counted(model: Any) -> int:
        counts.append(rewrite_for_cpu(model))
        return counts[-1]

    monkeypatch.setattr(openvino_graph, "convolves_bytes_faster", lambda: True)
    monkeypatch.setattr(openvino_engine, "rewrite_for_cpu", counted)
    monkeypatch.setenv("DVFL_CACHE_DIR", str(tmp_path / "cache"))
    return counts


def test_the_engine_computes_the_same(
    folder: Path, clips: np.ndarray[Any, Any], rewritten: list[int], tmp_path: Path
) -> None:
    opened = open_engine("openvino", ModelFile(folder / "int8.onnx"), device="cpu")
    assert rewritten == [4 + PRODUCTS + IN_TIME]
    alone = np.concatenate([opened.run(clips[:1]), opened.run(clips[1:])])
    np.testing.assert_allclose(opened.run(clips), alone, atol=0.02)  # compiled for two
    opened.close()
    plain = open_engine("openvino", unmarked(folder / "int8.onnx", tmp_path), device="cpu")
    exact = open_engine("onnxruntime", ModelFile(folder / "fp32.onnx"), device="cpu").run(clips)
    scale = np.abs(exact).max()
    assert np.abs(alone - plain.run(clips)).max() < 0.03 * scale
    assert np.abs(alone - exact).max() < 0.06 * scale
    assert (alone != plain.run(clips)).any()  # it was rewritten


def unmarked(path: Path, folder: Path) -> ModelFile:
    """The same graph in a file that dvfl-export did not write."""
    return ModelFile(save(onnx.load(path), folder / "other.onnx", {"dvfl": described(tools={})}))


def test_only_files_of_dvfl_export_are_rewritten(
    folder: Path, rewritten: list[int], tmp_path: Path
) -> None:
    open_engine("openvino", unmarked(folder / "fp32.onnx", tmp_path), device="cpu")
    assert rewritten == []
    open_engine("openvino", ModelFile(BUNDLED_MODEL), device="cpu")  # ours of long ago
    assert len(rewritten) == 1


def test_the_comparison_is_made_once(
    folder: Path, rewritten: list[int], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    opened = open_engine("openvino", ModelFile(folder / "fp32.onnx"), device="cpu")
    (file,) = (tmp_path / "cache").glob("rewriting-*.json")
    assert json.loads(file.read_text())["difference"] < 1e-4
    opened.close()
    monkeypatch.setattr(openvino_engine, "_difference", None)
    open_engine("openvino", ModelFile(folder / "fp32.onnx"), device="cpu")
    assert rewritten == [4, 4]


def wrong_logits(model: Any) -> int:
    node = model.output(0).get_node().input_value(0)
    node.get_node().output(0).replace(ops.multiply(node, np.float32(1.2)).output(0))
    return 1


def nan_logits(model: Any) -> int:
    node = model.output(0).get_node().input_value(0)
    node.get_node().output(0).replace(ops.multiply(node, np.float32(np.nan)).output(0))
    return 1


def raises(model: Any) -> int:
    raise IndexError("no such port")


def cannot_be_compiled(model: Any) -> int:
    model.reshape({"clip": [1, 3, 3, 3, 3]})
    return 1


@pytest.mark.parametrize("rewrite", [wrong_logits, nan_logits, raises, cannot_be_compiled])
def test_a_rewriting_that_computes_something_else_is_not_used(
    folder: Path,
    clips: np.ndarray[Any, Any],
    rewritten: list[int],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    rewrite: Callable[[Any], int],
) -> None:
    exact = open_engine("onnxruntime", ModelFile(folder / "fp32.onnx"), device="cpu").run(clips)
    monkeypatch.setattr(openvino_engine, "rewrite_for_cpu", rewrite)
    times = 2 if rewrite is wrong_logits else 1  # the second time from memory
    for _ in range(times):
        opened = open_engine("openvino", ModelFile(folder / "fp32.onnx"), device="cpu")
        np.testing.assert_allclose(opened.run(clips[:1]), exact[:1], atol=1e-4)
        opened.close()
    assert [record.levelname for record in caplog.records] == ["WARNING"] * times
    assert "openvino runs" in caplog.text
    assert "as it is, which takes longer" in caplog.text


@needs_bf16
def test_each_precision_is_compared_by_itself(
    folder: Path,
    rewritten: list[int],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def differences() -> dict[str, float]:
        found = map(json.loads, map(Path.read_text, (tmp_path / "cache").glob("rewriting-*.json")))
        return {about["key"]["precision"]: about["difference"] for about in found}

    model = ModelFile(folder / "fp32.onnx")
    open_engine("openvino", model, device="cpu")
    assert differences() == {"file": pytest.approx(0, abs=1e-4)}
    open_engine("openvino", model, precision="bf16")
    assert differences()["bf16"] == pytest.approx(0, abs=0.03)
    assert not caplog.records
    monkeypatch.setattr(openvino_engine, "AGREE_BF16", -1)
    open_engine("openvino", model, precision="bf16")
    (record,) = caplog.records
    assert "as it is, which takes longer" in record.getMessage()
    open_engine("openvino", model, device="cpu")
    assert len(caplog.records) == 1


@pytest.mark.parametrize(
    ("text", "lacks"),
    [
        ("processor\t: 0\nflags\t\t: fpu sse4_2 avx2 bmi2\n", True),
        ("flags : avx2 avx_vnni\n", False),
        ("flags : avx2 avx512f avx512_vnni\n", True),
        ("flags : avx2 avx512f avx512_vnni amx_int8\n", False),
        ("flags : sse4_2\n", False),
        ("Features : fp asimd asimddp\n", False),
        ("", False),
        (None, False),
    ],
)
def test_which_cpus(tmp_path: Path, text: str | None, lacks: bool) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    if text is not None:
        cpuinfo.write_text(text)
    assert cpus.convolves_bytes_faster(cpuinfo) is lacks
