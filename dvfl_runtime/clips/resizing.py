"""Scales pictures and makes them grey, in the thread of the caller alone.

OpenCV hands larger pictures to threads of its own, which then wait for more by spinning. That is
half a millisecond of each of their cores for each call, more than the work itself, while decoder
and engine want those cores. So pictures are worked on in bands. The results are the same to the
bit, but for single pixels by one grey level where the scale is no binary fraction.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from dvfl_runtime.errors.packages import MEDIA, needed

SERIAL_PX = 1 << 16  # of a result; OpenCV takes threads for half as many more

Pixels = NDArray[np.uint8]  # (h, w, 3) RGB or (h, w) grey


def resize(
    image: Pixels, size: tuple[int, int], *, antialias: bool = False, out: Pixels | None = None
) -> Pixels:
    """Scale a picture: bilinear with half-pixel centres, or by area means.

    Args:
        image: (h, w, 3) RGB or (h, w) grey.
        size: (width, height) of the result, px.
        antialias: whether it is averaged over areas.
        out: memory for the result, whose rows may lie apart; fresh memory by default.
    """
    with needed("resizing frames", *MEDIA):
        import cv2
    how = cv2.INTER_AREA if antialias else cv2.INTER_LINEAR
    width, height = size
    before = image.shape[0]
    out = np.empty((height, width, *image.shape[2:]), np.uint8) if out is None else out
    for top, bottom in _bands(height, width, _whole_rows(before, height)):
        rows = image[top * before // height : bottom * before // height]
        cv2.resize(rows, (width, bottom - top), dst=out[top:bottom], interpolation=how)
    return out


def to_grey(image: Pixels) -> Pixels:
    """Return the brightness of a picture: (h, w, 3) RGB -> (h, w)."""
    with needed("finding what moves", *MEDIA):
        import cv2
    height, width = image.shape[:2]
    out = np.empty((height, width), np.uint8)
    for top, bottom in _bands(height, width, 1):
        cv2.cvtColor(image[top:bottom], cv2.COLOR_RGB2GRAY, dst=out[top:bottom])
    return out


def _whole_rows(before: int, after: int) -> int:
    """Return after how many rows of a smaller picture a row of the larger one begins, too.

    A band that begins and ends there needs no pixel of its neighbours.
    """
    return after // math.gcd(before, after) if before >= after else after


def _bands(height: int, width: int, step: int) -> list[tuple[int, int]]:
    """Return the first row of each band and the one after its last, in multiples of `step`."""
    rows = max(1, SERIAL_PX // (width * step)) * step
    return [(top, min(top + rows, height)) for top in range(0, height, rows)]
