"""Rendered clips whose classes differ in the order of their frames alone.

Two textured blocks with a gap between them stand in front of a textured backdrop. They move left,
right, up or down, or the gap opens or closes. The places of the blocks and the width of the gap at
the middle of a clip have the same distribution in all six classes, and the clips of each class are
those of another one played backwards. So a single frame, above all the middle one, does not tell
the class.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from dvfl_runtime.errors import ArgumentError

ORDER_CLASSES = ("left", "right", "up", "down", "open", "close")
_RATES = {  # of change: x, y, width of the gap
    "left": (-1, 0, 0),
    "right": (1, 0, 0),
    "up": (0, -1, 0),
    "down": (0, 1, 0),
    "open": (0, 0, 1),
    "close": (0, 0, -1),
}
_OVERSAMPLING = 4  # pictures are drawn larger, so that slow motion is smooth


def render_order(
    action: str, seed: int, num_frames: int, size: tuple[int, int]
) -> NDArray[np.uint8]:
    """Render a clip; with `num_frames=1` its middle frame.

    Args:
        action: one of `ORDER_CLASSES`.
        seed: chooses everything but the action.
        num_frames: T, at the centres of equal parts of the clip.
        size: height and width in pixels.

    Returns:
        RGB frames (T, H, W, 3).

    Raises:
        ArgumentError: if the action is unknown.
    """
    if action not in _RATES:
        raise ArgumentError(f"unknown action {action!r}; use one of {', '.join(ORDER_CLASSES)}")
    rng = np.random.default_rng(seed)
    height, width = (_OVERSAMPLING * side for side in size)
    base = rng.uniform(90, 160, 3)
    backdrop = _texture(rng, base, (height, width))
    block = round(height * rng.uniform(0.2, 0.28))
    colours = base + rng.choice([-1, 1], (2, 1)) * rng.uniform(50, 90, (2, 3))
    left, right = (_texture(rng, colour, (2 * block, block)) for colour in colours)
    middle = np.array([rng.uniform(0.45, 0.55), rng.uniform(0.45, 0.55), rng.uniform(0.28, 0.36)])
    travel = rng.uniform(0.4, 0.5) * np.array(_RATES[action])
    frames = []
    for moment in (np.arange(num_frames) + 0.5) / num_frames - 0.5:  # -0.5 to 0.5
        x, y, gap = middle + travel * moment
        image = backdrop.copy()
        top = round(y * height) - block
        _paste(image, left, top, round((x - gap / 2) * width) - block)
        _paste(image, right, top, round((x + gap / 2) * width))
        frames.append(cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA))
    noise = rng.normal(0, 4, (num_frames, *size, 3))
    return np.clip(np.stack(frames) + noise, 0, 255).astype(np.uint8)


def _texture(
    rng: np.random.Generator, base: NDArray[np.float64], size: tuple[int, int]
) -> NDArray[np.uint8]:
    coarse = np.clip(base + rng.normal(0, 15, (4, 4, 3)), 0, 255).astype(np.uint8)
    return np.asarray(cv2.resize(coarse, size[::-1], interpolation=cv2.INTER_CUBIC), np.uint8)


def _paste(image: NDArray[np.uint8], block: NDArray[np.uint8], top: int, left: int) -> None:
    """Put a block into an image; parts of it that are outside are cut off."""
    (height, width), (h, w) = image.shape[:2], block.shape[:2]
    y0, y1, x0, x1 = max(top, 0), min(top + h, height), max(left, 0), min(left + w, width)
    if y0 < y1 and x0 < x1:
        image[y0:y1, x0:x1] = block[y0 - top : y1 - top, x0 - left : x1 - left]
