"""Frames that are in memory already, or that the caller's own code makes."""

from __future__ import annotations

import math
from collections.abc import Generator, Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dvfl_runtime.errors import ClipError, SourceError
from dvfl_runtime.sources.frame import Frame, check_rgb
from dvfl_runtime.sources.recorded.source import RecordedSource


class MemorySource(RecordedSource):
    """An (N, H, W, 3) uint8 array, or an iterable of (H, W, 3) uint8 arrays or Frames.

    Arrays have no timestamps: frame `i` is shown at `i / fps`. Frames keep their times. The images
    of an array, a list and a tuple are handed on as they are. Those of any other iterable are
    copied, because a generator may fill the same memory each time, and a frame is still used after
    the next one has come. The caller's iterable stays open when the source is closed.

    Args:
        items: the frames.
        fps: frames per second of arrays.

    Raises:
        ClipError: if an array of frames has another type, rank or number of channels; by `frames()`
            if a frame is not an (H, W, 3) uint8 array or its time does not increase.
    """

    closed_error = "the frames are closed; open them again"

    def __init__(self, items: NDArray[Any] | Iterable[NDArray[Any] | Frame], fps: float) -> None:
        duration_s = None
        if isinstance(items, np.ndarray):
            if items.ndim == 3:
                raise ClipError(
                    f"frames must have the shape (N, H, W, 3), got {items.shape}; "
                    "pass image[None] for a single picture"
                )
            check_rgb(items, "frames", ("N", "H", "W", "3"))
            duration_s = len(items) / fps
        super().__init__("frames", duration_s)
        self._items = items
        self._fps = fps
        self.rewindable = iter(items) is not items
        self._is_kept = isinstance(items, (np.ndarray, list, tuple))
        self._used = False

    def _read(self) -> Generator[Frame, None, None]:
        if self._used and not self.rewindable:
            raise SourceError(
                "an iterator of frames can be read only once; pass a list or an array to read twice"
            )
        self._used = True
        last_s = -math.inf
        index = -1
        for index, item in enumerate(self._items):
            frame = self._frame(item, index)
            if not last_s < frame.time_s < math.inf:
                raise ClipError(
                    f"frame {index}: time_s {frame.time_s} is not after {last_s}, the time of the "
                    f"frame before; pass frames in the order of time"
                )
            last_s = frame.time_s
            yield frame
        if index < 0:
            raise SourceError("no frames: the array or iterable is empty; pass at least one frame")

    def _frame(self, item: object, index: int) -> Frame:
        image = check_rgb(item.image if isinstance(item, Frame) else item, f"frame {index}")
        if not self._is_kept:
            image = image.copy()
        if isinstance(item, Frame):
            return item.replace(image=image, index=index)
        return Frame(image, index / self._fps, index)
