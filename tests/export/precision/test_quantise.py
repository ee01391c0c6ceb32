"""--precision int8: what is calibrated on, what the file holds, what each layer loses."""

import json
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, numpy_helper
from onnxruntime.quantization import CalibrationMethod
from rtx_build import needs_rtx, rtx_build
from videos import write_video

from dvfl_export import ExportRequest, export
from dvfl_export import export as export_function
from dvfl_export.cli import main
from dvfl_export.deploy.form import deploy_form
from dvfl_export.pipeline import Exported
from dvfl_export.precision.calibration import LEAST_CLIPS, calibration_set
from dvfl_export.precision.quantise import layers_of, quantise
from dvfl_export.precision.ranges import activation_ranges
from dvfl_export.precision.sensitivity import logits_of
from dvfl_export.sample_clips import cut_clips
from dvfl_models import VideoFocalNet, VideoFocalNetConfig, save_checkpoint
from dvfl_models.network.video_focalnet import init_weights
from dvfl_models.rendered.synthetic import ACTIONS, render_clip
from dvfl_runtime import ClipSpec
from dvfl_runtime.engines import installed_engines
from dvfl_runtime.errors import ExportError

SPEC = ClipSpec(num_frames=4, size=(32, 32), resize=36, window_s=1.0)
VIDEOS = 12
PIPELINE = sys.modules[export_function.__module__]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a checkpoint of a tiny network, and rendered videos in a folder for each class."""
    folder = tmp_path_factory.mktemp("int8")
    torch.manual_seed(0)
    config = VideoFocalNetConfig(
        embed_dim=16, depths=(1, 1, 1, 1), focal_levels=(1, 1, 1, 1), num_classes=3
    )
    net = VideoFocalNet(config)
    init_weights(net, "xavier")
    about = {"labels": list("abc"), "spec": SPEC.to_dict(), "variant": "tiny test"}
    save_checkpoint(folder / "m.pth", net, about=about)
    float_graph = PIPELINE.onnx_from_model(deploy_form(net.eval(), SPEC), SPEC)
    onnx.save(float_graph, folder / "fp32.onnx")
    for number in range(VIDEOS):
        action = ACTIONS[number % len(ACTIONS)]
        place = folder / "videos" / f"c{number % 3}"
        place.mkdir(parents=True, exist_ok=True)
        images = render_clip(action, seed=number, num_frames=33, size=(36, 36)).images
        write_video(place / f"{number:02}.mp4", images)
    return folder


@pytest.fixture(scope="module")
def exported(folder: Path) -> Exported:
    request = ExportRequest(
        folder / "m.pth",
        folder / "int8.onnx",
        precision="int8",
        calibration=(folder / "videos",),
        report=folder / "report.json",
    )
    return export(request)


def test_one_file_in_int8_agrees_in_every_engine(folder: Path, exported: Exported) -> None:
    assert exported.artifact.precision == "int8"
    assert exported.verification.clips == 3 * 8  # the held-back videos, as many clips of each
    parity = exported.artifact.parity
    assert parity["thresholds"] == {"max_difference": None, "top1": 0.98}
    assert set(parity["engines"]) == set(installed_engines())
    assert parity["max_difference"] > 1e-3  # it is quantised
    assert exported.size_bytes < 0.7 * (folder / "fp32.onnx").stat().st_size
    assert json.loads((folder / "report.json").read_text()) == parity


def test_weights_are_int8_per_channel_and_activations_share_a_zero_point(
    folder: Path, exported: Exported
) -> None:
    graph = onnx.load(folder / "int8.onnx").graph
    values = {weight.name: numpy_helper.to_array(weight) for weight in graph.initializer}
    assert (values["zero_point"].dtype, values["zero_point"]) == (np.uint8, 128)
    assert exported.sensitivity is not None
    expected = set(layers_of(onnx.load(folder / "fp32.onnx"))) - set(exported.sensitivity.floats)
    makers = {node.output[-1]: node for node in graph.node}
    weights: dict[str, tuple[str, str, int]] = {}  # layer -> integers, scales, axis of outputs
    for node in graph.node:
        inputs = list(node.input)
        if node.op_type == "QTemporalContext":
            assert inputs[4] == "zero_point"
            weights[node.name] = (inputs[6], inputs[7], 0)
        elif node.op_type.startswith("QLinear"):
            assert inputs[-1] == "zero_point"
            for at in (i for i, name in enumerate(inputs) if name.endswith(".weight.int8")):
                assert makers[inputs[at - 2]].op_type.startswith("Q")
                assert values[inputs[at - 1]].size == 1
                assert not values[inputs[at + 2]].any()
                weights[inputs[at]] = (inputs[at], inputs[at + 1], 1)
        elif node.op_type in ("MatMul", "Conv") and node.name in expected:
            activation, weight = (makers[name] for name in inputs[:2])
            assert activation.input[2] == "zero_point"
            assert makers[activation.input[0]].op_type.startswith("Q")
            assert values[activation.input[1]].size == 1
            axis = 1 if node.op_type == "MatMul" else 0
            assert {a.name: a.i for a in weight.attribute}["axis"] == axis
            integers, scales, zeros = weight.input
            assert not values[zeros].any()
            weights[node.name] = (integers, scales, axis)
    assert len(weights) == len(expected)
    assert len(weights) > 20
    for integers, scales, axis in weights.values():
        assert values[integers].dtype == np.int8
        assert np.abs(values[integers]).max() <= 64
        assert values[scales].shape == (values[integers].shape[axis],)


def test_bytes_go_from_node_to_node(folder: Path, exported: Exported) -> None:
    """No QuantizeLinear follows a node that has a quantised twin, and each tensor has one."""
    graph = onnx.load(folder / "int8.onnx").graph
    makers = {value: node for node in graph.node for value in node.output}
    sources = [node.input[0] for node in graph.node if node.op_type == "QuantizeLinear"]
    assert len(sources) == len(set(sources))
    assert exported.sensitivity is not None
    # another one would leave a float32 reader to a node with a twin
    assert set(exported.sensitivity.floats) <= {"patch_embed.linear/MatMul"}
    assert {makers[source].domain for source in sources} <= {""}


def test_products_are_in_the_nodes_that_read_them(folder: Path) -> None:
    """Both stay apart where one is in float32, or where another node reads the product."""
    model = onnx.load(folder / "fp32.onnx")
    ranges = activation_ranges(model, [np.full((4, 32, 32, 3), 90, np.uint8)])

    def kinds(floats: tuple[str, ...], graph: onnx.ModelProto = model) -> dict[str, str]:
        found = quantise(graph, ranges, [n for n in layers_of(model) if n.endswith(floats)])
        return {node.name: node.op_type for node in found.graph.node}

    whole = kinds(("none",))
    # the last fc2: the head reads its norm in float32
    assert [name for name, kind in whole.items() if kind == "MatMul"] == [
        "layers.6.mlp.fc2/MatMul",
        "head/MatMul",
    ]
    counts = {kind: list(whole.values()).count(kind) for kind in set(whole.values())}
    assert {kind: n for kind, n in counts.items() if kind.startswith("QLinear")} == {
        "QLinearBias": 4 * 2,  # context and gates
        "QLinearBiasGelu": 4,
        "QLinearModulate": 4,
        "QLinearAddNorm": 4,
        "QLinearAddPatches": 3,
        "QLinearEmbedNorm": 4,
    }
    mixed = kinds(("layers.0.modulation.q/MatMul", "layers.2.mlp.fc2/MatMul"))
    assert mixed["layers.0.modulation.q/MatMul"] == "MatMul"
    assert mixed["layers.0.modulation.spatial.h/MatMul"] == "MatMul"  # one of three in float32
    assert mixed["layers.0.modulation/Modulate"] == "QModulate"
    assert mixed["layers.2.mlp.fc1/BiasGelu"] == "BiasGelu"  # it is read in float32
    assert mixed["layers.2.mlp.fc1/MatMul"] == "MatMul"
    read_twice = onnx.ModelProto()
    read_twice.CopyFrom(model)
    product = next(n for n in model.graph.node if n.name == "layers.0.mlp.fc1/MatMul").output[0]
    read_twice.graph.output.append(onnx.ValueInfoProto(name=product))
    assert kinds(("none",), read_twice)["layers.0.mlp.fc1/BiasGelu"] == "QBiasGelu"


def test_onnxruntime_computes_every_quantised_layer_in_integers(
    folder: Path, tmp_path: Path, exported: Exported
) -> None:
    assert exported.sensitivity is not None
    layers = set(layers_of(onnx.load(folder / "fp32.onnx"))) - set(exported.sensitivity.floats)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # it warns that such a file is for this machine alone
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    providers = ["CPUExecutionProvider"]
    onnxruntime.InferenceSession(folder / "int8.onnx", options, providers=providers)
    nodes = onnx.load(tmp_path / "optimised.onnx").graph.node
    makers = {name: node.op_type for node in nodes for name in node.output}
    for node in nodes:
        if node.op_type in ("MatMul", "Conv"):
            assert "DequantizeLinear" not in [makers.get(name) for name in node.input], node.name
    integer = [node for node in nodes if node.op_type in ("MatMulIntegerToFloat", "QLinearConv")]
    assert len(integer) == len(layers)  # each temporal context has one level


@pytest.mark.parametrize("float_kind", ["TemporalContext", "h/MatMul", "q/MatMul", "fc2", "embed"])
def test_any_layers_can_stay_in_float32(folder: Path, float_kind: str) -> None:
    model = onnx.load(folder / "fp32.onnx")
    clips = [np.random.default_rng(n).integers(0, 256, (4, 32, 32, 3), np.uint8) for n in (0, 1)]
    ranges = activation_ranges(model, clips)
    floats = [name for name in layers_of(model) if float_kind in name]
    assert floats
    mixed = quantise(model, ranges, floats)
    onnx.checker.check_model(mixed, full_check=True)
    kept = {n.name for n in mixed.graph.node if not n.op_type.startswith("Q")}
    assert set(floats) <= kept
    exact, found = logits_of(model, clips), logits_of(mixed, clips)
    assert np.abs(found - exact).max() < 0.1 * np.abs(exact).max()


def test_contexts_in_space_and_small_products_are_no_layers(folder: Path) -> None:
    model = onnx.load(folder / "fp32.onnx")
    layers = layers_of(model)
    assert sum(name.endswith("/TemporalContext") for name in layers) == 4
    left = {n.name for n in model.graph.node if n.op_type == "MatMul"} - set(layers)
    assert left == {"head/MatMul"}  # three classes


def test_every_layer_is_measured_and_the_summary_names_the_floats(
    folder: Path, exported: Exported
) -> None:
    sensitivity = exported.sensitivity
    assert sensitivity is not None
    layers = layers_of(onnx.load(folder / "fp32.onnx"))
    assert sorted(row.layer for row in sensitivity.layers) == sorted(layers)
    assert all(name in sensitivity.summary() for name in sensitivity.floats)
    assert "\n" not in sensitivity.summary()
    losses = [row.kl for row in sensitivity.layers]
    assert losses == sorted(losses, reverse=True)
    assert sensitivity.top1 >= 0.99
    reported = exported.artifact.parity["sensitivity"]["layers"]
    assert [n for n, row in reported.items() if row["precision"] == "fp32"] == list(
        sensitivity.floats
    )


def test_a_quarter_of_the_videos_is_never_calibrated_on(folder: Path) -> None:
    found = calibration_set((folder / "videos",), SPEC)
    assert len(found.held_back) == VIDEOS // 4
    assert found.held_back == calibration_set((folder / "videos",), SPEC).held_back
    assert len(found.clips) >= LEAST_CLIPS
    calibrated = {clip.tobytes() for clip in found.clips}
    assert len(calibrated) == len(found.clips)
    held_back = cut_clips(found.held_back, SPEC, views=found.views)
    assert calibrated.isdisjoint(clip.tobytes() for clip in held_back)


def test_ranges_are_those_of_the_clips(folder: Path, exported: Exported) -> None:
    model = onnx.load(folder / "fp32.onnx")
    clips = [np.full((4, 32, 32, 3), value, np.uint8) for value in (7, 90)]
    ranges = activation_ranges(model, clips, CalibrationMethod.MinMax)
    first = next(node for node in model.graph.node if node.op_type == "MatMul")
    assert ranges[first.input[0]] == 90
    floats = layers_of(model)
    assert quantise(model, ranges, floats) == model


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--precision", "int8"], "int8 needs clips to calibrate on; pass --calibration"),
        (["--calibration", "."], "precision fp32 takes no calibration"),
        (["--precision", "int8", "--calibration", "videos", "--compress"], "--compress is for"),
        (["--precision", "int8", "--calibration", "empty"], "no clip to calibrate on could be"),
        (["--precision", "int8", "--calibration", "bad"], "no clip to calibrate on could be"),
        (["--precision", "int8", "--calibration", "absent"], "no clip to calibrate on could be"),
        (
            [
                "--precision",
                "int8",
                "--calibration",
                "videos/c0/00.mp4",
                "videos/c1/01.mp4",
            ],
            "different clips of 2 videos to calibrate on, a quarter of them being held back; int8",
        ),
    ],
)
def test_bad_calibration_is_one_line_and_leaves_the_old_file(
    folder: Path,
    tmp_path: Path,
    arguments: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(folder)
    Path("empty").mkdir(exist_ok=True)
    Path("bad").mkdir(exist_ok=True)
    Path("bad/x.mp4").write_text("not a video")
    out = tmp_path / "x.onnx"
    out.write_bytes(b"the old one")
    assert main(["m.pth", "-o", str(out), *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("dvfl-export: error: ")
    assert message in line
    assert [path.name for path in tmp_path.iterdir()] == ["x.onnx"]
    assert out.read_bytes() == b"the old one"


def test_too_few_clips_are_counted(tmp_path: Path) -> None:
    for number in range(4):
        images = render_clip("bend", seed=number, num_frames=5, size=(36, 36)).images
        write_video(tmp_path / f"{number}.mp4", images)
    with pytest.raises(ExportError, match=r"there are \d+ different clips of 3 videos"):
        calibration_set((tmp_path,), SPEC)


def test_a_bad_quantisation_fails_and_writes_nothing(
    folder: Path,
    tmp_path: Path,
    exported: Exported,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """One scale of the file is wrong by a factor of 50, as of a layer that saturates."""

    def planted(model: onnx.ModelProto, ranges: object, floats: object) -> onnx.ModelProto:
        quantised = onnx.load(folder / "int8.onnx")
        scales = [
            weight
            for weight in quantised.graph.initializer
            if weight.name.endswith(".scale") and not weight.dims
        ]
        for scale in scales:
            assert scale.data_type == TensorProto.FLOAT
            value = numpy_helper.to_array(scale) / 50
            scale.CopyFrom(numpy_helper.from_array(np.asarray(value, np.float32), scale.name))
        del quantised.metadata_props[:]
        return quantised

    monkeypatch.setattr(PIPELINE, "quantise", planted)
    monkeypatch.setattr(PIPELINE, "measure_sensitivity", lambda *_: exported.sensitivity)
    out = tmp_path / "x.onnx"
    out.write_bytes(b"the old one")
    command = [str(folder / "m.pth"), "-o", str(out), "--precision", "int8"]
    assert main([*command, "--calibration", str(folder / "videos")]) == 3
    err = capsys.readouterr().err
    assert "nothing was written" in err
    for name in installed_engines():
        assert any(line.startswith(name) and line.endswith("FAILED") for line in err.splitlines())
    assert out.read_bytes() == b"the old one"


@needs_rtx
@pytest.mark.parametrize("batch", ["dynamic", "fixed"])
def test_tensorrt_builds_the_file(
    folder: Path, tmp_path: Path, exported: Exported, batch: str
) -> None:
    """Build the file that the other engines ran, for both GPUs in one plan."""
    model = onnx.load(folder / "int8.onnx")
    if batch == "fixed":
        for value in (*model.graph.input, *model.graph.output):
            value.type.tensor_type.shape.dim[0].dim_value = 1
    onnx.save(model, tmp_path / "m.onnx")
    assert rtx_build(tmp_path / "m.onnx", "SM86", "SM89")["plan_bytes"] > 100_000
