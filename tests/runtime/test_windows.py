import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dvfl_runtime import SourceError
from dvfl_runtime.sampling import window_targets
from dvfl_runtime.windows import Windower


def picture(n: int) -> np.ndarray:
    return np.full((1, 1, 3), n % 256, np.uint8)


def run(times, num_frames=4, window_s=1.0, hop_s=None):
    """Returns the windows as (start, end, numbers of the pictures)."""
    windower = Windower(num_frames, window_s, hop_s)
    windows = [w for n, t in enumerate(times) for w in windower.push(picture(n), t)]
    windows += windower.finish()
    return [(w.start_s, w.end_s, w.clip[:, 0, 0, 0].tolist()) for w in windows]


def test_windows_follow_each_other_by_the_hop():
    got = run(np.arange(20) / 10, hop_s=0.5)
    assert [w[:2] for w in got] == [(0.0, 1.0), (0.5, 1.5), (1.0, 2.0)]
    assert got[0][2] == [1, 4, 6, 9]  # targets 0.125 0.375 0.625 0.875
    assert got[2][2] == [11, 14, 16, 19]


def test_a_window_comes_with_the_first_picture_at_or_after_its_end():
    windower = Windower(4, 1.0, 0.5)
    counts = [len(list(windower.push(picture(n), n / 4))) for n in range(8)]
    assert counts == [0, 0, 0, 0, 1, 0, 1, 0]
    assert [w.end_s for w in windower.finish()] == [2.0]


@pytest.mark.parametrize(("last_s", "end_s"), [(0.62, 0.87), (0.63, 1.0), (0.75, 1.0)])
def test_the_last_window_may_lack_half_an_interval(last_s, end_s):
    assert run([0.0, 0.25, 0.5, last_s])[-1][1] == pytest.approx(end_s)


def test_the_clock_of_the_source_need_not_start_at_zero():
    assert [w[:2] for w in run(100 + np.arange(30) / 10, hop_s=1.0)] == [
        (100.0, 101.0),
        (101.0, 102.0),
        (102.0, 103.0),
    ]


@pytest.mark.parametrize(
    ("count", "picks"),
    [(1, [0, 0, 0, 0]), (2, [0, 1, 1, 1]), (5, [1, 2, 3, 4]), (9, [1, 3, 6, 8])],
)
def test_a_short_stream_gives_one_window_over_what_there_is(count, picks):
    ((start, end, numbers),) = run(np.arange(count) / 10)
    assert start == 0.0
    assert end == pytest.approx(count / 10 if count > 1 else 0.25)
    assert numbers == picks


def test_no_pictures_give_no_window():
    assert run([]) == []


def test_a_gap_is_not_filled():
    times = [*(np.arange(20) / 10), *(1000 + np.arange(20) / 10)]
    got = run(times, hop_s=0.5)
    spans = [w[:2] for w in got]
    assert len(spans) < 15
    assert all(any(s <= t < e for t in times) for s, e in spans)
    assert spans[-1][1] == pytest.approx(1002.0)


def test_windows_that_are_not_taken_are_given_later():
    eager, lazy = Windower(4, 1.0), Windower(4, 1.0)
    wanted, got = [], []
    for n in range(80):
        time_s = n / 10 + (50 if n > 40 else 0)
        wanted += eager.push(picture(n), time_s)
        pending = lazy.push(picture(n), time_s)
        if n % 3 == 0 and (window := next(pending, None)) is not None:
            got.append(window)
    got += lazy.finish()
    wanted += eager.finish()
    assert [w.start_s for w in got] == [w.start_s for w in wanted]
    assert all((a.clip == b.clip).all() for a, b in zip(got, wanted, strict=True))


@pytest.mark.parametrize("fps", [6, 25, 28.052, 29.97, 60])
def test_picks_lie_within_half_a_frame_of_their_targets(fps):
    windower = Windower(8, 2.0)
    for n in range(int(9 * fps)):
        for window in windower.push(np.full((1, 1, 1), n, np.uint32), n / fps):  # type: ignore[arg-type]
            picked = window.clip[:, 0, 0, 0] / fps
            targets = window_targets(window.start_s, 2.0, 8)
            assert np.abs(picked - targets).max() <= 0.5 / fps + 1e-9


def test_the_buffer_is_bounded_by_the_window():
    windower = Windower(8, 2.0)
    longest = 0
    for n in range(3000):
        list(windower.push(picture(n), n / 30))
        longest = max(longest, len(windower))
    assert 50 < longest <= 62


@settings(max_examples=200, deadline=None)
@given(
    steps=st.lists(st.floats(0, 3), min_size=1, max_size=120),
    window_s=st.floats(0.2, 4),
    hop_part=st.floats(0.1, 1.5),
    num_frames=st.integers(1, 9),
)
def test_windows_are_regular_and_their_picks_are_the_nearest(steps, window_s, hop_part, num_frames):
    times = np.cumsum(steps)
    windower = Windower(num_frames, window_s, window_s * hop_part)
    windows = []
    for n, time_s in enumerate(times):
        fresh = list(windower.push(picture(n), float(time_s)))
        assert all(w.end_s <= time_s for w in fresh)
        windows += [(w, times[: n + 1]) for w in fresh]
    windows += [(w, times) for w in windower.finish()]
    assert windows
    starts = [w.start_s for w, _ in windows]
    assert starts == sorted(set(starts))
    assert starts[0] == times[0]
    for window, known in windows:
        assert ((known >= window.start_s) & (known < window.end_s)).any()
        length = window.end_s - window.start_s
        if len(windows) > 1:
            assert length == pytest.approx(window_s)
            turns = (window.start_s - starts[0]) / windower.hop_s
            assert turns == pytest.approx(round(turns), abs=1e-6)
        targets = window_targets(window.start_s, length, num_frames)
        best = np.abs(known[None] - targets[:, None]).min(axis=1)
        picks = window.clip[:, 0, 0, 0]
        assert np.abs(known[picks] - targets) == pytest.approx(best, abs=1e-9)


@pytest.mark.parametrize(
    "bad",
    [(0, 1.0, None), (4, 0.0, None), (4, float("nan"), None), (4, 1.0, 0.0), (4, 1.0, -1.0)],
)
def test_numbers_out_of_range_are_refused(bad):
    with pytest.raises(ValueError, match="must be"):
        Windower(*bad)


@pytest.mark.parametrize("time_s", [0.5, float("nan"), float("inf"), 1e300])
def test_times_that_make_no_sense_are_refused(time_s):
    windower = Windower(4, 1.0)
    list(windower.push(picture(0), 1.0))
    with pytest.raises(SourceError, match="must"):
        windower.push(picture(1), time_s)
