from __future__ import annotations

import itertools
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dvfl_runtime.sources.timestamps import (
    MAX_ERROR_S,
    MIN_STEP_S,
    FileTimestamps,
    LiveTimestamps,
    next_time,
)

STEPS = st.floats(1e-3, 1.0)
TICKS = st.integers(-(10**9), 10**9)


def times(ticks: list[int | None], step_s: float) -> list[float]:
    timestamps = FileTimestamps(Fraction(1, 1000), step_s)
    return [timestamps.time_s(t) for t in ticks]


@given(st.lists(st.none() | TICKS, min_size=1, max_size=50), STEPS)
def test_repaired_times_start_at_zero_and_strictly_increase(ticks, step_s):
    result = times(ticks, step_s)
    assert result[0] == 0.0
    assert all(a < b for a, b in itertools.pairwise(result))


@given(st.lists(TICKS, min_size=1, max_size=50, unique=True).map(sorted), STEPS)
def test_increasing_times_are_untouched(ticks, step_s):
    assert times(ticks, step_s) == [float(Fraction(t - ticks[0], 1000)) for t in ticks]


@given(st.none() | st.floats(-1e9, 1e9), st.floats(-1e9, 1e9), STEPS)
def test_next_time_is_later(stamp_s, last_s, step_s):
    assert next_time(stamp_s, last_s, step_s) > last_s


def test_repairs():
    assert times([0, 40, 40, 80], 0.04) == [0, 0.04, 0.06, 0.08]  # a repeated timestamp
    assert times([0, None, 80], 0.04) == [0, 0.04, 0.08]  # a missing one
    assert times([None, None, 500, 540], 0.04) == pytest.approx([0, 0.04, 0.08, 0.12])
    restarted = times([0, 40, 2000, 0, 40], 0.04)
    assert restarted == pytest.approx([0, 0.04, 2.0, 2.04, 2.08])


def test_one_damaged_stamp_does_not_move_what_follows():
    def mended(ticks):
        timestamps = FileTimestamps(Fraction(1, 1000), 0.04)
        return [timestamps.time_s(t, after) for t, after in itertools.pairwise([*ticks, None])]

    hours = 5 * 3600 * 1000
    assert mended([0, 40, 80 + hours, 120, 160]) == pytest.approx([0, 0.04, 0.08, 0.12, 0.16])
    assert mended([0, 40, 80 + hours, 120 + hours]) == pytest.approx([0, 0.04, 18000.08, 18000.12])
    assert mended([0, 40, 2000, 0, 40]) == pytest.approx([0, 0.04, 2.0, 2.04, 2.08])
    assert mended([-80, -40, 0]) == pytest.approx([0, 0.04, 0.08])


def test_frames_that_were_left_out_take_their_time():
    timestamps = FileTimestamps(Fraction(1, 1000), 0.04)
    assert [timestamps.time_s(None, None, n) for n in (0, 0, 3, 3)] == pytest.approx(
        [0, 0.04, 0.2, 0.24]
    )
    late = FileTimestamps(Fraction(1, 1000), 0.04)
    assert [late.time_s(None, None, 2), late.time_s(None, None, 2)] == pytest.approx([0.08, 0.12])
    stamped = FileTimestamps(Fraction(1, 1000), 0.04)
    assert [stamped.time_s(t, None, n) for t, n in ((0, 0), (200, 4))] == pytest.approx([0, 0.2])


# --- live sources ----------------------------------------------------------------------------

SECOND_NS = 10**9
STAMPS = st.none() | st.floats(allow_nan=True, allow_infinity=True) | st.floats(0, 100)
ARRIVALS = st.lists(st.integers(0, 2 * SECOND_NS), min_size=1, max_size=60)


def live_times(stamps: list[float | None], arrivals_ns: list[int]) -> tuple[list[float], int]:
    timestamps = LiveTimestamps()
    result = [timestamps.time_s(s, a) for s, a in zip(stamps, arrivals_ns, strict=True)]
    return result, timestamps.repaired


@given(ARRIVALS, st.data())
def test_live_times_increase_and_stay_near_the_machines_clock(steps_ns, data):
    arrivals_ns = np.cumsum(steps_ns).tolist()
    timestamps = LiveTimestamps()
    last_s = -1.0
    for arrival_ns in arrivals_ns:
        if data.draw(st.booleans()):
            timestamps.reconnected()
        time_s = timestamps.time_s(data.draw(STAMPS), arrival_ns)
        assert time_s > last_s
        error_s = time_s - (arrival_ns - arrivals_ns[0]) / SECOND_NS
        assert -MAX_ERROR_S <= error_s <= MAX_ERROR_S + len(steps_ns) * MIN_STEP_S
        last_s = time_s
    assert 0 <= timestamps.repaired <= len(arrivals_ns)


@given(
    st.lists(st.floats(0.005, 0.5), min_size=2, max_size=50),
    st.floats(0, 1e6),
    st.lists(st.floats(0, 1), min_size=50, max_size=50),
)
def test_good_live_stamps_are_not_repaired_whatever_the_delays(steps_s, origin_s, delays_s):
    shown_s = np.cumsum([0.0, *steps_s])[:-1]
    arrivals_ns = np.maximum.accumulate(shown_s + delays_s[: len(shown_s)]) * SECOND_NS
    times_s, repaired = live_times((origin_s + shown_s).tolist(), arrivals_ns.astype(int).tolist())
    assert repaired == 0
    assert times_s[0] == 0
    np.testing.assert_allclose(times_s, shown_s, rtol=1.1e-3, atol=1e-6)


def test_live_repairs():
    def at(*seconds: float) -> list[int]:
        return [round(s * SECOND_NS) for s in seconds]

    steady = at(7, 7.04, 7.08, 7.12)
    assert live_times([3, 3.04, 3.08, 3.12], steady) == (pytest.approx([0, 0.04, 0.08, 0.12]), 0)
    assert live_times([None, None, None, None], steady) == (
        pytest.approx([0, 0.04, 0.08, 0.12]), 4,
    )  # fmt: skip
    assert live_times([-1, 3.04, 3.04, 3.12], steady) == (
        pytest.approx([0, 0.04, 0.08, 0.16], abs=1e-3),
        2,
    )
    assert live_times([9, 9.04, 0, 0.04], steady) == (pytest.approx([0, 0.04, 0.08, 0.12]), 1)
    assert live_times([0, 0.04, 100, 100.04], steady) == (
        pytest.approx([0, 0.04, 0.08, 0.12]), 1,
    )  # fmt: skip


def test_pictures_of_the_past_come_in_a_burst_and_keep_their_distance():
    times_s, repaired = live_times([0, 0.5, 1.0, 1.5, 1.54], [0, 1000, 2000, 3000, 4 * 10**7])
    assert (times_s, repaired) == (pytest.approx([0, 0.5, 1, 1.5, 1.54], abs=2e-3), 0)


def test_a_camera_whose_clock_is_wrong_by_a_ten_thousandth_never_drifts_away():
    timestamps = LiveTimestamps()
    week_s, step_s = 7 * 86400, 10
    for i in range(week_s // step_s):
        time_s = timestamps.time_s(i * step_s * 1.0001, i * step_s * SECOND_NS)
        assert abs(time_s - i * step_s) < 0.1
    assert timestamps.repaired == 0


def test_the_clock_goes_on_over_a_reconnection():
    timestamps = LiveTimestamps()
    assert timestamps.time_s(50.0, 0) == 0
    assert timestamps.time_s(50.04, 40_000_000) == pytest.approx(0.04)
    timestamps.reconnected()
    assert timestamps.time_s(0.0, 3 * SECOND_NS) == 3
    assert timestamps.time_s(0.04, 3 * SECOND_NS + 40_000_000) == pytest.approx(3.04)
    assert timestamps.repaired == 0
