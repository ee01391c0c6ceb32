"""The choice of what finds the regions of a window."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TypeAlias, get_args

from dvfl_runtime.clips.boxes import Boxes, FixedBoxes, fixed_boxes
from dvfl_runtime.clips.finder import WHOLE_PICTURE, RegionFinder, Track, WindowPictures
from dvfl_runtime.clips.focus import FocusMemory, find_regions
from dvfl_runtime.clips.preprocess import aspect_of
from dvfl_runtime.clips.spec import ClipSpec, Focus
from dvfl_runtime.clips.tracked import BoxFunction, TrackedBoxes
from dvfl_runtime.errors.checks import wrong

Regions: TypeAlias = Focus | Boxes | BoxFunction

MAX_REGIONS = 16  # of a window, unless the caller wants more or fewer
WANTED = (
    '"motion", "frame", boxes by their names, like {"door": (0.1, 0.2, 0.3, 0.5)}, '
    "or a function from a Frame to such boxes"
)


class Motion(RegionFinder):
    """What moves in a window, or the whole picture where nothing does.

    Args:
        aspect: of the model's input, width over height.
        most: the most regions of a window; a single one has no number.
    """

    def __init__(self, aspect: float, most: int = 1) -> None:
        self.most = most
        self._aspect = aspect
        self._memory = FocusMemory()

    def find(self, window: WindowPictures) -> Sequence[Track]:
        """Return the regions of what moves; they depend on the windows before."""
        found, self._memory = find_regions(
            *(window.greys(), self._aspect),
            most=self.most,
            end_s=window.end_s,
            memory=self._memory,
        )
        if self.most == 1:
            found = [replace(track, track_id=None) for track in found]
        return found or [WHOLE_PICTURE]


def region_finder(
    regions: Regions | None, spec: ClipSpec, *, name: str = "", most: int = MAX_REGIONS
) -> RegionFinder:
    """Return what finds the regions in one source.

    Args:
        regions: as for `Recognizer.stream`; `None` for the focus of the spec, which is one region.
        spec: the model's contract.
        name: of the source, for the log.
        most: the most regions of a window.

    Raises:
        ArgumentError: if `regions` is no such thing, or has a box that is wrong.
    """
    if regions is None:
        regions, most = spec.focus, 1
    if isinstance(regions, str) and regions in get_args(Focus):
        return Motion(aspect_of(spec), most) if regions == "motion" else FixedBoxes([WHOLE_PICTURE])
    if isinstance(regions, Mapping):
        return fixed_boxes(regions, most)
    if callable(regions):
        return TrackedBoxes(regions, aspect_of(spec), name=name, most=most)
    raise wrong("regions", WANTED, regions)
