"""Frames of videos as training and its tests read them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from contextlib import closing
from pathlib import Path

import numpy as np

from dvfl_models.data.decoding import SMALL_PX, Numbers, Times, assembled, prepared
from dvfl_models.data.shared_store import SharedStore
from dvfl_runtime.clips.picking import pick_frames, pick_mapped_frames
from dvfl_runtime.clips.spec import Clip, ClipSpec
from dvfl_runtime.sources import open_source
from dvfl_runtime.sources.recorded.file_map import ROW, FileMap

KEPT_BYTES = 3 << 30  # of decoded small videos, about a thousand of 100 frames
KEPT_MAP_BYTES = 256 << 20  # of the maps of files, 20 million frames
KEPT_FRAMES = 800  # of one video, 30 MB: of a longer one a clip is read at a time


class FrameReader:
    """Reads the frames of clips, and what makes the next reading of the same video faster.

    All processes that a loader starts share what is kept: where the frames of each file are, and
    the decoded frames of small videos, up to one bound for all.

    Args:
        paths: of all videos.
        kept_bytes: bound of the decoded frames; 0 keeps none.
    """

    def __init__(self, paths: Iterable[str], kept_bytes: int = KEPT_BYTES) -> None:
        self.unmapped: set[str] = set()  # damaged files that this process has met
        self.maps: SharedStore | None = None
        self.frames: SharedStore | None = None
        if hasattr(os, "pread"):  # not on Windows
            paths = [*paths]
            self.maps = SharedStore(paths, ROW, KEPT_MAP_BYTES)
            self.frames = SharedStore(paths, np.uint8, kept_bytes)

    def read(
        self, path: str, shape: ClipSpec | int, pick: Callable[[Times], Numbers], *, keep: bool
    ) -> Clip:
        """Return picked frames of a video, (T, h, w, 3).

        Args:
            path: of the file.
            shape: the ClipSpec of a model, for its focus, resize and crop, or the longest side, px.
            pick: from the times of all frames, seconds since the first, to the numbers of T frames.
            keep: whether all frames may be kept decoded; always of the same shape for a path, and
                not of a model that looks at what moves, which depends on the picked frames.

        Raises:
            SourceError: if no frame can be decoded.
        """
        file_map, store = self._map_of(path), self.frames if keep else None
        if file_map is not None and store is not None and (stored := store.get(path)) is not None:
            numbers = pick(file_map.times_s - file_map.times_s[0])
            return np.concatenate([stored.read(int(n), 1) for n in numbers])

        def picked_or_all(times_s: Times) -> Numbers:
            size = len(times_s) * 3 * SMALL_PX**2
            small = store is not None and store.has_room(size) and len(times_s) <= KEPT_FRAMES
            if small and path not in self.unmapped:
                return np.arange(len(times_s))
            return pick(times_s - times_s[0])

        prepare, picked = prepared(shape), None
        if file_map is not None:
            picked = pick_mapped_frames(Path(path), picked_or_all, prepare, file_map)
        if picked is None:
            with closing(open_source(path)) as source:
                picked = pick_frames(source, picked_or_all, prepare, num_threads=1)
        if picked.file_map is None:
            self.unmapped.add(path)
        elif self.maps is not None:
            self.maps.put(path, picked.file_map.rows)
            if store is not None and picked.numbers.size == len(picked.times_s):
                store.put(path, np.stack([picked.kept[n] for n in range(len(picked.times_s))]))
        numbers = pick(picked.times_s - picked.times_s[0])
        return assembled([picked.kept[int(n)] for n in numbers], shape)

    def _map_of(self, path: str) -> FileMap | None:
        stored = None if self.maps is None else self.maps.get(path)
        return None if stored is None else FileMap(stored.read(0, stored.shape[0]))
