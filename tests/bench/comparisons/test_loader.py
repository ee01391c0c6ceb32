"""The cost of a training clip, measured on a small video."""

import json
from pathlib import Path

import pytest

from dvfl_bench.comparisons.loader import OURS, VideoFormat, main


@pytest.mark.slow
def test_a_short_run_of_this_version_against_itself(tmp_path: Path) -> None:
    out = tmp_path / "loader.json"
    tiny = VideoFormat("mpeg4", (64, 48), 30, 25, {"g": "12"})
    arguments = ["--rounds", "1", "--json", str(out), "--before", str(OURS)]
    assert main(arguments, {"tiny.avi": tiny}, tiny) == 0
    result = json.loads(out.read_text())
    whole, window = result["rows"]
    assert (whole["video"], whole["frames"], whole["keyframes"]) == ("tiny.avi", 30, 3)
    assert window["window_s"] == [1.2, 6.0]
    for row in (whole, window):
        assert row["times_later"] > 0.1
        assert row["after"]["first_ms"] > 0
    assert set(result["memory_growth_mb"]) == {"64px", "224px"}
