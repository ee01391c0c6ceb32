"""Boxes with ids that a function finds in frames, such as a detector with a tracker.

A window of an id shows the surroundings of its box, which follow it smoothly.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from reprlib import repr as shortened
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from dvfl_runtime.clips.boxes import BOX, Box, Boxes, as_region, as_track_id
from dvfl_runtime.clips.finder import RegionFinder, Track, WindowPictures
from dvfl_runtime.errors import ArgumentError
from dvfl_runtime.results import Region, TrackId
from dvfl_runtime.sources import Frame

BoxFunction: TypeAlias = Callable[[Frame], Boxes | Iterable[tuple[TrackId, Box]]]
Floats: TypeAlias = NDArray[np.float64]

MARGIN = 0.35  # of the box, so that a raised arm is in the picture
LEAST_SEEN = 0.25  # of the frames of a window: who is in fewer has no window
SIZE_PART = 0.8  # a box of a window is as large as this part of its boxes
SMOOTHING = (0.25, 0.5, 0.25)  # of a box's place with those in the pictures before and after

_logger = logging.getLogger(__name__)


class TrackedBoxes(RegionFinder):
    """The boxes of a function, followed through the pictures of a window by their ids.

    Between two frames in which the function found an id its box moves evenly, so that a frame in
    which it was missed does no harm. What it gives that is no box of a picture is left out, counted
    and logged.

    Args:
        function: gives the boxes of a frame, by their ids; called for the frames that windows pick.
        aspect: of the model's input, width over height.
        name: of the source, for the log.
        most: the most tracks of a window; where there are more ids, they take turns.
    """

    def __init__(
        self, function: BoxFunction, aspect: float, *, name: str = "", most: int = 16
    ) -> None:
        self.most = most
        self._function: BoxFunction | None = function
        self._aspect = aspect
        self._name = name
        self._picture = (1, 1)  # width and height, px
        self._times: list[float] = []  # of the frames that were looked at
        self._seen: dict[TrackId, list[tuple[float, Region]]] = {}
        self._turns: dict[TrackId, int] = {}  # id -> number of the last window that it had
        self._windows = 0
        self._complaints: Counter[str] = Counter()

    def look(self, frame: Frame) -> None:
        """Ask the function for the boxes of a frame.

        Raises:
            ArgumentError: if the function fails or gives no boxes with ids; it is not asked again.
        """
        if self._function is None:
            return
        try:
            height, width = frame.image.shape[:2]
            found = self._function(frame)
            pairs = list(found.items() if isinstance(found, Mapping) else found)
            named = [(track_id, box) for track_id, box in pairs]
        except Exception as err:
            self._function = None  # the windows up to here need no further boxes
            raise ArgumentError(
                f"the function regions= failed for the frame at {frame.time_s:.3f} s of "
                f"{self._name or 'the clip'}, {type(err).__name__}: {err}; it must return boxes "
                "by their ids, like {7: (0.1, 0.2, 0.3, 0.5)}"
            ) from err
        self._picture = width, height
        self._times.append(frame.time_s)
        self._add(frame.time_s, named)

    def find(self, window: WindowPictures) -> Sequence[Track]:
        """Return a track for each id that is in a window."""
        times = np.asarray(window.times_s, np.float64)
        begin_s, end_s = times[0], times[-1]
        self._forget(begin_s)
        frames = sum(time_s <= end_s for time_s in self._times)
        present = {}
        for track_id, seen in self._seen.items():
            boxes = [(time_s, box) for time_s, box in seen if time_s <= end_s]
            if boxes and len(boxes) >= LEAST_SEEN * frames:
                present[track_id] = boxes
        chosen = self._in_turns(list(present))
        return [self._track(track_id, present[track_id], times) for track_id in chosen]

    def _add(self, time_s: float, pairs: Sequence[tuple[object, object]]) -> None:
        """Keep the boxes of a frame that are boxes of its picture."""
        kept: set[TrackId] = set()
        for key, box in pairs:
            track_id, region = as_track_id(key), as_region(box)
            if track_id is None:
                self._complain("ids that are left out, as no whole numbers or strings", key)
            elif region is None:
                self._complain(f"boxes that are left out, as not {BOX}", box)
            elif track_id in kept:
                self._complain(
                    "boxes that are left out, as the second of an id in a frame", track_id
                )
            else:
                kept.add(track_id)
                self._seen.setdefault(track_id, []).append((time_s, region))

    def _forget(self, before_s: float) -> None:
        """Forget the frames and boxes that no window from here on can need."""
        self._times = [time_s for time_s in self._times if time_s >= before_s]
        for track_id, seen in list(self._seen.items()):
            self._seen[track_id] = [(time_s, box) for time_s, box in seen if time_s >= before_s]
            if not self._seen[track_id]:
                del self._seen[track_id]

    def _track(
        self, track_id: TrackId, boxes: Sequence[tuple[float, Region]], times: Floats
    ) -> Track:
        """Return the surroundings of a box in each picture: of one size, moving smoothly."""
        known = np.array([time_s for time_s, _ in boxes])
        sides = np.array([box for _, box in boxes]) * (2 * self._picture)  # (N, 4), px
        middles = sides[:, :2] + sides[:, 2:] / 2
        width, height = np.quantile(sides[:, 2:], SIZE_PART, axis=0)
        height = max(height, width / self._aspect) * (1 + MARGIN)
        path = np.stack([np.interp(times, known, middles[:, axis]) for axis in (0, 1)], axis=1)
        before, after = np.vstack([path[:1], path[:-1]]), np.vstack([path[1:], path[-1:]])
        path = SMOOTHING[0] * before + SMOOTHING[1] * path + SMOOTHING[2] * after
        size = np.minimum((height * self._aspect, height), self._picture)
        corners = np.clip(path - size / 2, 0, np.array(self._picture) - size)  # (T, 2)
        regions = tuple(self._relative(corner, size) for corner in corners)
        return Track(track_id, regions[len(regions) // 2], regions)

    def _relative(self, corner: Floats, size: Floats) -> Region:
        left, top = (round(float(v), 4) for v in corner / self._picture)
        width, height = (round(float(v), 4) for v in size / self._picture)
        return left, top, min(width, 1 - left), min(height, 1 - top)

    def _in_turns(self, ids: Sequence[TrackId]) -> Sequence[TrackId]:
        """Return the ids, or those that had no window for the longest time if there are more."""
        self._windows += 1
        if len(ids) > self.most:
            self._complain(f"more ids than max_regions={self.most}, which take turns", len(ids))
            ids = sorted(ids, key=lambda track_id: self._turns.get(track_id, 0))[: self.most]
        turns = {track_id: self._turns.get(track_id, 0) for track_id in self._seen}
        self._turns = {**turns, **dict.fromkeys(ids, self._windows)}
        return ids

    def _complain(self, what: str, example: object) -> None:
        """Count what was left out, and log it the 1st, 10th, 100th ... time."""
        self._complaints[what] += 1
        count = self._complaints[what]
        if count == 10 ** (len(str(count)) - 1):
            _logger.warning(
                "%s: the function regions= gave %s (%d so far), such as %s",
                *(self._name or "the clip", what, count, shortened(example)),
            )
