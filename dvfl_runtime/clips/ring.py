"""The pictures of one source that windows may pick, each kept once for all of its windows."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence

import numpy as np

from dvfl_runtime.clips.focus import FocusMemory, Grey, find_region, small_grey
from dvfl_runtime.clips.preprocess import aspect_of, context_frame, cut, preprocess_frame
from dvfl_runtime.clips.spec import Clip, ClipSpec
from dvfl_runtime.results import WHOLE, Region
from dvfl_runtime.sources import Image

FIRST_CAPACITY = 16  # pictures; doubled while a stream needs more at once


class PictureRing(ABC):
    """Slots for the pictures of one source, each reused once no window holds it any more.

    Windows overlap, so a picture belongs to several of them: a window holds the numbers of its
    slots, and its pictures are copied once, into the batch that the engine gets. One thread adds
    and asks for regions; any thread may hold, take and release.

    Args:
        spec: how pictures are preprocessed.
    """

    def __init__(self, spec: ClipSpec) -> None:
        self.spec = spec
        self._holders: list[int] = []
        self._free: list[int] = []
        self._lock = threading.Lock()
        self._grow(FIRST_CAPACITY)

    @property
    def capacity(self) -> int:
        """Pictures that there is room for."""
        return len(self._holders)

    def __len__(self) -> int:
        """Return the number of slots in use."""
        return self.capacity - len(self._free)

    def add(self, image: Image) -> int:
        """Put a picture into a free slot; return its number, held once.

        Raises:
            ClipError: if the picture is not an (h, w, 3) uint8 array.
        """
        with self._lock:
            if not self._free:
                self._grow(self.capacity)
            slot = self._free.pop()
            self._holders[slot] = 1
        self._put(slot, image)
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
                    self._drop(slot)
                    self._free.append(slot)

    @abstractmethod
    def region_of(self, slots: Sequence[int], end_s: float) -> Region:
        """Return the part of the picture that the next window is cut from.

        Args:
            slots: (T,) places of the window's pictures.
            end_s: where the window ends, seconds.
        """

    @abstractmethod
    def take(self, slots: Sequence[int], region: Region, out: Clip) -> None:
        """Write the region of the pictures of the (T,) slots to `out`, (T, H, W, 3), preprocessed.

        The slots are released.
        """

    @abstractmethod
    def _put(self, slot: int, image: Image) -> None:
        """Keep a picture in a slot."""

    @abstractmethod
    def _drop(self, slot: int) -> None:
        """Forget the picture in a slot."""

    @abstractmethod
    def _make_room(self, capacity: int) -> None:
        """Make room for so many pictures, and keep those that are there."""

    def _grow(self, more: int) -> None:
        count = self.capacity
        self._make_room(count + more)
        self._holders += [0] * more
        self._free += range(count, count + more)


class FrameRing(PictureRing):
    """Keeps whole pictures, preprocessed, in memory that is allocated once."""

    _pictures: Clip

    def region_of(self, slots: Sequence[int], end_s: float) -> Region:
        """Return the whole picture."""
        return WHOLE

    def take(self, slots: Sequence[int], region: Region, out: Clip) -> None:
        """Copy the pictures and release the slots."""
        with self._lock:  # growing moves them
            # numpy would copy twice with its default mode, through a buffer of its own
            np.take(self._pictures, slots, axis=0, out=out, mode="clip")
        self.release(slots)

    def _put(self, slot: int, image: Image) -> None:
        preprocess_frame(image, self.spec, out=self._pictures[slot])

    def _drop(self, slot: int) -> None:
        return

    def _make_room(self, capacity: int) -> None:
        pictures = np.empty((capacity, *self.spec.size, 3), np.uint8)
        pictures[: self.capacity] = self._pictures if self.capacity else 0
        self._pictures = pictures


class ContextRing(PictureRing):
    """Keeps larger pictures, of which each window takes the part in which something moves."""

    def __init__(self, spec: ClipSpec) -> None:
        self._contexts: list[Image | None] = []
        self._greys: list[Grey | None] = []
        self._seen: list[tuple[Region, Image] | None] = []  # what the last window took of each
        self._memory = FocusMemory()
        super().__init__(spec)

    def region_of(self, slots: Sequence[int], end_s: float) -> Region:
        """Return the region of what moves in a window; it depends on the windows before."""
        greys = [grey for slot in slots if (grey := self._greys[slot]) is not None]
        aspect = aspect_of(self.spec)
        region, self._memory = find_region(greys, aspect, end_s=end_s, memory=self._memory)
        return region

    def take(self, slots: Sequence[int], region: Region, out: Clip) -> None:
        """Cut and preprocess the pictures, and release the slots."""
        for slot, picture in zip(slots, out, strict=True):
            picture[:] = self._preprocessed(slot, region)
        self.release(slots)

    def _preprocessed(self, slot: int, region: Region) -> Image:
        """Return the region of a picture; windows overlap, and most have that of the one before."""
        seen, context = self._seen[slot], self._contexts[slot]
        assert context is not None  # the caller holds it
        if seen is None or seen[0] != region:
            seen = self._seen[slot] = region, preprocess_frame(cut(context, region), self.spec)
        return seen[1]

    def _put(self, slot: int, image: Image) -> None:
        context = context_frame(image, self.spec)
        self._greys[slot] = small_grey(context)
        # a source may use the memory of its picture again
        self._contexts[slot] = context.copy() if context is image else context

    def _drop(self, slot: int) -> None:
        self._contexts[slot] = self._greys[slot] = self._seen[slot] = None

    def _make_room(self, capacity: int) -> None:
        more = capacity - len(self._contexts)
        self._contexts += [None] * more
        self._greys += [None] * more
        self._seen += [None] * more


def ring_for(spec: ClipSpec) -> PictureRing:
    """Return the ring for what the model looks at."""
    return FrameRing(spec) if spec.focus == "frame" else ContextRing(spec)
