"""Boxes of the caller's: parts of the picture by name or number, fixed for a whole stream."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from dvfl_runtime.clips.finder import RegionFinder, Track, WindowPictures
from dvfl_runtime.errors import ArgumentError
from dvfl_runtime.errors.checks import wrong
from dvfl_runtime.results import Region, TrackId

Box: TypeAlias = Sequence[float]  # left, top, width, height as shares of the picture
# spelled out, because a dict of one kind of ids is no Mapping of both for a checker of types
Boxes: TypeAlias = Mapping[TrackId, Box] | Mapping[int, Box] | Mapping[str, Box]

BOX = "left, top, width and height as shares of the picture, from 0 to 1"
EDGE = 1e-6  # by which rounding may move the right or lower edge of a box out of the picture


class FixedBoxes(RegionFinder):
    """The same parts of the picture in every window; the whole picture is one, too."""

    def __init__(self, tracks: Sequence[Track]) -> None:
        self.tracks = tuple(tracks)
        self.most = len(self.tracks)

    def find(self, window: WindowPictures) -> Sequence[Track]:
        """Return all boxes."""
        return self.tracks


def fixed_boxes(boxes: Boxes, most: int) -> FixedBoxes:
    """Return the finder of boxes that stay where they are.

    Raises:
        ArgumentError: if there is none, or are more than `most`; if a name is neither a string nor
            a whole number, or a box is not within the picture.
    """
    if not 0 < len(boxes) <= most:
        raise ArgumentError(
            f"regions must be 1 to max_regions={most} boxes, got {len(boxes)}; "
            "leave out some, or pass a larger max_regions"
        )
    tracks = []
    for name, box in boxes.items():
        track_id, region = as_track_id(name), as_region(box)
        if track_id is None:
            raise wrong("a name in regions", "a string or a whole number", name)
        if region is None or max(abs(a - b) for a, b in zip(box, region, strict=True)) > EDGE:
            raise wrong(f"regions[{name!r}]", f"{BOX}, all of it within the picture", box)
        left, top, width, height = (round(value, 6) for value in region)
        tracks.append(Track(track_id, (left, top, width, height)))
    return FixedBoxes(tracks)


def as_region(box: Any) -> Region | None:
    """Return the part of a box that is in the picture; `None` if there is none or it is no box."""
    try:
        left, top, width, height = map(float, box)
    except (TypeError, ValueError, OverflowError):
        return None
    right, bottom = min(left + width, 1.0), min(top + height, 1.0)
    left, top = max(left, 0.0), max(top, 0.0)
    if not (width > 0 and height > 0 and left < right and top < bottom):  # NaN is none of these
        return None
    return left, top, right - left, bottom - top


def as_track_id(value: Any) -> TrackId | None:
    """Return an id as a string or a whole number of Python's; `None` if it is neither."""
    if isinstance(value, str):
        return value
    try:
        return int(value.__index__())  # a whole number of numpy, too
    except (AttributeError, TypeError):
        return None
