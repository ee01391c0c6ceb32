"""The calibration of confidence in an export: clips that were held back, negatives, wrong input."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from artifacts import coloured, write_colour_model
from videos import write_video

from dvfl_export import ExportRequest, export
from dvfl_export.cli import main
from dvfl_export.confidence.calibrating import calibrate_confidence, calibrate_own, in_words
from dvfl_export.confidence.measured import read_measured
from dvfl_export.eval_cli import main as eval_main
from dvfl_export.evaluation import description_of, open_candidate
from dvfl_export.pipeline import describe
from dvfl_models import build_model, save_checkpoint
from dvfl_models.network.checkpoint import model_of, read_checkpoint
from dvfl_models.network.video_focalnet import init_weights
from dvfl_models.recipe.recipe import read_recipe
from dvfl_runtime import ClipSpec, Recognizer
from dvfl_runtime.artifact import ModelFile
from dvfl_runtime.clips.labelled import find_labelled
from dvfl_runtime.errors import ExportError

SPEC = ClipSpec(num_frames=4, size=(32, 32), resize=36, window_s=1.0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint, a model of colours, clips of each colour, and videos of other colours."""
    path = tmp_path_factory.mktemp("confidence")
    write_colour_model(path / "colours.onnx")
    about = {"variant": "femto", "labels": ["red", "green", "blue"], "spec": SPEC.to_dict()}
    torch.manual_seed(0)  # the network of test_export.py, which is traced once for both
    network = build_model("femto", num_classes=3)
    init_weights(network, "xavier")
    save_checkpoint(path / "ours.pth", network.eval(), about=about)
    (path / "grey").mkdir()
    for colour in ("red", "green", "blue"):
        (path / "clips" / colour).mkdir(parents=True)
        for n in range(2):
            place = path / "clips" / colour / f"{n}.mp4"
            write_video(place, coloured((colour, 75)), pix_fmt="yuv444p")
    for n in range(3):
        frames = [np.full((32, 48, 3), (100 + 9 * n, 100, 104), np.uint8)] * 200
        write_video(path / "grey" / f"{n}.mp4", frames, pix_fmt="yuv444p")
    (path / "grey" / "bad.mp4").write_bytes(b"no video")
    return path


def test_weights_of_a_training_are_calibrated_before_they_become_a_file(folder: Path) -> None:
    videos = find_labelled(folder / "clips", [folder / "grey" / f"{n}.mp4" for n in range(3)])
    with open_candidate(folder / "ours.pth") as candidate:
        about = description_of(candidate)
        assert calibrate_own(about, candidate.scores, videos.of("red")) is None
        known = dataclasses.replace(about, labels=(*about.labels[:2], "idle"))
        own = [video for video in videos.videos if video.label != "blue"]
        found = calibrate_own(known, candidate.scores, own * 2)
    assert found is not None
    assert found.report["negatives"] >= 2 * 3 * 8
    assert found.report["clips"] == 2 * 4 * 3 + found.report["negatives"]
    assert {"ece_before", "ece_after", "negatives_called_actions"} <= set(found.report)


def test_false_alarms_of_a_checkpoint_are_counted_and_go_into_the_description(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result, labels = tmp_path / "r.json", ("red", "green", "blue")
    words = [folder / "ours.pth", folder / "clips", "--format", "folders", "--json", result]
    assert eval_main([*map(str, [*words, "--negatives", folder / "grey"])]) == 0
    alarms = json.loads(result.read_text())["false_alarms"]
    assert (alarms["videos"], alarms["left_out"], alarms["clips_of_actions"]) == (3, 1, 6)
    found = read_measured(result, labels)
    assert found["tests"]["clips"]["clips"] == 6
    assert found["false_alarms"]["per_hour_ci95"] == alarms["default"]["per_hour_ci95"]
    assert found["false_alarms"]["hours"] == alarms["hours"] > 0
    flat = tmp_path / "alarms.json"  # as the comparison of the benchmarks writes them
    flat.write_text(json.dumps({"labels": list(labels), **alarms}))
    assert read_measured(flat, labels) == {"false_alarms": found["false_alarms"]}

    weights, output = folder / "ours.pth", tmp_path / "m.onnx"
    checkpoint = read_checkpoint(weights)
    request = ExportRequest(weights, output, measured=result)
    assert describe(request, checkpoint, model_of(checkpoint)).training["measured"] == found
    for text, problem in (
        ('{"labels": ["a"]}', "is of a model with other labels"),
        ("{}", "has neither accuracies nor false alarms"),
        ("[]", "is no result of dvfl-eval --json"),
        ("{", "is no result of dvfl-eval --json"),
        ('{"tests": {"a": 3}}', "is no result of dvfl-eval --json"),
    ):
        result.write_text(text)
        with pytest.raises(ExportError, match=problem):
            read_measured(result, labels)
    capsys.readouterr()
    assert main([*map(str, (weights, "-o", output, "--measured", tmp_path))]) == 2
    assert f"--measured {tmp_path} cannot be used: Is a directory" in capsys.readouterr().err


def test_a_file_is_calibrated_on_windows_of_its_own_clips(folder: Path) -> None:
    file = ModelFile(folder / "colours.onnx")
    done: list[float] = []
    found = calibrate_confidence(file, folder / "clips", [folder / "grey"], done.append)
    assert found.report["clips"] == 6 * 3
    assert found.report["negatives"] >= 3 * 8
    assert found.report["rejected"] == 1
    assert "calibration error" in in_words(found)
    assert "unknown" in in_words(found)
    assert done[-1] == 1
    alone = calibrate_confidence(file, folder / "clips", [])
    assert alone.temperature == found.temperature
    assert alone.min_margin == 0


def test_what_each_run_held_out_is_shown_to_its_own_model(folder: Path, tmp_path: Path) -> None:
    index = tmp_path / "index.csv"
    rows = [f"{c}/{n}.mp4,{c},{n}" for c in ("red", "green", "blue") for n in range(2)]
    index.write_text("file,label,group\n" + "\n".join(rows) + "\n")
    held = {"kind": "videos", "name": "colours", "index": str(index), "root": str(folder / "clips")}
    recipe = read_recipe("order").model_dump(mode="json")
    recipe |= {"labels": ["red", "green", "blue"], "train": [held]}
    for group in "01":
        recipe["test"] = [held | {"only": {"group": [group]}}]
        (tmp_path / "runs" / group).mkdir(parents=True)
        (tmp_path / "runs" / group / "recipe.json").write_text(json.dumps(recipe))
        write_colour_model(tmp_path / "runs" / group / "model.onnx")
    file = ModelFile(folder / "colours.onnx")
    found = calibrate_confidence(file, tmp_path / "runs", [folder / "grey"])
    whole = calibrate_confidence(file, folder / "clips", [folder / "grey"])
    assert found.report["clips"] == whole.report["clips"] == 6 * 3
    assert found.min_margin == whole.min_margin
    assert found.report["negatives"] == whole.report["negatives"]


def test_the_export_writes_it_into_the_file_and_the_report(folder: Path) -> None:
    output, report = folder / "model.onnx", folder / "report.json"
    request = ExportRequest(
        folder / "ours.pth",
        output,
        report=report,
        held_back=folder / "clips",
        negatives=(folder / "grey",),
    )
    assert "calibrate confidence" in request.steps()
    exported = export(request)
    written = json.loads(report.read_text())
    found = exported.artifact.confidence_calibration
    assert found is not None
    assert written["confidence_calibration"]["temperature"] == found.temperature
    assert {"ece_before", "ece_after"} <= set(written["confidence_calibration"]["report"])
    assert written["passed"]
    with Recognizer(output) as recognizer:
        assert recognizer.artifact.confidence_calibration == found


def test_bad_input_is_one_error(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = ModelFile(folder / "colours.onnx")
    clips, red = folder / "clips", folder / "clips" / "red"
    other = write_colour_model(folder / "other.onnx", labels=("a", "b", "red"))
    with pytest.raises(ExportError, match="class 'blue', which is none of the model's"):
        calibrate_confidence(ModelFile(other), clips, [])
    with pytest.raises(ExportError, match="a held-back clip and one of the negatives"):
        calibrate_confidence(file, clips, [red])
    with pytest.raises(ExportError, match="there is no"):
        calibrate_confidence(file, clips, [folder / "none"])
    index = folder / "few.csv"
    index.write_text("file,label\nclips/red/0.mp4,red\nclips/blue/0.mp4,blue\n")
    with pytest.raises(ExportError, match="at least 10 held-back clips, got 6"):
        calibrate_confidence(file, index, [])
    words = [folder / "ours.pth", "-o", folder / "x.onnx", "--negatives", folder / "grey"]
    assert main([str(word) for word in words]) == 2
    assert "with --held-back CLIPS; pass both" in capsys.readouterr().err


def test_negatives_that_hold_the_actions_are_a_warning(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    again = folder / "again"
    again.mkdir()
    for colour in ("red", "green", "blue"):
        write_video(again / f"{colour}.mp4", coloured((colour, 250)), pix_fmt="yuv444p")
    file = ModelFile(folder / "colours.onnx")
    found = calibrate_confidence(file, folder / "clips", [again])
    assert found.min_margin == 0
    assert "look like the actions" in caplog.text
