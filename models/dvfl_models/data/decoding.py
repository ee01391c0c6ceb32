"""Frames of videos in the size that training needs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from functools import partial

import cv2
import numpy as np
from numpy.typing import NDArray

from dvfl_runtime.clips.preprocess import context_frame, focused, preprocess_frame
from dvfl_runtime.clips.spec import Clip, ClipSpec
from dvfl_runtime.sources import open_source

Times = NDArray[np.float64]
Numbers = NDArray[np.int64]

SMALL_PX = 112  # up to this side the decoded videos of a model are kept in memory


def decode(path: str, shape: ClipSpec | int, *, antialias: bool = False) -> tuple[Clip, Times]:
    """Return all frames of a video, (N, h, w, 3), and their times in seconds since the first.

    Args:
        path: of the file.
        shape: the ClipSpec of a model that sees whole pictures, for its resize and crop, or the
            longest side, px.
        antialias: whether frames are averaged over areas when they shrink to the longest side.
            Models with a centred crop never see such pictures (see `preprocess`), so training
            does not show them either.

    Raises:
        SourceError: if no frame can be decoded.
    """
    images, times = [], []
    prepare = prepared(shape, antialias=antialias)
    with closing(open_source(path)) as source:
        for frame in source.frames():
            images.append(prepare(frame.image))
            times.append(frame.time_s)
    return np.stack(images).astype(np.uint8, copy=False), np.asarray(times) - times[0]


def prepared(shape: ClipSpec | int, *, antialias: bool = False) -> Callable[[Clip], Clip]:
    """Return the function that brings a picture into a shape, or close to it; see `assembled`."""
    if isinstance(shape, ClipSpec):
        return partial(preprocess_frame if shape.focus == "frame" else context_frame, spec=shape)
    return partial(_shrunk, long_px=shape, antialias=antialias)


def assembled(images: Sequence[Clip], shape: ClipSpec | int) -> Clip:
    """Return the prepared pictures of a clip, (T, h, w, 3), cut to what the model looks at."""
    if not isinstance(shape, int) and shape.focus != "frame":
        images = [preprocess_frame(image, shape) for image in focused(images, shape)[0]]
    return np.stack(images)


def _shrunk(image: Clip, long_px: int, *, antialias: bool) -> Clip:
    height, width = image.shape[:2]
    scale = min(1.0, long_px / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    how = cv2.INTER_AREA if antialias else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(image, size, interpolation=how), np.uint8)
