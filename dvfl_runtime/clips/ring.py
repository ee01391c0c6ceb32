"""Preprocessed pictures in memory that is allocated once and used again and again."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence

import numpy as np

from dvfl_runtime.clips.preprocess import preprocess_frame
from dvfl_runtime.clips.spec import Clip, ClipSpec
from dvfl_runtime.sources import Image

FIRST_CAPACITY = 16  # pictures; doubled while a stream needs more at once


class FrameRing:
    """Slots for the pictures of one source, each reused once no window holds it any more.

    Windows overlap, so a picture is preprocessed once and belongs to several of them: a window
    holds the numbers of its slots, and its pictures are copied once, into the batch that the
    engine gets. One thread adds; any thread may hold, take and release.

    Args:
        spec: how pictures are preprocessed.
    """

    def __init__(self, spec: ClipSpec) -> None:
        self._spec = spec
        self._pictures = np.empty((FIRST_CAPACITY, *spec.size, 3), np.uint8)
        self._holders = [0] * FIRST_CAPACITY
        self._free = list(range(FIRST_CAPACITY))
        self._lock = threading.Lock()

    @property
    def capacity(self) -> int:
        """Pictures that there is memory for."""
        return len(self._holders)

    def __len__(self) -> int:
        """Return the number of slots in use."""
        return self.capacity - len(self._free)

    def add(self, image: Image) -> int:
        """Preprocess a picture into a free slot; return its number, held once.

        Raises:
            ClipError: if the picture is not an (h, w, 3) uint8 array.
        """
        with self._lock:
            if not self._free:
                self._grow()
            slot = self._free.pop()
            self._holders[slot] = 1
        preprocess_frame(image, self._spec, out=self._pictures[slot])
        return slot

    def hold(self, slots: Iterable[int]) -> None:
        """Keep the slots from being reused until they are released once more."""
        with self._lock:
            for slot in slots:
                self._holders[slot] += 1

    def release(self, slots: Iterable[int]) -> None:
        """Undo one `add` or `hold` of each slot."""
        with self._lock:
            for slot in slots:
                self._holders[slot] -= 1
                if self._holders[slot] == 0:
                    self._free.append(slot)

    def take(self, slots: Sequence[int], out: Clip) -> None:
        """Copy the pictures of the (T,) slots into `out`, (T, H, W, 3), and release the slots."""
        with self._lock:  # growing moves them
            # numpy would copy twice with its default mode, through a buffer of its own
            np.take(self._pictures, slots, axis=0, out=out, mode="clip")
        self.release(slots)

    def _grow(self) -> None:
        old, count = self._pictures, self.capacity
        self._pictures = np.empty((2 * count, *old.shape[1:]), np.uint8)
        self._pictures[:count] = old
        self._holders += [0] * count
        self._free = list(range(count, 2 * count))
