"""A short soak: an RTSP stream and a looped file together."""

import itertools
from pathlib import Path

import pytest
from streams import RtspServer, encode, number_of

from dvfl_bench.comparisons.soak import main, soak
from dvfl_bench.device.videos import LoopedVideo
from dvfl_runtime import Recognizer
from dvfl_runtime.recognizer import DEMO_CLIP
from dvfl_runtime.sources import open_source
from dvfl_runtime.sources.observed import ObservedSource

NUMBERS = 250


def test_a_looped_file(tmp_path: Path) -> None:
    out = tmp_path / "soak.json"
    main(["--minutes", "0.05", "--engine", "onnxruntime", "--json", str(out)])
    assert '"out_of_order": 0' in out.read_text()


def test_a_loop_goes_on_in_time_and_is_opened_again() -> None:
    loop = LoopedVideo(DEMO_CLIP)
    once = sum(1 for _ in open_source(DEMO_CLIP).frames())
    frames = list(itertools.islice(loop.frames(), 2 * once + 1))
    loop.close()
    assert [frame.index for frame in frames] == list(range(2 * once + 1))
    times = [frame.time_s for frame in frames]
    assert all(b - a < 0.1 for a, b in itertools.pairwise(times))
    assert times == sorted(set(times))


@pytest.mark.slow
def test_a_minute_of_rtsp_and_a_loop(tmp_path: Path) -> None:
    """The pictures carry numbers, so their order is that of the server, not of timestamps."""
    server = RtspServer(tmp_path, encode(tmp_path / "s", range(NUMBERS), 120, 160))
    seen: list[int] = []
    live = ObservedSource(
        open_source(server.url), lambda frame: seen.append(number_of(frame.image))
    )
    try:
        with Recognizer(engine="onnxruntime") as recognizer:
            result = soak(recognizer, [live, LoopedVideo(DEMO_CLIP)], 60.0)
    finally:
        server.kill()
    assert len(seen) > 500
    steps = [(b - a) % NUMBERS for a, b in itertools.pairwise(seen)]
    assert all(0 < step < NUMBERS // 2 for step in steps), "a picture came before the one before it"
    assert result["windows_out_of_order"] == 0
    assert [source["out_of_order"] for source in result["sources"]] == [0, 0]
    assert all(source["windows"] > 10 for source in result["sources"])
    assert len(set(result["files_first_last"])) == 1
    # of a minute only a leak that is quick can be seen; benchmarks/README.md has the long run
    assert result["rss_growth"] < 0.05
