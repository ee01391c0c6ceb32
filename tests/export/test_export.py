"""dvfl-export: checkpoint in, verified artifact out, or one clear error and no file."""

import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from shared import CLIPS, REFERENCE, needs_shared

from dvfl_export import ExportRequest, VerificationFailed, export
from dvfl_export import export as export_function
from dvfl_export.cli import main
from dvfl_models import build_model, save_checkpoint
from dvfl_models.evaluate import to_batch
from dvfl_models.labels import DATASETS, read_labels
from dvfl_models.synthetic import render_clip
from dvfl_models.video_focalnet import VideoFocalNet, init_weights
from dvfl_runtime import ClipSpec, Recognizer
from dvfl_runtime.engines import installed_engines
from dvfl_runtime.errors import CheckpointError, ExportError, OutputError

SPEC = ClipSpec(num_frames=4, size=(32, 32), resize=36, window_s=1.0)
LABELS = ["walk", "run", "jump"]


def model() -> VideoFocalNet:
    torch.manual_seed(0)
    net = build_model("femto", num_classes=3)
    init_weights(net, "xavier")
    return net.eval()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a checkpoint of ours, a plain one, and an artifact."""
    folder = tmp_path_factory.mktemp("export")
    about = {"variant": "femto", "labels": LABELS, "spec": SPEC.to_dict(), "training": {"a": 1}}
    save_checkpoint(folder / "ours.pth", model(), about=about)
    torch.save({"model": model().state_dict()}, folder / "official.pth")
    export(ExportRequest(folder / "ours.pth", folder / "model.onnx"))
    return folder


def test_the_artifact_says_what_pytorch_says(folder: Path) -> None:
    clip = render_clip("bend", seed=3, num_frames=4, size=(32, 32))
    with torch.inference_mode():
        logits = model()(to_batch([clip], SPEC))[0]
    with Recognizer(folder / "model.onnx") as recognizer:
        assert recognizer.spec == SPEC
        assert recognizer.labels == tuple(LABELS)
        scores = recognizer.predict(np.pad(clip, ((0, 0), (2, 2), (2, 2), (0, 0)))).scores
    np.testing.assert_allclose(scores, torch.softmax(logits, 0).numpy(), atol=1e-4)


def test_the_artifact_describes_itself(folder: Path) -> None:
    proto = onnx.load(folder / "model.onnx")
    onnx.checker.check_model(proto)
    about = json.loads({p.key: p.value for p in proto.metadata_props}["dvfl"])
    assert about["variant"] == "femto"
    assert about["training"] == {"a": 1}
    assert about["parity"]["max_difference"] < 1e-3
    assert about["parity"]["top1"] == 1.0
    assert set(about["parity"]["engines"]) == set(installed_engines())
    assert len(about["source_sha256"]) == 64
    assert set(about["tools"]) >= {"dvfl", "torch", "onnx"}


def test_an_official_checkpoint_needs_labels_alone(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("\n".join(LABELS))
    request = ExportRequest(
        folder / "official.pth", tmp_path / "x.onnx", labels=str(tmp_path / "names.txt"), spec=SPEC
    )
    assert export(request).artifact.variant == "femto"


@needs_shared
def test_verification_on_real_videos(folder: Path, tmp_path: Path) -> None:
    clips = (CLIPS / "dvfl_golfswing.gif", CLIPS / "mm_ntu.avi")
    exported = export(ExportRequest(folder / "ours.pth", tmp_path / "x.onnx", clips=clips))
    assert exported.verification.clips == 2


def test_a_wrong_graph_is_caught_and_nothing_is_written(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "x.onnx").write_bytes(b"the old one")

    def perturbed(net: VideoFocalNet, spec: ClipSpec, *, ops: str) -> torch.nn.Module:
        with torch.no_grad():
            deployed = deploy_form(net, spec, ops=ops)
            deployed.head.bias[0] += 0.01
        return deployed

    module = __import__("sys").modules[export_function.__module__]
    deploy_form = module.deploy_form
    monkeypatch.setattr(module, "deploy_form", perturbed)
    with pytest.raises(VerificationFailed, match=r"FAILED"):
        export(ExportRequest(folder / "ours.pth", tmp_path / "x.onnx"))
    assert [p.name for p in tmp_path.iterdir()] == ["x.onnx"]
    assert (tmp_path / "x.onnx").read_bytes() == b"the old one"


def request(folder: Path, tmp_path: Path, **changes: object) -> ExportRequest:
    return dataclasses.replace(
        ExportRequest(folder / "official.pth", tmp_path / "x.onnx", spec=SPEC), **changes
    )


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({}, CheckpointError, "holds no class names; pass --labels"),
        ({"labels": "ucf101"}, CheckpointError, "101 labels for a checkpoint with 3 classes"),
        ({"labels": "nonsense"}, CheckpointError, "cannot read labels 'nonsense'"),
        ({"variant": "nano"}, CheckpointError, "these weights fit variant 'femto'"),
        ({"variant": "huge"}, CheckpointError, "unknown variant 'huge'"),
        ({"checkpoint": Path("absent.pth")}, CheckpointError, r"no checkpoint at absent\.pth"),
        ({"output": Path("absent/x.onnx")}, OutputError, "existing, writable folder"),
    ],
)
def test_bad_input_leaves_nothing(
    folder: Path, tmp_path: Path, changes: dict, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        export(request(folder, tmp_path, **changes))
    assert list(tmp_path.iterdir()) == []


def test_no_clip_to_verify_with(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "fake.mp4").write_text("not a video")
    with pytest.raises(ExportError, match="no clip to verify with could be decoded"):
        export(ExportRequest(folder / "ours.pth", tmp_path / "x.onnx", clips=(tmp_path,)))


def test_command(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "x.onnx"
    report = tmp_path / "report.json"
    command = [str(folder / "ours.pth"), "-o", str(out), "--window-s", "3"]
    assert main([*command, "--report", str(report)]) == 0
    printed = capsys.readouterr()
    rows = [line.split() for line in printed.out.splitlines()]
    for name in installed_engines():
        (row,) = (row for row in rows if row and row[0] == name)
        assert row[-3:] == ["100.0%", "100.0%", "ok"]
        assert re.search(rf"median ms per clip .*{name} \d", printed.out)
    assert "verify" in printed.err
    with Recognizer(out) as recognizer:
        assert recognizer.spec == dataclasses.replace(SPEC, window_s=3.0)
        assert recognizer.artifact.parity == json.loads(report.read_text())
    for wrong in (["none.pth", "-o", "x.onnx"], [str(folder / "ours.pth"), "-o", "x.txt"]):
        assert main(wrong) == 2
        error = capsys.readouterr().err.splitlines()[-1]
        assert error.startswith("dvfl-export: error: ")


def test_a_checkpoint_of_objects_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save({"model": Path}, tmp_path / "evil.pth")
    assert main([str(tmp_path / "evil.pth"), "-o", str(tmp_path / "x.onnx")]) == 2
    assert "could run code" in capsys.readouterr().err
    assert not (tmp_path / "x.onnx").exists()


@needs_shared
@pytest.mark.parametrize("name", DATASETS)
def test_labels_of_the_published_data_sets(name: str) -> None:
    assert list(read_labels(name)) == json.loads(
        (REFERENCE / "labels" / f"{name}.json").read_text()
    )
