"""Cuts a stream of timed frames into overlapping windows, by time and never by frame count."""

from __future__ import annotations

import math
from bisect import bisect_left
from dataclasses import dataclass
from typing import Literal

import numpy as np

from dvfl_runtime.clips.ring import FrameRing
from dvfl_runtime.clips.sampling import nearest, window_targets
from dvfl_runtime.errors import SourceError
from dvfl_runtime.errors.checks import check_choice, check_number, check_whole
from dvfl_runtime.sources import Frame

Pad = Literal["repeat"]

MIN_HOP_S = 0.001  # a guard against a hop that is a typing error, not a limit of the method
PER_PART = 16  # pictures kept per T-th part of a stretch that may turn out to be a short one
MAX_TIME_S = 1e10  # beyond it a float cannot tell one frame from the next (Unix time is 2e9)


@dataclass(frozen=True)
class Window:
    """One clip and the span of time [start_s, end_s) that it was sampled from.

    Attributes:
        slots: (T,) numbers of its pictures, held for whoever takes the window.
        start_s: start on the source's clock, seconds; never before the first picture.
        end_s: end, seconds.
        frames: numbers of the first frame in the window and of the first one after it.
        arrival_ns: when the newest of its pictures arrived, `time.monotonic_ns`; 0 for files.
        dropped: frames that the source dropped since the window before.
    """

    slots: tuple[int, ...]
    start_s: float
    end_s: float
    frames: tuple[int, int] = (0, 0)
    arrival_ns: int = 0
    dropped: int = 0


class Windower:
    """Takes frames one by one and gives windows as they become complete.

    A stretch is what lies between two gaps. A gap is where the source says so (`after_gap`), or
    where two frames are further apart than window_s. No window spans one.

    Window k of a stretch is [first + k * hop_s, first + k * hop_s + window_s), where `first` is the
    time of its first frame. Its clip holds, for the centre of each of its T equal parts, the
    picture nearest in time, which may lie just outside the window when the frame rate is low.

    - A window is complete when a frame at or after its end has arrived.
    - At the end of a stretch, a window is complete too if the last picture, shown for one frame
      interval, reaches the window's end to within half an interval.
    - Frames after the last complete window get one more, which ends with the stretch:
      [end - window_s, end). It picks among the last picture and those that the windows on the grid
      could pick, which are a T-th of a window apart.
    - A stretch that is too short for a complete window gives one over what there is: [first, end).
    - The end of a stretch is [last frame] + [one interval], but not after the next one begins. The
      interval is the median over the last window, or window_s / T for a single frame.
    - With `pad="repeat"` the windows of a stretch end from the first hop on, k < 0 included, and
      what of them lies before the first frame repeats that one.

    So every frame lies in a window, unless hop_s is longer than window_s: then what lies between
    two windows is left out, as asked.

    A frame is preprocessed only if a window can pick it, which is known when the frame after it
    has arrived: 8 in 2 s with the default hop and T = 8, whatever the frame rate. Until the first
    window of a stretch is complete, that is every frame, or `PER_PART` for each T-th part of the
    time so far. Pictures are kept while a coming window can need them, so memory is bounded by T.

    Args:
        ring: where pictures are kept.
        num_frames: T.
        window_s: length of a window, seconds.
        hop_s: distance of two windows' starts, seconds; a quarter of the window by default.
        pad: None, or "repeat".

    Raises:
        ArgumentError: if a number is out of its range.
    """

    def __init__(
        self,
        ring: FrameRing,
        num_frames: int,
        window_s: float,
        hop_s: float | None = None,
        *,
        pad: Pad | None = None,
    ) -> None:
        check_whole("num_frames", num_frames)
        check_number("window_s", window_s, above=0)
        hop_s = window_s / 4 if hop_s is None else hop_s
        check_number("hop_s", hop_s, least=MIN_HOP_S)
        check_choice("pad", pad, (None, "repeat"))
        self.num_frames = num_frames
        self.window_s = window_s
        self.hop_s = hop_s
        self.ring = ring
        self._overlaps = hop_s <= window_s  # or touch; else frames between windows are left out
        self._centres = window_targets(0.0, window_s, num_frames)
        self._first_k = 0 if pad is None else 1 - math.ceil(window_s / hop_s - 1e-9)
        self._dropped = 0
        self._count = 0  # frames taken
        self._last: Frame | None
        self._begin()

    def push(self, frame: Frame) -> list[Window]:
        """Takes the next frame and returns the windows that it completes.

        Raises:
            SourceError: if its time is no sensible number, or lies before the previous one.
            ClipError: if its picture cannot be preprocessed.
        """
        last, time_s = self._last, frame.time_s
        if not abs(time_s) <= MAX_TIME_S:
            raise SourceError(f"a frame's time_s must be a number of seconds, got {time_s}")
        if last is not None and time_s < last.time_s:
            raise SourceError(
                f"frame times must not go back, got {time_s:.3f} s after {last.time_s:.3f} s; "
                "sort the frames by time_s"
            )
        windows: list[Window] = []
        step_s = 0.0 if last is None else time_s - last.time_s
        if step_s > 0 and (frame.after_gap or step_s > self.window_s):
            windows = self._end(time_s)
        self._dropped += frame.dropped
        if self._last is None:
            self._first_s = time_s
        else:
            self._settle(time_s)
        self._last = frame
        self._count += 1
        self._times.append(time_s)
        windows += self._complete(time_s)
        self._forget()
        return windows

    def finish(self) -> list[Window]:
        """Returns the windows that the end of the stream completes; see the class."""
        return [] if self._last is None else self._end()

    def _begin(self) -> None:
        """Starts a stretch: what lies between two gaps."""
        self._first_s = 0.0
        self._covered_s = -math.inf  # end of the newest window
        self._next = self._first_k  # number of the next window
        self._times: list[float] = []  # of all frames that the next window can hold
        self._kept: list[tuple[float, int, int]] = []  # time, slot and arrival of the pictures
        self._last = None  # whether a window picks it depends on the frame after it
        self._last_is_kept = False

    def _end(self, next_s: float = math.inf) -> list[Window]:
        """Ends a stretch and returns the windows that this completes.

        Args:
            next_s: when the next stretch begins; no window reaches beyond.
        """
        assert self._last is not None
        last_s, interval = self._last.time_s, self._interval()
        windows = self._complete(last_s + 1.5 * interval, next_s)
        end_s = max(min(last_s + interval, next_s), math.nextafter(last_s, math.inf))
        if not self._has_given:
            windows.append(self._window(self._first_s, end_s))
        elif last_s >= (self._covered_s if self._overlaps else self._start()):
            windows.append(self._window(max(end_s - self.window_s, self._oldest_s()), end_s))
        self.ring.release(tuple(slot for _, slot, _ in self._kept))
        self._begin()
        return windows

    def _complete(self, until_s: float, next_s: float = math.inf) -> list[Window]:
        windows: list[Window] = []
        while (start_s := self._start()) + self.window_s <= until_s:
            if start_s > self._times[-1] or self._covered_s >= next_s:
                break
            windows.append(self._window(start_s, start_s + self.window_s, next_s))
            self._next += 1
        return windows

    @property
    def _has_given(self) -> bool:
        """Whether this stretch has given a window."""
        return self._covered_s > -math.inf

    def _start(self) -> float:
        return self._first_s + self._next * self.hop_s

    def _oldest_s(self) -> float:
        """Returns the earliest moment at which a window that is still to come can start."""
        start_s = self._start()
        # the one that ends with the stretch starts later than the newest one has
        return start_s - self.hop_s if self._has_given and self._overlaps else start_s

    def _window(self, start_s: float, end_s: float, next_s: float = math.inf) -> Window:
        assert self._last is not None
        targets = window_targets(start_s, end_s - start_s, self.num_frames)
        times = [time_s for time_s, _, _ in self._kept]
        if not self._last_is_kept:
            times.append(self._last.time_s)
        picks = [int(i) for i in nearest(times, targets)]
        if picks[-1] == len(self._kept):
            self._keep()
        picked = [self._kept[i] for i in picks]
        slots = tuple(slot for _, slot, _ in picked)
        self.ring.hold(slots)
        end_s = min(end_s, next_s)
        base = self._count - len(self._times)
        inside = bisect_left(self._times, start_s), bisect_left(self._times, end_s)
        window = Window(
            slots,
            max(start_s, self._first_s),
            end_s,
            (base + inside[0], base + inside[1]),
            max(arrival_ns for _, _, arrival_ns in picked),
            self._dropped,
        )
        self._covered_s = end_s
        self._dropped = 0
        return window

    def _settle(self, next_s: float) -> None:
        """Keeps the last picture if a coming window can pick it: the next frame's time is known."""
        assert self._last is not None
        if self._last_is_kept:
            self._last_is_kept = False
            return
        time_s = self._last.time_s
        before_s = self._times[-2] if len(self._times) > 1 else -math.inf
        if self._is_target_in((before_s + time_s) / 2, (time_s + next_s) / 2) or (
            not self._has_given and self._may_be_needed(time_s)
        ):
            self._keep()
            self._last_is_kept = False

    def _may_be_needed(self, time_s: float) -> bool:
        """Says whether the window over a short stretch may need the picture at this time."""
        fine_s = (time_s - self._first_s) / (PER_PART * self.num_frames)
        return not self._kept or time_s - self._kept[-1][0] >= fine_s

    def _keep(self) -> None:
        """Preprocesses the last picture."""
        assert self._last is not None
        slot = self.ring.add(self._last.image)
        self._kept.append((self._last.time_s, slot, self._last.arrival_ns))
        self._last_is_kept = True

    def _is_target_in(self, low_s: float, high_s: float) -> bool:
        """Says whether a window that is still to come has a target in [low_s, high_s]."""
        slack = 1e-6 + 8 * math.ulp(high_s)  # rounding must not lose a picture
        offsets = self._first_s + self._centres
        k = np.maximum(np.ceil((low_s - slack - offsets) / self.hop_s), self._next)
        return bool((offsets + k * self.hop_s <= high_s + slack).any())

    def _forget(self) -> None:
        """Drops what no coming window can need."""
        oldest_s = self._oldest_s()
        # three stay in any case: their distances decide what is picked and what an interval is
        old = min(bisect_left(self._times, oldest_s) - 1, len(self._times) - 3)
        if old > 0:
            del self._times[:old]
        if not self._has_given:
            return
        target = oldest_s + float(self._centres[0])
        keep = 0  # the last picture at or before the first target, and all later ones
        while keep + 1 < len(self._kept) and self._kept[keep + 1][0] <= target:
            keep += 1
        if keep:
            self.ring.release(tuple(slot for _, slot, _ in self._kept[:keep]))
            del self._kept[:keep]

    def _interval(self) -> float:
        steps = np.diff(self._times)
        steps = steps[steps > 0]
        return float(np.median(steps)) if steps.size else self.window_s / self.num_frames
