"""Cuts a stream of timed frames into overlapping windows, by time and never by frame count."""

from __future__ import annotations

import math
from bisect import bisect_left
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dvfl_runtime.clips.finder import WHOLE_PICTURE, RegionFinder, Track, WindowPictures
from dvfl_runtime.clips.regions import region_finder
from dvfl_runtime.clips.ring import PictureRing, ring_for
from dvfl_runtime.clips.sampling import interval_s, nearest, window_targets
from dvfl_runtime.clips.spec import Clip, ClipSpec
from dvfl_runtime.errors import SourceError
from dvfl_runtime.errors.checks import check_choice, check_number
from dvfl_runtime.sources import Frame

Pad = Literal["repeat"]

MIN_HOP_S = 0.001  # a guard against a hop that is a typing error, not a limit of the method
PER_PART = 16  # pictures kept per T-th part of a stretch that may turn out to be short
MAX_TIME_S = 1e10  # beyond it a float cannot tell one frame from the next (Unix time is 2e9)


@dataclass(frozen=True, eq=False)
class Window:
    """A span of time [start_s, end_s), and what T pictures in it show of one thing.

    A span has a window for each thing that there is to be recognised, and one without a track if
    there is none. The pictures stay in the memory of their windower until the window is taken or
    discarded, which has to be done once; any thread may do it.

    Attributes:
        start_s: start on the source's clock, seconds; never before the first picture.
        end_s: end, seconds.
        frames: numbers of the first frame in the window and of the first one after it.
        arrival_ns: when the newest of its pictures arrived, `time.monotonic_ns`; 0 for files.
        dropped: frames that the source dropped since the span before.
        ring: the memory of the pictures.
        slots: (T,) places of the pictures in it; empty without a track.
        track: what the model is to see of them.
    """

    start_s: float
    end_s: float
    frames: tuple[int, int]
    arrival_ns: int
    dropped: int
    ring: PictureRing
    slots: tuple[int, ...]
    track: Track | None = WHOLE_PICTURE

    def take(self, out: Clip) -> None:
        """Write the preprocessed pictures to `out`, (T, H, W, 3), and give their memory back."""
        assert self.track is not None  # otherwise there are none
        self.ring.take(self.slots, self.track, out)

    def discard(self) -> None:
        """Give the memory of the pictures back without using them."""
        self.ring.release(self.slots)


class _Kept(NamedTuple):
    """A picture in the ring that a window may still pick."""

    time_s: float
    slot: int
    arrival_ns: int


class Windower:
    """Takes frames one by one and returns windows as they become complete.

    A stretch is the part of a stream between two gaps. There is a gap where the source reports one
    (`after_gap`), and where two frames are further apart than window_s. No window spans a gap.

    Window k of a stretch is [first + k * hop_s, first + k * hop_s + window_s), where `first` is the
    time of its first frame. Its clip holds, for the centre of each of its T equal parts, the
    picture nearest in time, which may be just outside the window when the frame rate is low.

    - A window is complete when a frame at or after its end has arrived.
    - At the end of a stretch, a window is complete too if the last picture, shown for one frame
      interval, reaches the window's end to within half an interval.
    - Frames after the last complete window get one more, which ends with the stretch:
      [end - window_s, end). It picks among the last picture and those that the windows on the grid
      could pick, which are a T-th of a window apart.
    - A stretch that is too short for a complete window gives one over its whole length:
      [first, end).
    - The end of a stretch is [last frame] + [one interval], but not after the next one begins. The
      interval is the median over the last window, or window_s / T for a single frame.
    - With `pad="repeat"` the windows of a stretch end from the first hop on, k < 0 included, and
      the part of a window before the first frame repeats that frame.

    So every frame is in a window, unless hop_s is longer than window_s: then the frames between two
    windows are left out, as asked.

    A frame is preprocessed only if a window can pick it, which is known when the frame after it
    has arrived: 8 in 2 s with the default hop and T = 8, whatever the frame rate. Until the first
    window of a stretch is complete, that is every frame, or `PER_PART` for each T-th part of the
    time so far. Pictures are kept while a later window can need them, so memory is bounded by T.

    Args:
        spec: T, and how pictures are preprocessed.
        window_s: length of a window, seconds; the spec's by default.
        hop_s: time between the starts of two windows, seconds; a quarter of the window by default.
        pad: None, or "repeat".
        finder: of the regions; by default the focus of the spec.

    Raises:
        ArgumentError: if a number is out of its range.
    """

    def __init__(
        self,
        spec: ClipSpec,
        window_s: float | None = None,
        hop_s: float | None = None,
        *,
        pad: Pad | None = None,
        finder: RegionFinder | None = None,
    ) -> None:
        window_s = spec.window_s if window_s is None else window_s
        check_number("window_s", window_s, above=0)
        hop_s = window_s / 4 if hop_s is None else hop_s
        check_number("hop_s", hop_s, least=MIN_HOP_S)
        check_choice("pad", pad, (None, "repeat"))
        self.num_frames = spec.num_frames
        self.window_s = window_s
        self.hop_s = hop_s
        self._finder = region_finder(None, spec) if finder is None else finder
        self.ring = ring_for(spec, self._finder)
        self._overlaps = hop_s <= window_s  # or touch; else frames between windows are left out
        self._centres = window_targets(0.0, window_s, self.num_frames)
        self._first_k = 0 if pad is None else 1 - math.ceil(window_s / hop_s - 1e-9)
        self._dropped = 0
        self._count = 0  # frames pushed
        self._last: Frame | None
        self._begin_stretch()

    def push(self, frame: Frame) -> list[Window]:
        """Take the next frame and return the windows that it completes.

        Raises:
            SourceError: if its time is not a sensible number, or is before the previous one.
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
            windows = self._end_stretch(time_s)
        self._dropped += frame.dropped
        if self._last is None:
            self._first_s = time_s
        else:
            self._keep_last_if_needed(time_s)
        self._last = frame
        self._count += 1
        self._times.append(time_s)
        windows += self._complete_windows(time_s)
        self._forget_the_old()
        return windows

    def finish(self) -> list[Window]:
        """Return the windows that the end of the stream completes; see the class."""
        return [] if self._last is None else self._end_stretch()

    def _begin_stretch(self) -> None:
        self._first_s = 0.0
        self._covered_s = -math.inf  # end of the newest window
        self._next_k = self._first_k  # number of the next window
        self._times: list[float] = []  # of all frames that the next window can hold
        self._kept: list[_Kept] = []
        self._last = None  # whether a window picks it depends on the frame after it
        self._last_is_kept = False
        self._looked_s = -math.inf  # time of the newest frame that the finder has looked at

    def _end_stretch(self, next_s: float = math.inf) -> list[Window]:
        """End a stretch and return the windows that this completes.

        Args:
            next_s: when the next stretch begins; no window extends past it.
        """
        assert self._last is not None
        last_s = self._last.time_s
        interval = interval_s(self._times, self.window_s / self.num_frames)
        windows = self._complete_windows(last_s + 1.5 * interval, next_s)
        end_s = max(min(last_s + interval, next_s), math.nextafter(last_s, math.inf))
        if not self._has_cut:
            self._look()
            windows += self._cut(self._first_s, end_s)
        elif last_s >= (self._covered_s if self._overlaps else self._next_start_s()):
            windows += self._cut(max(end_s - self.window_s, self._oldest_start_s()), end_s)
        self.ring.release(kept.slot for kept in self._kept)
        self._begin_stretch()
        return windows

    def _complete_windows(self, until_s: float, next_s: float = math.inf) -> list[Window]:
        windows: list[Window] = []
        while (start_s := self._next_start_s()) + self.window_s <= until_s:
            if start_s > self._times[-1] or self._covered_s >= next_s:
                break
            windows += self._cut(start_s, start_s + self.window_s, next_s)
            self._next_k += 1
        return windows

    @property
    def _has_cut(self) -> bool:
        """Whether this stretch has had a window."""
        return self._covered_s > -math.inf

    def _next_start_s(self) -> float:
        return self._first_s + self._next_k * self.hop_s

    def _oldest_start_s(self) -> float:
        """Return the earliest moment at which a later window can start."""
        start_s = self._next_start_s()
        # the window that ends with the stretch starts after the newest window has started
        return start_s - self.hop_s if self._has_cut and self._overlaps else start_s

    def _cut(self, start_s: float, end_s: float, next_s: float = math.inf) -> list[Window]:
        """Return the windows of [start_s, end_s), shortened where the next stretch begins."""
        picked = self._pick(window_targets(start_s, end_s - start_s, self.num_frames))
        slots = tuple(kept.slot for kept in picked)
        end_s = min(end_s, next_s)
        base = self._count - len(self._times)
        begin, end = (base + bisect_left(self._times, time_s) for time_s in (start_s, end_s))
        start_s = max(start_s, self._first_s)
        self._covered_s = end_s
        found = self._finder.find(
            WindowPictures(
                start_s, end_s, [kept.time_s for kept in picked], lambda: self.ring.greys(slots)
            )
        )
        if not found:  # frames without anything to be recognised are not lost either
            return [Window(start_s, end_s, (begin, begin), 0, 0, self.ring, (), None)]
        arrival_ns = max(kept.arrival_ns for kept in picked)
        dropped, self._dropped = self._dropped, 0
        windows: list[Window] = []
        for n, track in enumerate(found):
            self.ring.hold(slots)
            about = (start_s, end_s, (begin, end), arrival_ns, 0 if n else dropped)
            windows.append(Window(*about, self.ring, slots, track))
        return windows

    def _pick(self, targets: NDArray[np.float64]) -> list[_Kept]:
        """Return the kept picture nearest to each of the (T,) times, seconds."""
        assert self._last is not None
        times = [kept.time_s for kept in self._kept]
        if not self._last_is_kept:
            times.append(self._last.time_s)
        picks = [int(i) for i in nearest(times, targets)]
        if picks[-1] == len(self._kept):
            self._keep_last()
            self._look()
        return [self._kept[i] for i in picks]

    def _keep_last_if_needed(self, next_s: float) -> None:
        """Keep the last picture if a later window can pick it, now that a frame comes at next_s."""
        assert self._last is not None
        if self._last_is_kept:
            self._last_is_kept = False
            return
        time_s = self._last.time_s
        before_s = self._times[-2] if len(self._times) > 1 else -math.inf
        is_target = self._is_target_in((before_s + time_s) / 2, (time_s + next_s) / 2)
        if is_target or (not self._has_cut and self._may_be_needed(time_s)):
            self._keep_last()
            self._last_is_kept = False
        if is_target:
            self._look()

    def _may_be_needed(self, time_s: float) -> bool:
        """Return whether the window over a short stretch may need the picture at this time."""
        fine_s = (time_s - self._first_s) / (PER_PART * self.num_frames)
        return not self._kept or time_s - self._kept[-1].time_s >= fine_s

    def _keep_last(self) -> None:
        """Put the last picture into the ring."""
        assert self._last is not None
        slot = self.ring.add(self._last.image)
        self._kept.append(_Kept(self._last.time_s, slot, self._last.arrival_ns))
        self._last_is_kept = True

    def _look(self) -> None:
        """Let the finder look at the last frame, once."""
        assert self._last is not None
        if self._last.time_s > self._looked_s:
            self._looked_s = self._last.time_s
            self._finder.look(self._last)

    def _is_target_in(self, low_s: float, high_s: float) -> bool:
        """Return whether a later window on the grid has a target in [low_s, high_s]."""
        slack = 1e-6 + 8 * math.ulp(high_s)  # rounding must not lose a picture
        offsets = self._first_s + self._centres
        k = np.maximum(np.ceil((low_s - slack - offsets) / self.hop_s), self._next_k)
        return bool((offsets + k * self.hop_s <= high_s + slack).any())

    def _forget_the_old(self) -> None:
        """Drop the times and pictures that no later window can need."""
        oldest_s = self._oldest_start_s()
        # three stay in any case: the picks and the interval follow from their distances
        old = min(bisect_left(self._times, oldest_s) - 1, len(self._times) - 3)
        if old > 0:
            del self._times[:old]
        if not self._has_cut:
            return
        target = oldest_s + float(self._centres[0])
        keep = 0  # the last picture at or before the first target, and all later ones
        while keep + 1 < len(self._kept) and self._kept[keep + 1].time_s <= target:
            keep += 1
        if keep:
            self.ring.release(kept.slot for kept in self._kept[:keep])
            del self._kept[:keep]
