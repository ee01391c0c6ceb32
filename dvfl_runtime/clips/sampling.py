"""Which frames make a clip: pure functions of counts and times."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dvfl_runtime.errors import ArgumentError
from dvfl_runtime.errors.checks import check_number, check_whole


def uniform_indices(
    total_frames: int,
    num_frames: int,
    frame_interval: int = 1,
    *,
    view: int = 0,
    num_views: int = 1,
) -> NDArray[np.int64]:
    """Pick frames spread evenly over a trimmed video, as the official validation does.

    The video is cut into `num_frames` equal parts; temporal view k of K takes the frame at
    (k + 0.5) / K of each part, so a single view takes the centres.

    Args:
        total_frames: frames that were really decoded, not the number in a header.
        num_frames: T.
        frame_interval: the official sampler's interval, frames.
        view: k, counted from 0.
        num_views: K.

    Returns:
        (T,) indices in [0, total_frames), never decreasing; all 0 if the video is shorter than
        the interval.

    Raises:
        ArgumentError: if a number is out of its range.
    """
    check_whole("total_frames", total_frames)
    check_whole("num_frames", num_frames)
    check_whole("frame_interval", frame_interval)
    check_whole("num_views", num_views)
    check_whole("view", view, 0, num_views - 1)
    if total_frames <= frame_interval - 1:
        return np.zeros(num_frames, np.int64)
    part = (total_frames - frame_interval + 1) / num_frames
    offset = part / 2 if num_views == 1 else part * (view + 0.5) / num_views
    indices = (np.arange(num_frames) * part + offset).astype(np.int64)
    return np.clip(indices, 0, total_frames - 1)


def window_targets(start_s: float, window_s: float, num_frames: int) -> NDArray[np.float64]:
    """Return the (T,) centres, seconds, of the T equal parts of [start_s, start_s + window_s).

    Raises:
        ArgumentError: if `num_frames` < 1 or `window_s` <= 0.
    """
    check_whole("num_frames", num_frames)
    check_number("window_s", window_s, above=0)
    centres = (np.arange(num_frames, dtype=np.float64) + 0.5) * (window_s / num_frames)
    return np.asarray(start_s + centres, np.float64)


def nearest(times: ArrayLike, targets: ArrayLike) -> NDArray[np.int64]:
    """Return, for each of the (T,) targets, the index of the time nearest to it.

    Of two equally near times the earlier wins. Picking by time makes clips independent of the
    frame rate: within the span of the times, a pick is never further than half a frame interval
    from its target.

    Args:
        times: (N,) seconds, never decreasing.
        targets: (T,) seconds.

    Raises:
        ArgumentError: if there are no times.
    """
    t = np.asarray(times, np.float64)
    wanted = np.asarray(targets, np.float64)
    if t.size == 0:
        raise ArgumentError("times must not be empty")
    after = np.clip(np.searchsorted(t, wanted, side="left"), 0, t.size - 1)
    before = np.maximum(after - 1, 0)
    return np.where(np.abs(wanted - t[before]) <= np.abs(t[after] - wanted), before, after)


def interval_s(times: ArrayLike, otherwise_s: float) -> float:
    """Return the time between two frames, seconds: the median, or `otherwise_s` for a single one.

    Args:
        times: (N,) seconds, never decreasing.
        otherwise_s: the interval where no two times differ.
    """
    steps = np.diff(np.asarray(times, np.float64))
    steps = steps[steps > 0]
    return float(np.median(steps)) if steps.size else otherwise_s
