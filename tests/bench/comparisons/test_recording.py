"""What recording costs, measured for a moment."""

import json
from pathlib import Path

from dvfl_bench.comparisons.recording import main


def test_a_short_run_on_the_bundled_clip(tmp_path: Path) -> None:
    out = tmp_path / "recording.json"
    assert main(["--size", "320x240", "--seconds", "1", "--json", str(out)]) == 0
    result = json.loads(out.read_text())
    assert result["video_size"] == "320x240"
    assert result["written_bytes"] > 1000
    assert 0 < result["thread_percent"] + result["reading_percent"] < 10
