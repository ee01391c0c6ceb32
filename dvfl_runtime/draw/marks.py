"""Marks on a picture in yuv420p: the border of a region, and a tag that names it."""

from __future__ import annotations

import functools

import numpy as np

from dvfl_runtime.draw.encoding import Planes, to_yuv
from dvfl_runtime.draw.lettering import put_text, text_width
from dvfl_runtime.draw.palette import Rgb
from dvfl_runtime.results import Region
from dvfl_runtime.sources import Image

BLACK: Rgb = (0, 0, 0)
WHITE: Rgb = (255, 255, 255)


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


def tag(planes: Planes, region: Region, text: str, colour: Rgb) -> None:
    """Write a line at the upper left corner of a region, in place.

    Args:
        planes: (3/2 H, W) picture in yuv420p.
        region: the part of the picture.
        text: the line.
        colour: behind the letters, RGB.
    """
    height, width = planes.shape[0] * 2 // 3, planes.shape[1]
    patch = _lettered(text, max(10, round(min(height, width) * 0.036)), colour)
    lines, columns = patch.shape[0] * 2 // 3, patch.shape[1]
    left = max(0, min(round(region[0] * width / 2), (width - columns) // 2))
    top = max(0, min(round(region[1] * height / 2), (height - lines) // 2))
    columns, lines = min(columns, width), min(lines, height)
    planes[2 * top : 2 * top + lines, 2 * left : 2 * left + columns] = patch[:lines, :columns]
    small = planes[height:].reshape(2, height // 2, width // 2)
    full = patch.shape[0] * 2 // 3
    pieces = patch[full:].reshape(2, full // 2, patch.shape[1] // 2)
    small[:, top : top + lines // 2, left : left + columns // 2] = pieces[
        :, : lines // 2, : columns // 2
    ]


@functools.lru_cache(maxsize=256)  # the same tag is on many frames
def _lettered(text: str, size: int, colour: Rgb) -> Planes:
    margin = size // 3
    image: Image = np.empty((size + 2 * margin, text_width(text, size) + 2 * margin, 3), np.uint8)
    image[:] = colour
    ink = BLACK if sum(colour) > 3 * 128 else WHITE
    at = margin, margin + round(size * 0.8)
    put_text(image, text, at, size=size, room=image.shape[1], colour=ink)
    return to_yuv(image)
