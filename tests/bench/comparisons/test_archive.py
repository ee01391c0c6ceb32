"""What dvfl-archive costs, measured small: the numbers are there and of the right kind."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from dvfl_bench.comparisons.archive_growth import main as growth
from dvfl_bench.comparisons.archive_overhead import links, short_clip
from dvfl_bench.comparisons.archive_overhead import main as overhead
from dvfl_runtime import Recognizer


def test_links_lead_to_a_clip_of_the_length_that_was_asked_for(tmp_path: Path) -> None:
    clip = short_clip(tmp_path / "clip.mp4", 2.0)
    paths = links(tmp_path / "links", clip, 3)
    with Recognizer(engine="onnxruntime", num_threads=1) as recognizer:
        ends = [list(recognizer.stream(path))[-1].end_s for path in paths]
    assert ends == [pytest.approx(2.0, abs=0.3)] * 3


@pytest.mark.parametrize("main", [growth, overhead])
def test_too_few_videos_are_one_error(
    main: Callable[[Sequence[str]], int], caplog: pytest.LogCaptureFixture
) -> None:
    option = "--most" if main is growth else "--videos"
    assert main([option, "5"]) == 2
    assert f"{option} must be " in caplog.text


@pytest.mark.slow
def test_bookkeeping_is_fitted(tmp_path: Path) -> None:
    out = tmp_path / "growth.json"
    assert growth(["--most", "1000", "--ids", "2000", "--clips", "1", "--json", str(out)]) == 0
    result = json.loads(out.read_text())
    assert [one["videos"] for one in result["growth"]] == [100, 1000]
    assert 0 < result["driver_us_per_video"] < 10_000
    assert result["runs_over_long_lists"][0]["parts"] * 100 >= 2000
    hours = [one["hours"] for one in result["large_archive"]]
    assert hours == sorted(hours, reverse=True)
