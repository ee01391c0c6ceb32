import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from shared import REFERENCE, needs_shared

from dvfl_runtime.clips.sampling import interval_s, nearest, uniform_indices, window_targets


@needs_shared
def test_uniform_indices_are_those_of_the_official_pipeline():
    rows = json.loads((REFERENCE / "sampling.json").read_text())["rows"]
    assert len(rows) > 100
    for row in rows:
        got = uniform_indices(row["total_frames"], row["num_frames"], row["frame_interval"])
        assert got.tolist() == row["indices"], row


def test_temporal_views_lie_around_the_centre_one():
    views = [uniform_indices(800, 8, view=k, num_views=4).tolist() for k in range(4)]
    assert [v[0] for v in views] == [12, 37, 62, 87]
    assert views[2][1] == 162
    assert uniform_indices(800, 8, view=1, num_views=3).tolist() == uniform_indices(800, 8).tolist()


@given(
    st.integers(1, 5000),
    st.integers(1, 64),
    st.integers(1, 8),
    st.integers(1, 6),
    st.integers(0, 5),
)
def test_indices_are_in_range_and_ordered(total, num, interval, views, view):
    got = uniform_indices(total, num, interval, view=view % views, num_views=views)
    assert got.shape == (num,)
    assert got.min() >= 0
    assert got.max() < total
    assert (np.diff(got) >= 0).all()


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [((0, 8), {}), ((5, 0), {}), ((5, 8, 0), {}), ((5, 8), {"view": 1}), ((5, 8), {"view": -1})],
)
def test_numbers_out_of_range_are_refused(args, kwargs):
    with pytest.raises(ValueError, match="must be"):
        uniform_indices(*args, **kwargs)


def test_targets_are_the_centres_of_equal_parts():
    assert window_targets(1.0, 2.0, 4).tolist() == [1.25, 1.75, 2.25, 2.75]


def test_nearest_prefers_the_earlier_of_two_equally_near():
    assert nearest([0.0, 1.0, 2.0], [-1.0, 0.5, 0.51, 1.5, 9.0]).tolist() == [0, 0, 1, 1, 2]


@given(
    st.lists(st.floats(-100, 100), min_size=1, max_size=40).map(sorted),
    st.lists(st.floats(-120, 120), min_size=1, max_size=10),
)
def test_nothing_is_nearer_than_nearest(times, targets):
    picked = np.asarray(times)[nearest(times, targets)]
    best = np.abs(np.asarray(times)[None] - np.asarray(targets)[:, None]).min(axis=1)
    assert np.abs(picked - targets).tolist() == best.tolist()


@pytest.mark.parametrize("fps", [6, 25, 28.052, 29.97, 60])
def test_every_frame_rate_gives_the_same_clip(fps):
    times = np.arange(int(10 * fps)) / fps
    for start_s in (0.0, 0.5, 3.3, 7.0):
        targets = window_targets(start_s, 2.0, 8)
        assert np.abs(times[nearest(times, targets)] - targets).max() <= 0.5 / fps + 1e-9


def test_the_interval_is_the_median_of_the_steps_in_time():
    assert interval_s([0.0, 0.1, 0.1, 0.2, 0.9], 7.0) == pytest.approx(0.1)
    assert interval_s([3.0], 0.25) == interval_s([3.0, 3.0], 0.25) == 0.25


def test_empty_input_is_refused():
    with pytest.raises(ValueError, match="times must not be empty"):
        nearest([], [1.0])
    with pytest.raises(ValueError, match="window_s must be a finite number > 0"):
        window_targets(0.0, 0.0, 4)
