"""--precision fp16: types of the graph, agreement in the engines, what is refused."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, numpy_helper, shape_inference
from rtx_build import needs_rtx, rtx_build

from dvfl_export.cli import main
from dvfl_export.deploy.form import deploy_form
from dvfl_export.onnx_model import onnx_from_model
from dvfl_export.precision.half import to_float16
from dvfl_models import VideoFocalNet, VideoFocalNetConfig, build_model, save_checkpoint
from dvfl_models.network.video_focalnet import init_weights
from dvfl_runtime import ClipSpec, Recognizer
from dvfl_runtime.engines import installed_engines
from dvfl_runtime.errors import ExportError
from dvfl_runtime.recognizer import BUNDLED_MODEL

SPEC = ClipSpec(num_frames=4, size=(32, 32), resize=36, window_s=1.0)
FLOAT, FLOAT16 = TensorProto.FLOAT, TensorProto.FLOAT16


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    net = build_model("femto", num_classes=3)
    init_weights(net, "xavier")
    path = tmp_path_factory.mktemp("half") / "m.pth"
    save_checkpoint(path, net, about={"labels": list("abc"), "spec": SPEC.to_dict()})
    return path


def types_of(model: onnx.ModelProto) -> dict[str, int]:
    graph = shape_inference.infer_shapes(model, strict_mode=True).graph
    values = (*graph.value_info, *graph.input, *graph.output)
    types = {value.name: value.type.tensor_type.elem_type for value in values}
    return types | {weight.name: weight.data_type for weight in graph.initializer}


def test_the_file_in_float16_agrees_in_every_engine(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, report = tmp_path / "x.onnx", tmp_path / "r.json"
    command = [str(checkpoint), "-o", str(out), "--precision", "fp16", "--report", str(report)]
    assert main(command) == 0
    assert json.loads(report.read_text())["precision"] == "fp16"
    assert "precision    fp16\n" in capsys.readouterr().out
    with Recognizer(out) as recognizer:
        artifact = recognizer.artifact
    assert artifact.precision == "fp16"
    assert artifact.parity["thresholds"] == {"max_difference": 2e-2, "top1": 0.99}
    assert set(artifact.parity["engines"]) == set(installed_engines())
    assert "bf16" not in artifact.parity
    assert 1e-5 < artifact.parity["max_difference"] < 2e-2
    model = onnx.load(out)
    onnx.checker.check_model(model, full_check=True)
    (clip,), (logits,) = model.graph.input, model.graph.output
    assert clip.type.tensor_type.elem_type == TensorProto.UINT8
    assert logits.type.tensor_type.elem_type == FLOAT


def test_each_node_has_the_type_that_is_meant() -> None:
    model = to_float16(onnx.load(BUNDLED_MODEL))
    types = types_of(model)
    nodes = [node for node in model.graph.node if node.op_type != "Cast"]
    norms = ("LayerNormalization", "EmbedNorm")
    first = next(i for i, node in enumerate(nodes) if node.op_type in norms)
    for index, node in enumerate(nodes):
        wide = index <= first or node.op_type == "ReduceMean"
        wanted = FLOAT if wide else FLOAT16
        found = {types[name] for name in (*node.input, *node.output)} - {TensorProto.INT64}
        assert found == {wanted}, node.name
    casts = Counter(node.op_type for node in model.graph.node)["Cast"]
    means = [node for node in nodes if node.op_type == "ReduceMean"]
    # pixels, what the embedding gives, around each mean, logits
    assert casts == 1 + len(nodes[first].output) + 2 * len(means) + 1
    original = onnx.load(BUNDLED_MODEL)
    assert len(model.SerializeToString()) < 0.56 * len(original.SerializeToString())


@pytest.mark.parametrize(
    "options",
    [
        {"use_layerscale": True, "use_postln": True},
        {"use_postln_in_modulation": True, "normalize_modulator": True},
        {"use_conv_embed": True},
        {"tubelet_size": 2},
    ],
)
@pytest.mark.slow
def test_every_option(options: dict[str, object]) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    torch.manual_seed(0)
    config = VideoFocalNetConfig(embed_dim=8, depths=(1, 1, 1, 1), num_classes=5, **options)
    form = deploy_form(VideoFocalNet(config).eval(), SPEC)
    clip = torch.randint(0, 256, (2, 4, 32, 32, 3), dtype=torch.uint8)
    model = to_float16(onnx_from_model(form, SPEC))
    session = onnxruntime.InferenceSession(model.SerializeToString())
    (logits,) = session.run(None, {"clip": clip.numpy()})
    with torch.no_grad():
        np.testing.assert_allclose(logits, form(clip).numpy(), atol=2e-2)


def test_a_weight_beyond_float16_is_named() -> None:
    model = onnx.load(BUNDLED_MODEL)
    weight = next(w for w in model.graph.initializer if w.name == "head.weight")
    values = numpy_helper.to_array(weight).copy()
    values[0, 0] = -1e6
    weight.CopyFrom(numpy_helper.from_array(values, weight.name))
    with pytest.raises(ExportError, match=r"head.weight holds -1e\+06, beyond the range"):
        to_float16(model)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--compress"], "--compress is for precision fp32"),
    ],
)
def test_what_does_not_go_together_is_one_line(
    checkpoint: Path, tmp_path: Path, arguments: list[str], message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    out = tmp_path / "x.onnx"
    out.write_bytes(b"the old one")
    assert main([str(checkpoint), "-o", str(out), "--precision", "fp16", *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("dvfl-export: error: ")
    assert message in line
    assert out.read_bytes() == b"the old one"


@needs_rtx
@pytest.mark.parametrize("batch", ["dynamic", "fixed"])
@pytest.mark.parametrize("capability", ["SM86", "SM89"])
def test_tensorrt_builds_it_strongly_typed(tmp_path: Path, capability: str, batch: str) -> None:
    model = to_float16(onnx.load(BUNDLED_MODEL))
    if batch == "fixed":
        for value in (*model.graph.input, *model.graph.output):
            value.type.tensor_type.shape.dim[0].dim_value = 1
    onnx.save(model, tmp_path / "m.onnx")
    assert rtx_build(tmp_path / "m.onnx", capability)["plan_bytes"] > 2_000_000
