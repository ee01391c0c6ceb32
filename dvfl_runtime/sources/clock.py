"""Timestamps of a container as times that strictly increase, without decoding anything."""

from __future__ import annotations

import math
from fractions import Fraction

# H.264 and H.265 reorder at most 16 pictures: a stamp further back than that is a restarted clock.
REORDER_DEPTH = 16


def next_time(stamp_s: float | None, last_s: float, step_s: float) -> float:
    """Returns the time of the frame after the one at `last_s`.

    A stamp later than `last_s` is returned as it is. A missing one, and one from a clock that
    started again, becomes one `step_s` later. A stamp that is the same or slightly behind becomes
    half a step later, so that the good stamp that follows is still in the future and stays.

    Args:
        stamp_s: the container's stamp, seconds; `None` if it has none.
        last_s: time of the frame before, seconds.
        step_s: the nominal time between two frames, seconds, > 0.
    """
    if stamp_s is not None and stamp_s > last_s:
        return stamp_s
    slightly_behind = stamp_s is not None and last_s - stamp_s < REORDER_DEPTH * step_s
    repaired = last_s + (step_s / 2 if slightly_behind else step_s)
    return max(repaired, math.nextafter(last_s, math.inf))


class Clock:
    """Turns the stamps of one pass over a file into times that start at 0.0.

    Args:
        time_base: seconds per tick of the stamps.
        step_s: the nominal time between two frames, seconds, > 0.
    """

    def __init__(self, time_base: Fraction, step_s: float) -> None:
        self._time_base = time_base
        self._step_s = step_s
        self._origin: int | None = None
        self._last_s: float | None = None

    def time_s(self, ticks: int | None) -> float:
        """Returns the time of the next frame from its stamp, `None` if it has none."""
        if self._last_s is None:
            self._origin = ticks
            self._last_s = 0.0
            return 0.0
        if ticks is None:
            stamp_s = None
        else:
            if self._origin is None:  # the first stamp of the file: it continues what was counted
                self._origin = ticks - round((self._last_s + self._step_s) / self._time_base)
            stamp_s = float((ticks - self._origin) * self._time_base)
        self._last_s = next_time(stamp_s, self._last_s, self._step_s)
        return self._last_s
