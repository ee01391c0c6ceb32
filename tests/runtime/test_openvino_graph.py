"""What the runtime rewrites before OpenVINO compiles a model."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import openvino
import pytest
import torch

from dvfl_export.deploy import deploy_form
from dvfl_export.onnx_model import onnx_from_model
from dvfl_export.quantise import activation_ranges, quantise
from dvfl_models import VideoFocalNet, VideoFocalNetConfig
from dvfl_models.video_focalnet import init_weights
from dvfl_runtime import ClipSpec
from dvfl_runtime.engines import cpus, open_engine, openvino_graph
from dvfl_runtime.engines.openvino_graph import as_convolutions, means_as_pooling, rewrite_for_cpu

SPEC = ClipSpec(num_frames=4, size=(32, 32), resize=36, window_s=1.0)
PRODUCTS = 4 * 8 + 4  # of a block: q, context, gates, h, h in time, proj, fc1, fc2; 4 embeddings
IN_TIME = 4 * 2  # convolutions
TENSORS = 4 * 7 + 4  # that are quantised: q, context, gates and the first convolution share one


@pytest.fixture(scope="module")
def clips() -> np.ndarray[Any, Any]:
    return np.random.default_rng(0).integers(0, 256, (2, 4, 32, 32, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, clips: np.ndarray[Any, Any]) -> Path:
    """A tiny network in float32 and in int8, all layers that can be."""
    folder = tmp_path_factory.mktemp("convolutions")
    torch.manual_seed(0)
    config = VideoFocalNetConfig(embed_dim=16, depths=(1, 1, 1, 1), num_classes=3)
    net = VideoFocalNet(config)
    init_weights(net, "xavier")
    model = onnx_from_model(deploy_form(net.eval(), SPEC), SPEC)
    onnx.save(model, folder / "fp32.onnx")
    onnx.save(quantise(model, activation_ranges(model, list(clips))), folder / "int8.onnx")
    return folder


def kinds(model: Any) -> Counter[str]:
    return Counter(node.get_type_name() for node in model.get_ordered_ops())


def test_products_become_convolutions(folder: Path) -> None:
    model = openvino.Core().read_model(folder / "int8.onnx")
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
    model = openvino.Core().read_model(folder / "fp32.onnx")
    before = kinds(model)
    assert as_convolutions(model) == 0
    assert kinds(model) == before


def test_means_over_frames_become_poolings(
    folder: Path, clips: np.ndarray[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = openvino.Core().read_model(folder / "fp32.onnx")
    before = kinds(model)["ReduceMean"]
    assert means_as_pooling(model) == 4
    assert kinds(model)["AvgPool"] == before - kinds(model)["ReduceMean"] == 4
    logits = openvino.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})(clips)[0]
    exact = open_engine("onnxruntime", folder / "fp32.onnx", device="cpu").run(clips)
    np.testing.assert_allclose(logits, exact, atol=1e-4)

    other = openvino.Core().read_model(folder / "fp32.onnx")
    monkeypatch.setattr(openvino_graph.platform, "machine", lambda: "aarch64")
    rewrite_for_cpu(other)
    assert kinds(other)["AvgPool"] == 0  # not measured there


def test_other_zero_points_stay_as_they_are(folder: Path) -> None:
    graph = onnx.load(folder / "int8.onnx")
    for weight in graph.graph.initializer:
        if weight.name.endswith("zero_point") and not weight.dims:
            weight.CopyFrom(onnx.numpy_helper.from_array(np.int8(3), weight.name))
    assert as_convolutions(openvino.Core().read_model(graph.SerializeToString())) == 0


def test_the_engine_computes_the_same(
    folder: Path, clips: np.ndarray[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    logits = {}
    for lacks in (False, True):
        monkeypatch.setattr(openvino_graph, "lacks_byte_products", lambda lacks=lacks: lacks)
        opened = open_engine("openvino", folder / "int8.onnx", device="cpu")
        alone = np.concatenate([opened.run(clips[:1]), opened.run(clips[1:])])
        np.testing.assert_allclose(opened.run(clips), alone, atol=0.02)  # compiled for two
        logits[lacks] = alone
        opened.close()
    exact = open_engine("onnxruntime", folder / "fp32.onnx", device="cpu").run(clips)
    scale = np.abs(exact).max()
    assert np.abs(logits[True] - logits[False]).max() < 0.03 * scale
    assert np.abs(logits[True] - exact).max() < 0.06 * scale
    assert (logits[True] != logits[False]).any()  # it was rewritten


@pytest.mark.parametrize(
    ("text", "lacks"),
    [
        ("processor\t: 0\nflags\t\t: fpu sse4_2 avx2 bmi2\n", True),
        ("flags : avx2 avx_vnni\n", False),
        ("flags : avx2 avx512f avx512_vnni\n", False),
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
    assert cpus.lacks_byte_products(cpuinfo) is lacks
