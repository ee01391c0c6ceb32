"""Clips of video files, labelled or not."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import math
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from statistics import median

import numpy as np

from dvfl_models.data.clips import Sample
from dvfl_models.data.datasets import Entry, list_videos
from dvfl_models.data.decoding import SMALL_PX, Numbers, Times
from dvfl_models.data.frame_reader import FrameReader
from dvfl_models.recipe.tables import PretextTable, VideosTable
from dvfl_runtime.clips.sampling import nearest, uniform_indices, window_targets
from dvfl_runtime.clips.spec import Clip, ClipSpec
from dvfl_runtime.errors import RecipeError, SourceError
from dvfl_runtime.sources import open_source

log = logging.getLogger(__name__)

MEASURED_VIDEOS = 20  # whose length is read, to estimate that of all
MAX_CORRUPT = 0.01  # share of a data set's videos


class VideoClips:
    """Labelled video files; the test set has one clip per file, spread over the whole video.

    A file without any frame that can be decoded is left out; in training the next one takes its
    place.

    Args:
        table: of the recipe.
        labels: of the recipe.
        spec: of the clips.
        uncropped: give training the frames as they are before resize and crop; otherwise it gets
            exactly the pictures that a test and a device get.

    Attributes:
        entries: the files.
        corrupt: the paths of those that could not be decoded so far.
        reader: of their frames; sets of clips may share one.

    Raises:
        RecipeError: if the list or its files cannot be read, or no video has one of the labels.
    """

    def __init__(
        self, table: VideosTable, labels: Sequence[str], spec: ClipSpec, *, uncropped: bool = False
    ) -> None:
        self.table, self.spec, self.name, self.uncropped = table, spec, table.name, uncropped
        self.entries = list_videos(table, labels)
        by_class: dict[int, list[Entry]] = {}
        for entry in self.entries:
            by_class.setdefault(entry.class_id, []).append(entry)
        self.classes = sorted(by_class)
        self.by_class = [by_class[class_id] for class_id in self.classes]
        self.corrupt: set[str] = set()
        self.reader = FrameReader(entry.path for entry in self.entries)

    def sample(self, rng: np.random.Generator) -> Sample:
        """Return a random clip, as ClipSet asks."""
        entries = self.by_class[int(rng.integers(len(self.classes)))]
        return self.sample_of(entries, int(rng.integers(len(entries))), rng)

    def sample_of(self, entries: Sequence[Entry], first: int, rng: np.random.Generator) -> Sample:
        """Return a random clip of entry `first`, or of the next one that can be decoded.

        Raises:
            SourceError: if none of them can be decoded.
        """
        entry, clip = self.decodable(entries, first, self._random_window(rng))
        return Sample(clip, entry.class_id, entry.path)

    def decodable(
        self, entries: Sequence[Entry], first: int, pick: Callable[[Times], Numbers]
    ) -> tuple[Entry, Clip]:
        """Return entry `first`, or the next one that can be decoded, and picked frames of it.

        Raises:
            SourceError: if none of them can be decoded.
        """
        for entry in (*entries[first:], *entries[:first]):
            if entry.path in self.corrupt:
                continue
            try:
                return entry, self.frames_of(entry.path, pick)
            except SourceError as err:
                self.corrupt.add(entry.path)
                log.warning("left out: %s", err)
        raise SourceError(f"data set {self.name!r}: not one of {len(entries)} videos can be read")

    def _random_window(self, rng: np.random.Generator) -> Callable[[Times], Numbers]:
        """Return a function that picks T frames of a random window, at randomly shifted times."""
        num_frames, most = self.spec.num_frames, self.table.time_jitter
        longest_s, where = float(rng.uniform(*self.table.window_s)), float(rng.random())
        jitter = rng.uniform(-most, most, num_frames)  # in distances between two frames

        def pick(times: Times) -> Numbers:
            length_s = times[-1] * len(times) / max(len(times) - 1, 1)  # the last frame lasts too
            if not length_s:  # a single frame
                return np.zeros(num_frames, np.int64)
            window_s = min(longest_s, length_s)
            targets = window_targets(where * (length_s - window_s), window_s, num_frames)
            return nearest(times, targets + jitter * window_s / num_frames)

        return pick

    def frames_of(self, path: str, pick: Callable[[Times], Numbers]) -> Clip:
        """Return picked frames of a video for training, as the model sees them or uncropped.

        Args:
            path: of the file.
            pick: from the times of all frames, seconds since the first, to the numbers of T frames.

        Raises:
            SourceError: if no frame can be decoded.
        """
        small = max(self.spec.size) <= SMALL_PX
        uncropped_px = SMALL_PX if small else 2 * max(self.spec.size)
        if self.spec.focus != "frame":
            shape = _enlarged(self.spec) if self.uncropped else self.spec
            return self.reader.read(path, shape, pick, keep=False)
        return self.reader.read(
            path, uncropped_px if self.uncropped else self.spec, pick, keep=small
        )

    def usual_length_s(self) -> float | None:
        """Return the median length of some files, or None if no file states its own.

        It is at most that of the part that a test shows.
        """
        lengths = []
        for entry in self.entries[:: max(1, len(self.entries) // MEASURED_VIDEOS)]:
            with contextlib.suppress(SourceError), closing(open_source(entry.path)) as source:
                lengths.append(source.duration_s)
        known = [length_s for length_s in lengths if length_s]
        return min(median(known), self.table.middle_s or math.inf) if known else None

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, index: int) -> tuple[Clip, int]:
        entry, spec, middle_s = self.entries[index], self.spec, self.table.middle_s

        def pick(times: Times) -> Numbers:
            first, last = 0, len(times)
            if 0 < middle_s < times[-1]:
                ends = np.asarray([times[-1] - middle_s, times[-1] + middle_s]) / 2
                first, last = map(int, np.searchsorted(times, ends))
            shown = max(1, last - first)
            return first + uniform_indices(shown, spec.num_frames, spec.frame_interval)

        return self.reader.read(entry.path, spec, pick, keep=False), entry.class_id


class PretextClips:
    """Clips of videos that are played at several speeds or backwards.

    The test set has the middle of each of its videos once per class.

    Attributes:
        videos: all listed files.
        entries: those of training or of the test.

    Raises:
        RecipeError: if the files are not there, or `windows_s` names other classes than `labels`.
    """

    def __init__(self, table: PretextTable, labels: Sequence[str], spec: ClipSpec) -> None:
        listed = {"kind": "videos", "name": table.name, "index": table.index, "rename": {"": "any"}}
        self.videos = VideoClips(VideosTable.model_validate(listed), ["any"], spec)
        self.spec, self.name = spec, table.name
        if wrong := set(labels) ^ table.windows_s.keys():
            raise RecipeError(f"data set {table.name!r}: windows_s and labels differ in {wrong}")
        self.windows_s = [table.windows_s[label] for label in labels]
        tested = self.videos.entries[:: table.every] if table.every > 1 else self.videos.entries
        rest = [entry for entry in self.videos.entries if entry not in tested]
        self.entries = tested if table.test or table.every == 1 else rest

    def sample(self, rng: np.random.Generator) -> Sample:
        """Return a random clip, as ClipSet asks."""
        class_id = int(rng.integers(len(self.windows_s)))
        first = int(rng.integers(len(self.entries)))
        played = self._play(class_id, rng.random())
        entry, clip = self.videos.decodable(self.entries, first, played)
        return Sample(clip, class_id, entry.path)

    def _play(self, class_id: int, where: float) -> Callable[[Times], Numbers]:
        """Return a function that picks the frames of a class.

        Args:
            class_id: the class.
            where: place of the window, 0 (start) to 1 (end).
        """
        window_s = self.windows_s[class_id]

        def pick(times: Times) -> Numbers:
            free_s = max(0.0, float(times[-1]) - abs(window_s))
            targets = window_targets(where * free_s, abs(window_s), self.spec.num_frames)
            picked = nearest(times, targets)
            return picked[::-1] if window_s < 0 else picked

        return pick

    def __len__(self) -> int:
        return len(self.entries) * len(self.windows_s)

    def __getitem__(self, index: int) -> tuple[Clip, int]:
        number, class_id = divmod(index, len(self.windows_s))
        path = self.entries[number].path
        return self.videos.frames_of(path, self._play(class_id, 0.5)), class_id


def _enlarged(spec: ClipSpec) -> ClipSpec:
    """Return the spec of clips twice as large that show all of a region, to cut random parts of."""
    height, width = spec.size
    size = (2 * height, 2 * width)
    return dataclasses.replace(spec, size=size, resize=max(size), crop="center")


def check_corrupt(name: str, corrupt: Iterable[str], videos: int) -> None:
    """Raise RecipeError, with the list, if more than 1 % of a data set cannot be decoded.

    Args:
        name: of the data set.
        corrupt: paths of the videos that cannot be decoded.
        videos: how many the data set has.
    """
    paths = sorted(corrupt)
    if len(paths) > MAX_CORRUPT * videos:
        raise RecipeError(
            f"data set {name!r}: {len(paths)} of {videos} videos cannot be decoded, more than "
            f"{MAX_CORRUPT:.0%}; mend them or take them out of the list: {', '.join(paths)}"
        )
