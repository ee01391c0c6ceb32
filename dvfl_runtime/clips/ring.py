"""Preprocessed pictures in memory that is allocated once and used again and again."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from dvfl_runtime.sources import Image

FIRST_CAPACITY = 16  # pictures; doubled while a stream needs more at once


class FrameRing:
    """Slots for pictures of one size, each used again once nobody holds it any more.

    Windows overlap, so a picture is written once and belongs to several of them: a window holds
    the numbers of its slots, and its pictures are copied once, into the batch that the engine
    gets. One thread adds; any thread may gather and release.

    Args:
        shape: (H, W, 3) of a picture.
        prepare: makes such a picture of any other; gets it, and the memory to write to.
    """

    def __init__(
        self, shape: tuple[int, int, int], prepare: Callable[[Image, Image], object]
    ) -> None:
        self._prepare = prepare
        self._pictures = np.empty((FIRST_CAPACITY, *shape), np.uint8)
        self._holders = [0] * FIRST_CAPACITY
        self._free = list(range(FIRST_CAPACITY))
        self._lock = threading.Lock()

    @property
    def capacity(self) -> int:
        """Pictures that there is memory for."""
        return len(self._holders)

    def __len__(self) -> int:
        """Returns the number of slots that somebody holds."""
        return self.capacity - len(self._free)

    def add(self, image: Image) -> int:
        """Prepares a picture into a slot; returns its number, held once."""
        with self._lock:
            if not self._free:
                self._grow()
            slot = self._free.pop()
            self._holders[slot] = 1
        self._prepare(image, self._pictures[slot])
        return slot

    def hold(self, slots: Iterable[int]) -> None:
        """Keeps the slots from being used again until they are released once more."""
        with self._lock:
            for slot in slots:
                self._holders[slot] += 1

    def release(self, slots: Iterable[int]) -> None:
        """Undoes one `add` or `hold` of each slot."""
        with self._lock:
            for slot in slots:
                self._holders[slot] -= 1
                if self._holders[slot] == 0:
                    self._free.append(slot)

    def gather(self, slots: Sequence[int], out: Image) -> None:
        """Copies the pictures of the (T,) slots into `out`, (T, H, W, 3)."""
        with self._lock:  # growing moves them
            # numpy would copy twice with its default mode, through a buffer of its own
            np.take(self._pictures, slots, axis=0, out=out, mode="clip")

    def _grow(self) -> None:
        old, count = self._pictures, self.capacity
        self._pictures = np.empty((2 * count, *old.shape[1:]), np.uint8)
        self._pictures[:count] = old
        self._holders += [0] * count
        self._free = list(range(count, 2 * count))
