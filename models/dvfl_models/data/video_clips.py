"""Clips of video files, labelled or not."""

from __future__ import annotations

import contextlib
import functools
import logging
from collections.abc import Iterable, Sequence
from contextlib import closing
from statistics import median

import cv2
import numpy as np
from numpy.typing import NDArray

from dvfl_models.data.clips import Clip, ClipSet, Sample
from dvfl_models.data.datasets import Entry, list_videos
from dvfl_models.recipe.parts import PretextPart, VideosPart
from dvfl_runtime.clips.preprocess import preprocess_frame
from dvfl_runtime.clips.sampling import nearest, uniform_indices, window_targets
from dvfl_runtime.clips.spec import ClipSpec
from dvfl_runtime.errors import RecipeError, SourceError
from dvfl_runtime.sources import open_source

log = logging.getLogger(__name__)

CACHE_PX = 112  # up to this side the decoded videos of a model are kept in memory
CACHED_VIDEOS = 1024  # about 3 GB of videos of 100 frames
ASKED = 20  # videos whose length is asked for
MAX_CORRUPT = 0.01  # share of a data set's videos


class VideoClips:
    """Labelled video files; the test set is one clip per file, spread over the whole video.

    A file of which no frame can be decoded is left out: the next one takes its place in training.

    Attributes:
        entries: the files.
        corrupt: those that could not be decoded so far.
    """

    def __init__(
        self, part: VideosPart, labels: Sequence[str], spec: ClipSpec, *, whole: bool = False
    ) -> None:
        """Lists the files; with `whole`, training gets the frames before resize and crop.

        Without it training gets the very pictures that a test and a device get.
        """
        self.part, self.spec, self.name, self.whole = part, spec, part.name, whole
        self.entries = list_videos(part, labels)
        by_class: dict[int, list[Entry]] = {}
        for entry in self.entries:
            by_class.setdefault(entry.class_id, []).append(entry)
        self.classes = sorted(by_class)
        self.by_class = [by_class[class_id] for class_id in self.classes]
        self.corrupt: set[str] = set()

    def sample(self, rng: np.random.Generator) -> Sample:
        """See ClipSet."""
        entries = self.by_class[int(rng.integers(len(self.classes)))]
        return self.take(entries, int(rng.integers(len(entries))), rng)

    def take(self, entries: Sequence[Entry], first: int, rng: np.random.Generator) -> Sample:
        """A random clip of entry `first`, or of the next one that can be decoded.

        Raises:
            SourceError: if none of them can be decoded.
        """
        entry, images, times = self.decodable(entries, first)
        return Sample(self._cut(images, times, rng), entry.class_id, entry.path)

    def decodable(
        self, entries: Sequence[Entry], first: int
    ) -> tuple[Entry, Clip, NDArray[np.float64]]:
        """Entry `first` or the next one that can be decoded, its frames and their times, s.

        Raises:
            SourceError: if none of them can be decoded.
        """
        for entry in (*entries[first:], *entries[:first]):
            if entry.path in self.corrupt:
                continue
            try:
                return entry, *self.frames_of(entry.path)
            except SourceError as err:
                self.corrupt.add(entry.path)
                log.warning("left out: %s", err)
        raise SourceError(f"data set {self.name!r}: not one of {len(entries)} videos can be read")

    def _cut(self, images: Clip, times: NDArray[np.float64], rng: np.random.Generator) -> Clip:
        length = times[-1] * len(times) / max(len(times) - 1, 1)
        if not length:  # a single frame
            return images[np.zeros(self.spec.num_frames, np.int64)]
        span = min(float(rng.uniform(*self.part.window_s)), length)
        targets = window_targets(rng.uniform(0, length - span), span, self.spec.num_frames)
        most = self.part.time_jitter
        jitter = rng.uniform(-most, most, len(targets)) * span / self.spec.num_frames
        return images[nearest(times, targets + jitter)]

    def frames_of(self, path: str) -> tuple[Clip, NDArray[np.float64]]:
        """All frames of a video and their times, s: as the model sees them, or uncropped."""
        small = max(self.spec.size) <= CACHE_PX
        uncropped_px = CACHE_PX if small else 2 * max(self.spec.size)
        read = decoded if small else decode
        return read(path, uncropped_px if self.whole else self.spec)

    def usual_length_s(self) -> float | None:
        """The middle of the lengths that some of its files say they have; None if none says it."""
        found = []
        for entry in self.entries[:: max(1, len(self.entries) // ASKED)]:
            with contextlib.suppress(SourceError), closing(open_source(entry.path)) as source:
                found.append(source.duration_s)
        lengths = [length for length in found if length]
        return median(lengths) if lengths else None

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, index: int) -> tuple[Clip, int]:
        entry = self.entries[index]
        with closing(open_source(entry.path)) as source:
            images = [preprocess_frame(frame.image, self.spec) for frame in source.frames()]
        picks = uniform_indices(len(images), self.spec.num_frames, self.spec.frame_interval)
        return np.stack([images[pick] for pick in picks]), entry.class_id


class PretextClips:
    """Clips of unlabelled videos that were played at a speed or backwards; the class says how.

    A test set has the middle of each of its videos once per class.
    """

    def __init__(self, part: PretextPart, labels: Sequence[str], spec: ClipSpec) -> None:
        listed = {"kind": "videos", "name": part.name, "index": part.index, "rename": {"": "any"}}
        self.videos = VideoClips(VideosPart.model_validate(listed), ["any"], spec)
        self.part, self.spec, self.name = part, spec, part.name
        if wrong := set(labels) ^ part.windows_s.keys():
            raise RecipeError(f"data set {part.name!r}: windows_s and labels differ in {wrong}")
        self.windows_s = [part.windows_s[label] for label in labels]
        tested = self.videos.entries[:: part.every] if part.every > 1 else self.videos.entries
        rest = [entry for entry in self.videos.entries if entry not in tested]
        self.entries = tested if part.test or part.every == 1 else rest

    def sample(self, rng: np.random.Generator) -> Sample:
        """See ClipSet."""
        class_id = int(rng.integers(len(self.windows_s)))
        first = int(rng.integers(len(self.entries)))
        entry, images, times = self.videos.decodable(self.entries, first)
        return Sample(self._played(images, times, class_id, rng.random()), class_id, entry.path)

    def _played(
        self, images: Clip, times: NDArray[np.float64], class_id: int, where: float
    ) -> Clip:
        window_s = self.windows_s[class_id]
        free_s = max(0.0, float(times[-1]) - abs(window_s))
        targets = window_targets(where * free_s, abs(window_s), self.spec.num_frames)
        picked = images[nearest(times, targets)]
        return picked[::-1] if window_s < 0 else picked

    def __len__(self) -> int:
        return len(self.entries) * len(self.windows_s)

    def __getitem__(self, index: int) -> tuple[Clip, int]:
        number, class_id = divmod(index, len(self.windows_s))
        images, times = self.videos.frames_of(self.entries[number].path)
        return self._played(images, times, class_id, 0.5), class_id


def decode(
    path: str, shape: ClipSpec | int, *, antialias: bool = False
) -> tuple[Clip, NDArray[np.float64]]:
    """All frames of a short video, (N, h, w, 3), and seconds since the first.

    Args:
        path: the file.
        shape: how a model sees them, or their long side at most, px.
        antialias: whether frames are averaged over areas to that side; models with a centred crop
            are not shown such pictures (see `preprocess`), so their training is not either.

    Raises:
        SourceError: if not one can be decoded.
    """
    images, times = [], []
    with closing(open_source(path)) as source:
        for frame in source.frames():
            if isinstance(shape, ClipSpec):
                images.append(preprocess_frame(frame.image, shape))
            else:
                images.append(_shrunk(frame.image, shape, antialias=antialias))
            times.append(frame.time_s)
    return np.stack(images).astype(np.uint8, copy=False), np.asarray(times) - times[0]


def _shrunk(image: Clip, long_px: int, *, antialias: bool) -> Clip:
    height, width = image.shape[:2]
    scale = min(1.0, long_px / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    how = cv2.INTER_AREA if antialias else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(image, size, interpolation=how), np.uint8)


decoded = functools.lru_cache(CACHED_VIDEOS)(decode)  # kept in memory


def check_corrupt(name: str, corrupt: Iterable[str], videos: int) -> None:
    """Stops where too much of a data set cannot be decoded.

    Raises:
        RecipeError: with the list, if it is more than 1 % of the videos.
    """
    paths = sorted(corrupt)
    if len(paths) > MAX_CORRUPT * videos:
        raise RecipeError(
            f"data set {name!r}: {len(paths)} of {videos} videos cannot be decoded, more than "
            f"{MAX_CORRUPT:.0%}; mend them or take them out of the list: {', '.join(paths)}"
        )


def files_of(sets: Iterable[ClipSet]) -> list[VideoClips]:
    """Those of the sets that come from files."""
    every = [clips.videos if isinstance(clips, PretextClips) else clips for clips in sets]
    return [clips for clips in every if isinstance(clips, VideoClips)]
