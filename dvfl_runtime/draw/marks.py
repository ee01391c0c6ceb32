"""Marks on a picture in yuv420p: the borders of regions, and tags that name them."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np

from dvfl_runtime.draw.encoding import Planes, to_yuv
from dvfl_runtime.draw.lettering import put_text, text_width
from dvfl_runtime.draw.palette import Rgb, ink_on
from dvfl_runtime.results import Region
from dvfl_runtime.sources import Image

Box: TypeAlias = tuple[int, int, int, int]  # left, top, right, bottom in units of two px
Shape: TypeAlias = tuple[int, ...]


def outline(planes: Planes, region: Region, colour: Rgb) -> None:
    """Draw the border of a region on a picture, in place.

    Args:
        planes: (3/2 H, W) picture in yuv420p.
        region: the part of the picture.
        colour: of the border, RGB.
    """
    height, width = planes.shape[0] * 2 // 3, planes.shape[1]
    ink = to_yuv(np.full((2, 2, 3), colour, np.uint8))  # (3, 2): four of Y, then U and V
    thick = max(1, min(height, width) // 360)  # of U and V, which have half the lines
    left, top = round(region[0] * width / 2), round(region[1] * height / 2)
    right = max(left + 1, round((region[0] + region[2]) * width / 2))
    bottom = max(top + 1, round((region[1] + region[3]) * height / 2))
    small = planes[height:].reshape(2, height // 2, width // 2)
    for plane, scale, value in (
        (planes[:height], 2, ink[0, 0]),
        (small[0], 1, ink[2, 0]),
        (small[1], 1, ink[2, 1]),
    ):
        part = plane[scale * top : scale * bottom, scale * left : scale * right]
        border = scale * thick
        part[:border] = part[-border:] = value
        part[:, :border] = part[:, -border:] = value


def tags(planes: Planes, named: Sequence[tuple[Region, str, Rgb]]) -> None:
    """Write a line at each region, in place: above it, or where it covers no other line.

    Args:
        planes: (3/2 H, W) picture in yuv420p.
        named: regions, the line of each, and the colour behind its letters, RGB.
    """
    height, width = planes.shape[0] * 2 // 3, planes.shape[1]
    size = max(10, round(min(height, width) * 0.036))
    taken: list[Box] = []
    for region, text, colour in named:
        patch = _lettered(text, size, colour, width)
        taken.append(_place(region, patch.shape, (height, width), taken))
        _paste(planes, patch, *taken[-1][:2])


def _place(region: Region, patch: Shape, picture: Shape, taken: Sequence[Box]) -> Box:
    """Return the place of a line, in units of two px.

    Args:
        region: that it names.
        patch: shape of the line in yuv420p, px.
        picture: (H, W) px.
        taken: by other lines.
    """
    height, width = picture[0] // 2, picture[1] // 2
    lines, columns = patch[0] // 3, patch[1] // 2
    left = max(0, min(round(region[0] * width), width - columns))
    top, bottom = (round(at * height) for at in (region[1], region[1] + region[3]))
    inside = max(0, min(top, height - lines))
    for at in (top - lines, inside, bottom - lines, *(box[3] for box in taken)):
        place = left, at, left + columns, at + lines
        if at >= 0 and place[3] <= height and not any(_meet(place, box) for box in taken):
            return place
    return left, inside, left + columns, inside + lines


def _meet(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _paste(planes: Planes, patch: Planes, left: int, top: int) -> None:
    """Put a small picture into another one; the place is in units of two px."""
    height, width = planes.shape[0] * 2 // 3, planes.shape[1]
    full = patch.shape[0] * 2 // 3
    lines, columns = min(full, height - 2 * top) // 2, patch.shape[1] // 2
    place = slice(2 * top, 2 * (top + lines)), slice(2 * left, 2 * (left + columns))
    planes[place] = patch[: 2 * lines]
    small = planes[height:].reshape(2, height // 2, width // 2)
    pieces = patch[full:].reshape(2, full // 2, columns)
    small[:, top : top + lines, left : left + columns] = pieces[:, :lines]


@functools.lru_cache(maxsize=256)  # the same tag is on many frames
def _lettered(text: str, size: int, colour: Rgb, most_px: int) -> Planes:
    margin = size // 3
    width = min(text_width(text, size) + 2 * margin, most_px)
    image: Image = np.empty((size + 2 * margin, width, 3), np.uint8)
    image[:] = colour
    at = margin, margin + round(size * 0.8)
    put_text(image, text, at, size=size, room=width - 2 * margin, colour=ink_on(colour))
    return to_yuv(image)
