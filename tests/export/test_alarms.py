"""False alarms per hour beside the actions found: counts, intervals, and the command."""

import dataclasses
import json
from pathlib import Path

import pytest
from artifacts import SPEC, coloured, write_colour_model
from predictions import LABELS, waving
from videos import write_video

from dvfl_export.confidence.alarms import Watched, alarm_curve, in_words, poisson_interval
from dvfl_export.eval_cli import main


@pytest.mark.parametrize(
    ("count", "low", "high"),
    [(0, 0, 3.689), (1, 0.0253, 5.572), (5, 1.623, 11.668), (100, 81.36, 121.63)],
)
def test_intervals_are_those_of_published_tables(count, low, high):
    assert poisson_interval(count) == pytest.approx((low, high), rel=1e-3, abs=1e-3)


def test_alarms_and_recall_fall_as_the_threshold_rises():
    negatives = Watched([waving(*[0.1] * 30, 0.6, 0.6, *[0.1] * 30, 0.96, 0.96, 0.1)], [""])
    positives = Watched(
        [waving(0.97, 0.97), waving(0.7, 0.7), waving(0.1)], ["wave", "wave", "idle"]
    )
    found = alarm_curve(LABELS, negatives, positives, (0.5, 0.9, 0.99))
    assert [p["alarms"] for p in found["curve"]] == [2, 1, 0]
    assert [p["recall"] for p in found["curve"]] == [1.0, 0.5, 0.0]
    assert found["default"]["enter"] == 0.9
    assert found["clips_of_actions"] == 2
    hours = 66 / 3600
    assert found["hours"] == pytest.approx(hours, rel=0.01)
    assert found["curve"][1]["per_hour"] == pytest.approx(1 / hours, rel=0.05)
    low, high = found["curve"][1]["per_hour_ci95"]
    assert low < found["curve"][1]["per_hour"] < high
    assert "default" in in_words(found)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of colours, clips of its classes, and videos without its actions but for one."""
    path = tmp_path_factory.mktemp("alarms")
    spec = dataclasses.replace(SPEC, size=(32, 32), resize=32)
    write_colour_model(path / "m.onnx", labels=("idle", "green", "blue"), spec=spec)
    rows = ["file,label"]
    for name, colour in (("idle", "red"), ("green", "green"), ("blue", "blue")):
        write_video(path / f"{name}.mp4", coloured((colour, 50)), pix_fmt="yuv444p")
        rows.append(f"{name}.mp4,{name}")
    (path / "index.csv").write_text("\n".join(rows))
    (path / "far").mkdir()
    calm, alarming = coloured(("red", 150)), coloured(("red", 75), ("green", 50), ("red", 50))
    write_video(path / "far" / "calm.mp4", calm, pix_fmt="yuv444p")
    write_video(path / "far" / "alarming.mp4", alarming, pix_fmt="yuv444p")
    write_video(path / "far" / "short.mp4", coloured(("red", 50)), pix_fmt="yuv444p")
    (path / "far" / "bad.mp4").write_bytes(b"no video")
    short = [f"far/s{n}.mp4" for n in range(4)]
    for name in short:
        write_video(path / name, coloured(("green", 40)), pix_fmt="yuv444p")
    (path / "scenes.csv").write_text("file,scene\n" + "\n".join(f"{name},1" for name in short))
    return path


def test_the_command_counts_prints_and_draws(folder, tmp_path, capsys):
    out, picture = tmp_path / "a.json", tmp_path / "a.png"
    words = [folder / "m.onnx", folder / "index.csv", "--negatives", folder / "far"]
    assert main([*map(str, [*words, "--json", out, "--alarms", picture])]) == 0
    found = json.loads(out.read_text())["false_alarms"]
    assert (found["videos"], found["left_out"], found["clips_of_actions"]) == (2, 6, 2)
    assert (found["default"]["alarms"], found["default"]["recall"]) == (1, 1.0)
    assert found["hours"] == pytest.approx(13 / 3600, rel=0.02)
    assert "of 2 videos without the actions, 6 left out" in capsys.readouterr().out
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_clips_of_one_scene_are_joined(folder, tmp_path, capsys):
    out = tmp_path / "a.json"
    words = [folder / "m.onnx", folder / "index.csv", "--negatives", folder / "scenes.csv"]
    assert main([*map(str, [*words, "--json", out])]) == 0
    found = json.loads(out.read_text())["false_alarms"]
    assert (found["videos"], found["default"]["alarms"]) == (1, 1)
    assert found["hours"] == pytest.approx(4 * 1.6 / 3600, rel=0.02)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["m.onnx", "index.csv", "--negatives", "none"], "there is no "),
        (["m.onnx", "index.csv", "--negatives", "far/short.mp4"], "has 5 s or more"),
        (["m.onnx", "index.csv", "--negatives", "index.csv"], "columns file and scene"),
        (["m.onnx", "index.csv", "--alarms", "a.png"], "pass both"),
    ],
)
def test_bad_input_is_one_error(folder, words, message, capsys, monkeypatch):
    monkeypatch.chdir(folder)
    assert main(words) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()[-1:]
    assert message in line
