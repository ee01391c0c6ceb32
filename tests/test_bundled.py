"""The bundled model on the bundled clip: small, fast, self-describing and right."""

import json
import re
import statistics
from pathlib import Path

import numpy as np
import pytest

from dvfl_models.data.opening import open_clips
from dvfl_models.recipe.recipe import read_recipe
from dvfl_models.rendered.demo import DEMO_TIMELINE, demo_label
from dvfl_runtime import Recognizer
from dvfl_runtime.app.cli import main
from dvfl_runtime.recognizer import BUNDLED_MODEL


def seconds(clock: str) -> float:
    minutes, rest = clock.split(":") if ":" in clock else ("0", clock)
    return 60 * float(minutes) + float(rest)


@pytest.mark.parametrize("focus", ["frame", "motion"])
def test_the_demo_prints_the_right_timeline(focus: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--demo", "--focus", focus]) == 0
    rows = re.findall(r"^\s*([\d:.]+)\s+([\d:.]+)\s+(\w+)", capsys.readouterr().out, re.MULTILINE)
    segments = [(seconds(start), seconds(end), label) for start, end, label in rows]
    total_s = sum(duration for _, duration in DEMO_TIMELINE)
    moments = np.arange(0.05, total_s, 0.1)
    right = [
        any(start <= t < end and label == demo_label(t) for start, end, label in segments)
        for t in moments
    ]
    assert np.mean(right) >= 0.9, segments
    assert [label for _, _, label in segments] == [action for action, _ in DEMO_TIMELINE]


def test_the_model_says_what_it_was_trained_on_and_how_good_it_is() -> None:
    assert BUNDLED_MODEL.stat().st_size <= 12_000_000
    with Recognizer() as recognizer:
        artifact = recognizer.artifact
    assert artifact.labels == ("idle", "wave_one_hand", "wave_two_hands", "jumping_jack", "bend")
    assert "weizmann4" in artifact.training["data"]
    assert artifact.training["accuracy"]["synthetic"]["clips"] >= 500
    assert artifact.parity["max_difference"] < 1e-3


def test_rendered_clips_are_recognised_as_the_file_says() -> None:
    recipe = read_recipe("bundled_last")
    clips = open_clips(recipe.test[0], recipe)  # hard scenes
    with Recognizer() as recognizer:
        right = [
            recognizer.predict(clip).class_id == class_id
            for clip, class_id in (clips[index] for index in range(200))
        ]
        claimed = recognizer.artifact.training["accuracy"]["synthetic"]["top1"]
    assert np.mean(right) == pytest.approx(claimed, abs=0.04)


def test_a_clip_takes_less_than_60_ms_on_two_threads() -> None:
    clip = np.random.default_rng(0).integers(0, 255, (8, 240, 320, 3)).astype(np.uint8)
    with Recognizer(num_threads=2) as recognizer:
        times = [recognizer.predict(clip).latency_ms for _ in range(30)]
    assert statistics.median(times[5:]) < 60


def test_every_window_is_an_object_in_jsonl(tmp_path: Path) -> None:
    out = tmp_path / "demo.jsonl"
    assert main(["--demo", "--format", "jsonl", "-o", str(out)]) == 0
    windows = [json.loads(line) for line in out.read_text().splitlines()]
    assert len(windows) > 80
    assert all(window["end_s"] - window["start_s"] == pytest.approx(2.0) for window in windows)
