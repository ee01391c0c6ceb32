"""The stopwatch of a whole stream and of its parts."""

import json
from pathlib import Path
from typing import Any

import pytest

from dvfl_bench.comparisons import overlap, soak
from dvfl_bench.comparisons.overlap import main
from dvfl_runtime.recognizer import BUNDLED_MODEL


def test_a_short_run_on_the_bundled_clip(tmp_path: Path) -> None:
    out = tmp_path / "overlap.json"
    arguments = ["--windows", "6", "--rounds", "1", "--engine", "onnxruntime", "--json", str(out)]
    arguments += ["--scale-to", "320x240"]
    assert main([str(BUNDLED_MODEL), *arguments]) == 0
    result = json.loads(out.read_text())
    assert result["stream_per_s"] > 0
    assert result["video_size"] == "320x240"
    ratio = result["stream_per_s"] / result["inference_per_s"]
    assert result["stream_to_inference"] == pytest.approx(ratio, rel=0.05)
    assert result["engine"].startswith("onnxruntime ")
    assert result["precision"] == "fp32"


@pytest.mark.parametrize("command", [[overlap.main, BUNDLED_MODEL], [soak.main, "--minutes", "1"]])
def test_the_precision_is_that_of_the_engine(
    command: list[Any], caplog: pytest.LogCaptureFixture
) -> None:
    main, *words = command
    assert main([*map(str, words), "--engine", "onnxruntime", "--precision", "bf16"]) == 2
    assert "does not compute in bf16; pass --engine openvino, or --precision file" in caplog.text


def test_a_video_that_is_too_short_is_one_error(caplog: pytest.LogCaptureFixture) -> None:
    assert main([str(BUNDLED_MODEL), "--windows", "1000", "--rounds", "1"]) == 2
    assert "windows, wanted 1001; pass --windows" in caplog.text
