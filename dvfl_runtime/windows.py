"""Cuts a stream of timed pictures into overlapping windows, by time and never by frame count."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dvfl_runtime.errors import SourceError
from dvfl_runtime.sampling import nearest, window_targets

Image = NDArray[np.uint8]

MIN_HOP_S = 0.001  # a guard against a hop that is a typing error, not a limit of the method
MAX_TIME_S = 1e10  # beyond it a float cannot tell one frame from the next (Unix time is 2e9)


@dataclass(frozen=True, eq=False)
class Window:
    """One clip and the span of time [start_s, end_s) that it was sampled from.

    Attributes:
        clip: (T, H, W, 3) uint8 RGB.
        start_s: start on the source's clock, seconds.
        end_s: end, seconds.
    """

    clip: Image
    start_s: float
    end_s: float


class Windower:
    """Takes preprocessed pictures one by one and gives windows as they become complete.

    Window k is [first + k * hop_s, first + k * hop_s + window_s), where `first` is the time of the
    first picture. Its clip holds, for the centre of each of its T equal parts, the picture nearest
    in time, which may lie just outside the window when the frame rate is low.

    - A window is complete when a picture at or after its end has arrived.
    - At the end of the stream (`finish`), a window is complete too if the last picture, shown for
      one frame interval, reaches the window's end to within half an interval.
    - A stream that completes no window at all gives one over what there is: [first, last +
      interval). The interval is the median over the buffer, or window_s / T for a single picture.
    - A window in which no picture lies (a gap in time) is left out.

    Pictures are kept only while a coming window can need them, so memory is bounded by the
    window and not by the stream.

    Args:
        num_frames: T.
        window_s: length of a window, seconds.
        hop_s: distance of two windows' starts, seconds; a quarter of the window by default.

    Raises:
        ValueError: if a number is out of its range.
    """

    def __init__(self, num_frames: int, window_s: float, hop_s: float | None = None) -> None:
        hop_s = window_s / 4 if hop_s is None else hop_s
        if num_frames < 1:
            raise ValueError(f"num_frames must be >= 1, got {num_frames}")
        if not (math.isfinite(window_s) and window_s > 0):
            raise ValueError(f"window_s must be a finite number > 0, got {window_s}")
        if not (math.isfinite(hop_s) and hop_s >= MIN_HOP_S):
            raise ValueError(f"hop_s must be a finite number >= {MIN_HOP_S}, got {hop_s}")
        self.num_frames = num_frames
        self.window_s = window_s
        self.hop_s = hop_s
        self._images: list[Image] = []
        self._times: list[float] = []
        self._first_s = 0.0
        self._next = 0  # number of the next window
        self._given = False

    def __len__(self) -> int:
        """Returns the number of pictures held."""
        return len(self._times)

    def push(self, image: Image, time_s: float) -> Iterator[Window]:
        """Takes the next picture and returns the windows that it completes.

        A window that the caller does not take from the iterator is given by the next call.

        Raises:
            SourceError: if the time is no sensible number, or lies before the previous one.
        """
        if not abs(time_s) <= MAX_TIME_S:
            raise SourceError(f"a frame's time_s must be a number of seconds, got {time_s}")
        if self._times and time_s < self._times[-1]:
            raise SourceError(
                f"frame times must not go back, got {time_s:.3f} s after {self._times[-1]:.3f} s; "
                "sort the frames by time_s"
            )
        if not self._times:
            self._first_s = time_s
        self._forget()
        self._images.append(image)
        self._times.append(time_s)
        return self._complete(time_s)

    def finish(self) -> Iterator[Window]:
        """Returns the windows that the end of the stream completes; see the class."""
        if not self._times:
            return
        interval = self._interval()
        end_s = self._times[-1] + interval
        yield from self._complete(end_s + interval / 2)
        if not self._given:
            yield self._window(self._first_s, end_s)

    def _complete(self, until_s: float) -> Iterator[Window]:
        while (start_s := self._first_s + self._next * self.hop_s) + self.window_s <= until_s:
            end_s = start_s + self.window_s
            first = bisect_left(self._times, start_s)
            if first == len(self._times):
                return
            if self._times[first] < end_s:
                window = self._window(start_s, end_s)
                self._next += 1
                self._given = True
                yield window
            else:  # a gap: go on with the first window that can see the picture after it
                behind_s = self._times[first] - self.window_s - self._first_s
                self._next = max(self._next + 1, math.floor(behind_s / self.hop_s) + 1)

    def _window(self, start_s: float, end_s: float) -> Window:
        targets = window_targets(start_s, end_s - start_s, self.num_frames)
        picks = nearest(self._times, targets)
        return Window(np.stack([self._images[i] for i in picks]), start_s, end_s)

    def _forget(self) -> None:
        """Drops the pictures that no coming window can pick."""
        if not self._given:  # a short stream's only window may need all of them
            return
        start_s = self._first_s + self._next * self.hop_s
        target = start_s + self.window_s / self.num_frames / 2
        keep = 0  # the last picture at or before the first target, and all later ones
        while keep + 1 < len(self._times) and self._times[keep + 1] <= target:
            keep += 1
        del self._images[:keep], self._times[:keep]

    def _interval(self) -> float:
        steps = np.diff(self._times)
        steps = steps[steps > 0]
        return float(np.median(steps)) if steps.size else self.window_s / self.num_frames
