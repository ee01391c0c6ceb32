"""The pictures of one source that windows may pick, each kept once for all of its windows."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from dvfl_runtime.clips.boxes import FixedBoxes
from dvfl_runtime.clips.finder import RegionFinder, Track, WindowPictures
from dvfl_runtime.clips.motion import Grey, small_grey
from dvfl_runtime.clips.preprocess import check_clip, context_frame, cut, preprocess_frame
from dvfl_runtime.clips.sampling import window_targets
from dvfl_runtime.clips.spec import Clip, ClipSpec
from dvfl_runtime.results import Region, TrackId
from dvfl_runtime.sources.frame import Frame, Image, check_rgb

FIRST_CAPACITY = 16  # pictures; doubled while a stream needs more at once


class PictureRing(ABC):
    """Slots for the pictures of one source, each reused once no window holds it any more.

    Windows overlap, so a picture belongs to several of them: a window holds the numbers of its
    slots, and what it shows of its pictures is copied once, into the batch that the engine gets.
    One thread adds and asks for grey pictures; any thread may hold, take and release.

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
    def greys(self, slots: Sequence[int]) -> Sequence[Grey]:
        """Return the pictures of the (T,) slots, small and grey, in which motion is found."""

    @abstractmethod
    def take(self, slots: Sequence[int], track: Track, out: Clip) -> None:
        """Write what the (T,) slots show of a track to `out`, (T, H, W, 3), preprocessed.

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


class FixedRing(PictureRing):
    """Keeps fixed parts of the pictures, preprocessed, in memory that is allocated once.

    Args:
        spec: how pictures are preprocessed.
        tracks: the parts, each of which stays where it is.
    """

    _pictures: NDArray[np.uint8]  # (parts, capacity, H, W, 3)

    def __init__(self, spec: ClipSpec, tracks: Sequence[Track]) -> None:
        self._tracks = tuple(tracks)
        super().__init__(spec)

    def greys(self, slots: Sequence[int]) -> Sequence[Grey]:
        """Return none: fixed parts need no motion."""
        return []

    def take(self, slots: Sequence[int], track: Track, out: Clip) -> None:
        """Copy the pictures of a part and release the slots."""
        part = self._tracks.index(track)
        with self._lock:  # growing moves them
            # numpy would copy twice with its default mode, through a buffer of its own
            np.take(self._pictures[part], slots, axis=0, out=out, mode="clip")
        self.release(slots)

    def _put(self, slot: int, image: Image) -> None:
        check_rgb(image)
        for part, track in enumerate(self._tracks):
            preprocess_frame(cut(image, track.region), self.spec, out=self._pictures[part, slot])

    def _drop(self, slot: int) -> None:
        return

    def _make_room(self, capacity: int) -> None:
        pictures = np.empty((len(self._tracks), capacity, *self.spec.size, 3), np.uint8)
        pictures[:, : self.capacity] = self._pictures if self.capacity else 0
        self._pictures = pictures


class ContextRing(PictureRing):
    """Keeps larger pictures, of which each window takes the parts that its tracks show."""

    def __init__(self, spec: ClipSpec) -> None:
        self._contexts: list[Image | None] = []
        self._greys: list[Grey | None] = []
        # what the last window took of each picture, by the track
        self._seen: list[dict[TrackId | None, tuple[Region, Image]]] = []
        super().__init__(spec)

    def greys(self, slots: Sequence[int]) -> Sequence[Grey]:
        """Return the pictures of the (T,) slots, small and grey, each made once."""
        return [self._grey(slot) for slot in slots]

    def take(self, slots: Sequence[int], track: Track, out: Clip) -> None:
        """Cut and preprocess the pictures, and release the slots."""
        for n, (slot, picture) in enumerate(zip(slots, out, strict=True)):
            region = track.region_at(n)
            if track.path:  # no other window has exactly this region
                preprocess_frame(cut(self._context(slot), region), self.spec, out=picture)
            else:
                picture[:] = self._preprocessed(slot, track.track_id, region)
        self.release(slots)

    def _preprocessed(self, slot: int, track_id: TrackId | None, region: Region) -> Image:
        """Return the region of a picture; windows overlap, and most have that of the one before."""
        seen = self._seen[slot].get(track_id)
        if seen is None or seen[0] != region:
            seen = region, preprocess_frame(cut(self._context(slot), region), self.spec)
            self._seen[slot][track_id] = seen
        return seen[1]

    def _context(self, slot: int) -> Image:
        context = self._contexts[slot]
        assert context is not None  # the caller holds it
        return context

    def _grey(self, slot: int) -> Grey:
        grey = self._greys[slot]
        if grey is None:
            grey = self._greys[slot] = small_grey(self._context(slot))
        return grey

    def _put(self, slot: int, image: Image) -> None:
        context = context_frame(image, self.spec)
        # a source may use the memory of its picture again
        self._contexts[slot] = context.copy() if context is image else context

    def _drop(self, slot: int) -> None:
        self._contexts[slot] = self._greys[slot] = None
        self._seen[slot] = {}

    def _make_room(self, capacity: int) -> None:
        more = capacity - len(self._contexts)
        self._contexts += [None] * more
        self._greys += [None] * more
        self._seen += [{} for _ in range(more)]


def ring_for(spec: ClipSpec, finder: RegionFinder) -> PictureRing:
    """Return the ring for what finds the regions."""
    return FixedRing(spec, finder.tracks) if isinstance(finder, FixedBoxes) else ContextRing(spec)


def region_clips(clip: Clip, spec: ClipSpec, finder: RegionFinder) -> list[tuple[Clip, Track]]:
    """Cut a single clip, (T, h, w, 3), to its regions: a preprocessed (T, H, W, 3) of each.

    Raises:
        ClipError: if the clip is not (T, h, w, 3) uint8 with T = `spec.num_frames`.
        ArgumentError: if the finder fails.
    """
    check_clip(clip, spec)
    times_s = window_targets(0.0, spec.window_s, spec.num_frames).tolist()
    frames = [Frame(image, times_s[n], n) for n, image in enumerate(clip)]
    for frame in frames:
        finder.look(frame)
    return window_clips(frames, (0.0, spec.window_s), spec, finder)


def window_clips(
    frames: Sequence[Frame], span_s: tuple[float, float], spec: ClipSpec, finder: RegionFinder
) -> list[tuple[Clip, Track]]:
    """Cut the T frames of a window to its regions: a preprocessed (T, H, W, 3) of each.

    Args:
        frames: in order of time; the finder has looked at them.
        span_s: start and end of the window, seconds.
        spec: the model's contract.
        finder: of the regions.

    Raises:
        ClipError: if a picture is not an (h, w, 3) uint8 array.
    """
    ring = ring_for(spec, finder)
    slots = [ring.add(frame.image) for frame in frames]
    times_s = [frame.time_s for frame in frames]
    pictures = WindowPictures(*span_s, times_s, lambda: ring.greys(slots))
    found = []
    for track in finder.find(pictures):
        out = np.empty((spec.num_frames, *spec.size, 3), np.uint8)
        ring.hold(slots)
        ring.take(slots, track, out)
        found.append((out, track))
    return found
