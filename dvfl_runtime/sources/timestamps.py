"""Turns the timestamps of a container or a camera into times that strictly increase."""

from __future__ import annotations

import math
from fractions import Fraction

# H.264 and H.265 reorder at most so many pictures: a timestamp further back is a restarted clock.
REORDER_DEPTH = 16

# A live timestamp may be this far from the machine's own clock: frames held up in a network come
# late in one burst, and a server may begin with the pictures of the last seconds. Seconds.
MAX_ERROR_S = 5.0
MAX_SLEW = 1e-3  # seconds per second: ten times the error of a bad crystal, too little to see
MIN_STEP_S = 1e-3


def next_time(stamp_s: float | None, last_s: float, step_s: float) -> float:
    """Return the time of the frame after the one at `last_s`.

    A timestamp after `last_s` is returned as it is. A missing one, and one from a clock that
    restarted, becomes one `step_s` later. One that is equal to `last_s` or slightly before it
    becomes half a step later, so that a good timestamp after it is still in the future and stays.

    Args:
        stamp_s: the container's timestamp, seconds; `None` if it has none.
        last_s: time of the frame before, seconds.
        step_s: the nominal time between two frames, seconds, > 0.
    """
    if stamp_s is not None and stamp_s > last_s:
        return stamp_s
    is_slightly_before = stamp_s is not None and last_s - stamp_s < REORDER_DEPTH * step_s
    repaired = last_s + (step_s / 2 if is_slightly_before else step_s)
    return max(repaired, math.nextafter(last_s, math.inf))


class FileTimestamps:
    """Turns the timestamps of one pass over a file into times that strictly increase.

    Args:
        time_base: seconds per tick of the timestamps.
        step_s: the nominal time between two frames, seconds, > 0.
        begin_s: the time of the first frame, seconds.
    """

    def __init__(self, time_base: Fraction, step_s: float, begin_s: float = 0.0) -> None:
        self._time_base = time_base
        self._step_s = step_s
        self._begin_s = begin_s
        self._origin: int | None = None  # timestamp at `begin_s`, ticks
        self._last_s: float | None = None
        self._left_out = 0

    def time_s(self, ticks: int | None, following: int | None = None, left_out: int = 0) -> float:
        """Return the time of the next frame, seconds.

        A timestamp far ahead of the one that follows is damaged and would shift all later frames,
        so it counts as missing. If the frames go on far before the last one, the clock restarted.

        Args:
            ticks: the frame's timestamp; `None` if it has none.
            following: the timestamp of the frame after it; `None` if that is not known.
            left_out: frames of the file so far that were left out. Where timestamps are missing,
                they take up time too.
        """
        missed, self._left_out = left_out - self._left_out, left_out
        if self._last_s is None:
            self._origin = ticks
            self._last_s = self._begin_s + (missed * self._step_s if ticks is None else 0.0)
            return self._last_s
        if self._origin is None and ticks is not None:  # the first timestamp continues the count
            counted_s = self._last_s + self._step_s - self._begin_s
            self._origin = ticks - round(counted_s / self._time_base)
        last_s, stamp_s, following_s = self._last_s, self._seconds(ticks), self._seconds(following)
        if stamp_s is not None and following_s is not None:
            far_s = REORDER_DEPTH * self._step_s
            stamp_s = None if last_s < following_s < stamp_s - far_s else stamp_s
        if stamp_s is None:
            last_s += missed * self._step_s
        self._last_s = next_time(stamp_s, last_s, self._step_s)
        return self._last_s

    def _seconds(self, ticks: int | None) -> float | None:
        if ticks is None or self._origin is None:
            return None
        base = self._time_base  # a product of fractions takes twice as long
        return self._begin_s + (ticks - self._origin) * base.numerator / base.denominator


class LiveTimestamps:
    """Turns the timestamps of a live source into times that follow the machine's own clock.

    The first frame is at 0.0. Timestamps give the distance between frames, because network delays
    do not reach them. The machine's clock gives the beginning of each connection, so that time goes
    on over an outage, and corrects the drift of the camera's clock by at most 0.1 %. A timestamp
    that is missing, negative, not after the one before or further than `MAX_ERROR_S` from the
    machine's clock is repaired: the frame gets the time of its arrival.

    Attributes:
        repaired: the number of repaired timestamps.
    """

    def __init__(self) -> None:
        self.repaired = 0
        self._first_ns: int | None = None
        self._last_s = -math.inf
        self._last_stamp_s = -math.inf
        self._offset_s: float | None = None  # time minus timestamp, in this connection

    def reconnected(self) -> None:
        """Expect timestamps with another origin from now on."""
        self._offset_s = None

    def time_s(self, stamp_s: float | None, arrival_ns: int) -> float:
        """Return the time of the next frame, seconds.

        Args:
            stamp_s: the source's timestamp, seconds from any origin; `None` if it has none.
            arrival_ns: when the frame arrived, in the nanoseconds of `time.monotonic_ns`.
        """
        if self._first_ns is None:
            self._first_ns = arrival_ns
        arrival_s = (arrival_ns - self._first_ns) / 1e9
        time_s = max(arrival_s, self._last_s + MIN_STEP_S)
        if stamp_s is None or not 0 <= stamp_s < math.inf:
            self.repaired += 1
        else:
            if self._offset_s is not None:
                stamped_s = stamp_s + self._offset_s
                error_s = arrival_s - stamped_s
                is_later = stamp_s > self._last_stamp_s and stamped_s > self._last_s
                if is_later and abs(error_s) <= MAX_ERROR_S:
                    slew_s = MAX_SLEW * (stamped_s - self._last_s)
                    time_s = stamped_s + min(max(error_s, -slew_s), slew_s)
                else:
                    self.repaired += 1
            self._last_stamp_s = stamp_s
            self._offset_s = time_s - stamp_s
        self._last_s = time_s
        return time_s

    def place_s(self, stamp_s: float | None, arrival_ns: int) -> float:
        """Return where a picture lies that is not yet decoded; after the first `time_s`."""
        assert self._first_ns is not None
        if stamp_s is None or self._offset_s is None:
            return (arrival_ns - self._first_ns) / 1e9
        return stamp_s + self._offset_s
