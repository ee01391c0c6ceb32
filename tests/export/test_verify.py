"""The verification catches one fault in the weights, the colours or the sampling."""

import json
import math
import sys
from contextlib import closing
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from bf16 import needs_bf16, on_a_cpu_without_bf16
from onnx import TensorProto, helper, numpy_helper
from shared import CLIPS, needs_shared

from dvfl_export import ExportRequest, VerificationFailed, export
from dvfl_export.cli import main
from dvfl_export.sample_clips import cut_clips, rendered_videos
from dvfl_export.verify import (
    THRESHOLDS,
    Agreement,
    Verification,
    pytorch_logits,
    verify,
    verify_bf16,
)
from dvfl_models import build_model, save_checkpoint
from dvfl_models.network.video_focalnet import VideoFocalNet, init_weights
from dvfl_runtime import ClipSpec
from dvfl_runtime.artifact import ModelFile
from dvfl_runtime.engines import installed_engines
from dvfl_runtime.errors import ArtifactError, EngineUnavailable, ExportError
from dvfl_runtime.sources import open_source

SPEC = ClipSpec(num_frames=4, size=(32, 32), resize=36, window_s=1.0)
ENGINES = installed_engines()


def model() -> VideoFocalNet:
    torch.manual_seed(0)
    net = build_model("femto", num_classes=6)
    init_weights(net, "xavier")
    return net.eval()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("verify")
    about = {"variant": "femto", "labels": list("abcdef"), "spec": SPEC.to_dict()}
    save_checkpoint(folder / "m.pth", model(), about=about)
    export(ExportRequest(folder / "m.pth", folder / "m.onnx"))
    return folder


def verified(file: Path, clips: list[np.ndarray]) -> Verification:
    """Compares the file on these clips with PyTorch on the rendered ones."""
    wanted = pytorch_logits(model(), cut_clips(rendered_videos(SPEC), SPEC), SPEC)
    return verify(ModelFile(file), wanted, clips, ENGINES)


def assert_caught(found: Verification) -> None:
    assert [row.engine for row in found.engines] == list(ENGINES)
    assert not any(row.passed for row in found.engines)


def test_the_file_as_it_was_exported_passes(folder: Path) -> None:
    found = verified(folder / "m.onnx", cut_clips(rendered_videos(SPEC), SPEC))
    assert found.passed
    assert all(row.max_difference < 1e-4 and row.top5 == 1.0 for row in found.engines)


def test_one_perturbed_weight_is_caught(folder: Path, tmp_path: Path) -> None:
    proto = onnx.load(folder / "m.onnx")
    weights = [w for w in proto.graph.initializer if len(w.dims) == 2]
    weight = weights[len(weights) // 2]
    values = numpy_helper.to_array(weight).copy()
    values[0, 0] += 0.5
    weight.CopyFrom(numpy_helper.from_array(values, weight.name))
    onnx.save(proto, tmp_path / "x.onnx")
    assert_caught(verified(tmp_path / "x.onnx", cut_clips(rendered_videos(SPEC), SPEC)))


def test_a_graph_that_reads_bgr_is_caught(folder: Path, tmp_path: Path) -> None:
    proto = onnx.load(folder / "m.onnx")
    for node in proto.graph.node:
        node.input[:] = ["bgr" if name == "clip" else name for name in node.input]
    order = helper.make_tensor("bgr_order", TensorProto.INT64, [3], [2, 1, 0])
    proto.graph.initializer.append(order)
    proto.graph.node.insert(0, helper.make_node("Gather", ["clip", "bgr_order"], ["bgr"], axis=4))
    onnx.save(proto, tmp_path / "x.onnx")
    assert_caught(verified(tmp_path / "x.onnx", cut_clips(rendered_videos(SPEC), SPEC)))


def test_a_decoder_that_gives_bgr_is_caught(folder: Path) -> None:
    videos = [np.ascontiguousarray(video[..., ::-1]) for video in rendered_videos(SPEC)]
    assert_caught(verified(folder / "m.onnx", cut_clips(videos, SPEC)))


def test_sampling_one_frame_late_is_caught(folder: Path) -> None:
    late = [np.concatenate([video[1:], video[-1:]]) for video in rendered_videos(SPEC)]
    assert_caught(verified(folder / "m.onnx", cut_clips(late, SPEC)))


def test_a_file_with_another_spec_than_asked_for_is_caught(folder: Path) -> None:
    wrong = ClipSpec(num_frames=4, size=(32, 32), resize=40, window_s=1.0)
    assert_caught(verified(folder / "m.onnx", cut_clips(rendered_videos(SPEC), wrong)))


@needs_shared
def test_sampling_one_frame_late_in_a_real_video_is_caught(folder: Path) -> None:
    with closing(open_source(CLIPS / "dvfl_golfswing.gif")) as source:
        frames = np.stack([frame.image for frame in source.frames()])
    wanted = pytorch_logits(model(), cut_clips([frames], SPEC), SPEC)
    file = ModelFile(folder / "m.onnx")
    assert verify(file, wanted, cut_clips([frames], SPEC), ENGINES).passed
    late = np.concatenate([frames[1:], frames[-1:]])
    assert_caught(verify(file, wanted, cut_clips([late], SPEC), ENGINES))


def test_the_command_prints_a_table_and_leaves_the_old_file(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out, report = tmp_path / "x.onnx", tmp_path / "report.json"
    out.write_bytes(b"the old one")
    monkeypatch.setitem(THRESHOLDS, "fp32", type(THRESHOLDS["fp32"])(0.0, 1.0))
    assert main([str(folder / "m.pth"), "-o", str(out), "--report", str(report)]) == 3
    err = capsys.readouterr().err
    assert "nothing was written" in err
    for name in ENGINES:
        assert any(line.startswith(name) and line.endswith("FAILED") for line in err.splitlines())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.json", "x.onnx"]
    assert out.read_bytes() == b"the old one"
    assert json.loads(report.read_text())["passed"] is False


@pytest.mark.parametrize(
    ("precision", "passing", "failing"),
    [
        ("fp32", (9e-4, 1.0), (2e-3, 1.0)),
        ("fp32", (0.0, 1.0), (0.0, 0.995)),
        ("fp16", (1.9e-2, 0.99), (2.1e-2, 1.0)),
        ("fp16", (0.0, 0.99), (0.0, 0.98)),
        ("bf16", (1.9e-2, 0.99), (2.1e-2, 1.0)),
        ("int8", (3.0, 0.98), (0.0, 0.97)),
    ],
)
def test_thresholds_of_each_precision(
    precision: str, passing: tuple[float, float], failing: tuple[float, float]
) -> None:
    threshold = THRESHOLDS[precision]
    assert threshold.holds(*passing)
    assert not threshold.holds(*failing)
    assert not threshold.holds(math.nan, 1.0)


def test_the_report_is_json_even_of_logits_that_are_not_finite() -> None:
    bad = Agreement("a", "1", "CPU", math.nan, math.inf, 0.5, 0.5, False)
    good = Agreement("b", "1", "CPU", 1e-6, 1e-9, 1.0, 1.0, True)
    found = Verification("fp32", 2, THRESHOLDS["fp32"], (good, bad), {"c": "why"})
    report = json.loads(json.dumps(found.report(), allow_nan=False))
    assert (report["max_difference"], report["top1"], report["passed"]) == (None, 0.5, False)
    assert report["engines"]["b"]["max_difference"] == 1e-6
    assert report["skipped"] == {"c": "why"}
    assert "a: not what PyTorch says on 2 clips" in str(VerificationFailed(found))


@needs_bf16
def test_bf16_is_verified_too_and_fails_no_export(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(THRESHOLDS, "bf16", type(THRESHOLDS["bf16"])(1e-6, 0.0))
    out = tmp_path / "x.onnx"
    assert main([str(folder / "m.pth"), "-o", str(out)]) == 0
    parity = ModelFile(out).artifact.parity
    found = parity["bf16"]
    assert (parity["passed"], found["passed"]) == (True, False)
    assert 1e-5 < found["engines"]["openvino"]["max_difference"] == found["max_difference"] < 0.1
    shown = capsys.readouterr().out
    assert "in bf16 on openvino: |difference| " in shown
    assert "beyond the limits of fp16" in shown
    assert "dvfl-eval --precision bf16" in shown
    assert "openvino bf16 " in next(line for line in shown.splitlines() if "ms per clip" in line)


@needs_bf16
def test_bf16_that_is_good_enough(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(THRESHOLDS, "bf16", type(THRESHOLDS["bf16"])(0.1, 0.9))
    clips = cut_clips(rendered_videos(SPEC, count=2), SPEC)
    wanted = pytorch_logits(model(), clips, SPEC)
    found = verify_bf16(ModelFile(folder / "m.onnx"), wanted, clips, ENGINES)
    assert found is not None
    assert found.passed
    assert [row.engine for row in found.engines] == ["openvino"]


def test_where_it_cannot_be_had_nothing_is_said_of_bf16(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_a_cpu_without_bf16(monkeypatch)
    file, clips = ModelFile(folder / "m.onnx"), cut_clips(rendered_videos(SPEC), SPEC)
    assert verify_bf16(file, np.zeros((len(clips), 6), np.float32), clips, ENGINES) is None


def test_no_engine_is_an_error(folder: Path) -> None:
    file = ModelFile(folder / "m.onnx")
    with pytest.raises(ExportError, match="pip install onnxruntime"):
        verify(file, np.zeros((1, 6), np.float32), [np.zeros((4, 32, 32, 3))], [])


def test_an_engine_that_cannot_be_used_is_left_out_and_told(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    found = verified(folder / "m.onnx", cut_clips(rendered_videos(SPEC), SPEC))
    assert found.passed
    assert [row.engine for row in found.engines] == ["onnxruntime"]
    assert "openvino" in found.skipped["openvino"]
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(EngineUnavailable, match="onnxruntime"):
        verified(folder / "m.onnx", cut_clips(rendered_videos(SPEC), SPEC))


def test_logits_of_another_shape_are_an_error(folder: Path) -> None:
    wanted = np.zeros((1, 7), np.float32)
    clips = cut_clips(rendered_videos(SPEC, count=1), SPEC)
    with pytest.raises(ArtifactError, match=r"shape \(1, 6\) in .* wanted \(1, 7\)"):
        verify(ModelFile(folder / "m.onnx"), wanted, clips[:1], ENGINES)
