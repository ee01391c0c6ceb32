"""Where the action is: the part of the picture that a clip is cut from, found by what moves.

It needs no detector and no weights. `python -m dvfl_bench.comparisons.focus` measures it beside
other methods, and under the disturbances that cameras meet.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from dvfl_runtime.errors.packages import MEDIA, needed
from dvfl_runtime.results import WHOLE, Region
from dvfl_runtime.sources.frame import Image

Grey: TypeAlias = NDArray[np.uint8]  # (h, w), small
Floats: TypeAlias = NDArray[np.float32]
Box: TypeAlias = NDArray[np.float64]  # left, top, right, bottom in px of the small picture

SMALL_PX = 160  # the longer side of the pictures that are compared
BLUR_PX = 0.7  # takes noise away, and leaves an arm that is one pixel thick
LIGHT_PART = 0.3  # of the longer side: light that changes over as much is no motion
LIGHT_STEPS = 150  # of its ratio to the usual light
COARSE = 4  # px of the small picture on a side of those that the light is taken from
DARK = 8.0  # grey levels added to both sides of a ratio of brightness
LEAST_CHANGE = 6.0  # grey levels; codecs and sensors change less where nothing moves
NOISE_FACTOR = 5.0  # how far above the noise of the window something has to change, in deviations
MOVING_CAMERA = 5.0  # if half of the picture changes by more grey levels, the camera moves
MOST_CHANGED = 0.6  # of the picture; beyond it nothing stands out
GAP_PX = 4  # what is at most twice as far apart is one body
LEAST_PIXELS = 6
TAILS = (2.0, 98.0)  # per cent of the pixels that span the box
MARGIN = 0.7  # of the box, so that a body is in the picture of which only an arm moves
LEAST_SIDE = 0.2  # of the picture's shorter side
HOLD_S = 10.0  # how long the place of somebody who stands still is remembered
KEPT_FACTOR = 2.0  # how much more the motion at the remembered place counts than that elsewhere
SHRINK_FROM, SHRINK_TO = 0.5, 0.7  # a region shrinks if it could be this small, and to this at once


@dataclass(frozen=True)
class FocusMemory:
    """Where something moved last.

    Attributes:
        region: the region of that window.
        moved_s: the end of the window, seconds.
    """

    region: Region = WHOLE
    moved_s: float = float("-inf")


def small_grey(image: Image) -> Grey:
    """Return a picture as `find_region` takes it: (h, w, 3) RGB -> (h', w') grey."""
    with needed("finding what moves", *MEDIA):
        import cv2
    height, width = image.shape[:2]
    scale = min(1.0, SMALL_PX / max(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    grey = cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2GRAY)
    return np.asarray(cv2.resize(grey, size, interpolation=cv2.INTER_AREA), np.uint8)


def find_region(
    pictures: Sequence[Grey],
    aspect: float,
    *,
    end_s: float = 0.0,
    memory: FocusMemory | None = None,
) -> tuple[Region, FocusMemory]:
    """Return the part of the picture in which something moves during a window.

    A pixel moves if its brightness, blurred a little and freed of changes of light, has a range
    over the window that stands out from the noise of the other pixels. Pixels near each other are
    one body; of several bodies the one that moves most counts. If the whole picture moves, or
    nothing does and nothing is remembered, it is the whole picture.

    Args:
        pictures: T of them, as `small_grey` returns them.
        aspect: of the model's input, width over height.
        end_s: the end of the window on the source's clock, seconds.
        memory: of the window before: the region stays where it is while the motion is in it, and
            for `HOLD_S` after the last motion.

    Returns:
        The region, and what to remember for the next window.
    """
    before = memory or FocusMemory()
    if not 0 <= end_s - before.moved_s <= HOLD_S:
        before = FocusMemory()
    if len({picture.shape for picture in pictures}) > 1:  # the source changed its size
        return WHOLE, FocusMemory()
    change = _change(np.stack(pictures).astype(np.float32))
    typical = float(np.median(change))
    noise = 1.4826 * float(np.median(np.abs(change - typical)))  # a deviation, whatever stands out
    least = max(LEAST_CHANGE, typical + NOISE_FACTOR * noise)
    moving = change > least
    if typical > MOVING_CAMERA or moving.mean() > MOST_CHANGED:
        return WHOLE, FocusMemory()
    height, width = change.shape
    kept = _in_px(before.region, width, height) if before.region != WHOLE else None
    box = _box_of_most(change - least, moving, kept)
    if box is None:
        return before.region, before
    region = _relative(_placed(_around(box, kept, aspect, min(width, height)), width, height))
    return region, FocusMemory(region, end_s)


def _change(pictures: Floats) -> Floats:
    """Return the range of each pixel's brightness, freed of changes of light: (T, h, w) -> (h, w).

    Automatic exposure and flicker multiply a whole picture, shadows and clouds a large part of it;
    both are divided out. The light at a place is a median, which no body changes that covers less
    than half of what it is taken over.
    """
    with needed("finding what moves", *MEDIA):
        import cv2
    height, width = pictures.shape[1:]
    blurred = np.stack([cv2.GaussianBlur(picture, (0, 0), BLUR_PX) for picture in pictures]) + DARK
    size = max(1, width // COARSE), max(1, height // COARSE)
    coarse = np.stack([cv2.resize(p, size, interpolation=cv2.INTER_AREA) for p in blurred])
    light = coarse / coarse.mean(0)
    gains = np.median(light, axis=(1, 2), keepdims=True)
    light /= gains
    count = min(255, int(LIGHT_PART * max(size)) | 1)
    for t, ratio in enumerate(light):
        steps = np.clip(ratio * LIGHT_STEPS, 1, 255).astype(np.uint8)  # medians of bytes are fast
        local = cv2.medianBlur(steps, count).astype(np.float32) / LIGHT_STEPS
        blurred[t] /= gains[t] * cv2.resize(local, (width, height))
    return np.asarray(np.ptp(blurred, axis=0), np.float32)


def _box_of_most(above: Floats, moving: NDArray[np.bool_], kept: Box | None) -> Box | None:
    """Return the box of the body that moves most; `None` if there is none.

    Args:
        above: (h, w) by how much each pixel changes above the least change that counts.
        moving: (h, w) whether it does.
        kept: the remembered region: what moves in it counts more.
    """
    import cv2

    reach = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * GAP_PX + 1, 2 * GAP_PX + 1))
    grown = cv2.dilate(moving.astype(np.uint8), reach)
    rows, columns = np.nonzero(moving)
    bodies = cv2.connectedComponents(grown)[1][rows, columns]
    if not bodies.size:
        return None
    weight = np.sqrt(above[rows, columns] + 1)  # a root: a bright thing counts for its size
    if kept is not None:
        inside = (columns >= kept[0]) & (columns < kept[2]) & (rows >= kept[1]) & (rows < kept[3])
        weight = np.where(inside, KEPT_FACTOR * weight, weight)
    scores = np.bincount(bodies, weight) * (np.bincount(bodies) >= LEAST_PIXELS)
    most = int(scores.argmax())
    if not scores[most]:
        return None
    chosen = bodies == most
    (left, right), (top, bottom) = (np.percentile(at[chosen], TAILS) for at in (columns, rows))
    return np.array([left, top, right + 1, bottom + 1])


def _around(box: Box, kept: Box | None, aspect: float, short_px: int) -> Box:
    """Return the region for a body: of the model's aspect, with a margin, and calm.

    A remembered region stays if the body is within it and not much too small for it.
    """
    height = max(box[3] - box[1], (box[2] - box[0]) / aspect) * (1 + MARGIN)
    height = max(height, LEAST_SIDE * short_px, LEAST_SIDE * short_px / aspect)
    middle = (box[:2] + box[2:]) / 2
    if kept is not None:
        tall = max(kept[3] - kept[1], (kept[2] - kept[0]) / aspect)
        within = bool((box[:2] >= kept[:2]).all() and (box[2:] <= kept[2:]).all())
        if within and SHRINK_FROM * tall <= height <= tall:
            return kept
        if (box[:2] < kept[2:]).all() and (box[2:] > kept[:2]).all():  # it is the same body
            height = max(height, SHRINK_TO * tall)
    half = np.array([height * aspect, height]) / 2
    return np.concatenate([middle - half, middle + half])


def _placed(box: Box, width: int, height: int) -> NDArray[Any]:
    """Move a box into the picture, and cut what is larger: -> left, top, width, height in 0-1."""
    picture = np.array([width, height])
    size = np.minimum(box[2:] - box[:2], picture)
    corner = np.clip((box[:2] + box[2:] - size) / 2, 0, picture - size)
    return np.concatenate([corner / picture, size / picture])


def _relative(values: NDArray[Any]) -> Region:
    left, top, width, height = (round(float(value), 4) for value in values)
    return left, top, round(min(width, 1 - left), 4), round(min(height, 1 - top), 4)


def _in_px(region: Region, width: int, height: int) -> Box:
    left, top, w, h = region
    return np.array([left * width, top * height, (left + w) * width, (top + h) * height])
