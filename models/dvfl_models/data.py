"""Clips for training and testing: synthetic ones and labelled video files.

Each training batch is a pure function of (seed, step): a resumed run sees the clips that an
uninterrupted one would have seen, with no generator state to store.
"""

from __future__ import annotations

import csv
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from dvfl_models.augment import ClipAugmentation, degrade
from dvfl_models.recipe import Recipe, SyntheticPart, VideosPart
from dvfl_models.synthetic import render_clip, render_video
from dvfl_runtime.errors import RecipeError
from dvfl_runtime.preprocess import preprocess_clip
from dvfl_runtime.sampling import nearest, uniform_indices, window_targets
from dvfl_runtime.sources import open_source
from dvfl_runtime.spec import ClipSpec

Clip = NDArray[np.uint8]
Size = tuple[int, int]
VIDEO_SUFFIXES = {".avi", ".mp4", ".mkv", ".mov", ".webm", ".gif", ".m4v"}
CACHE_PX = 112  # decoded videos are kept in memory at this long side
CACHED_VIDEOS = 1024  # about 3 GB of videos of 100 frames


class ClipSet(Protocol):
    """Clips of one origin."""

    name: str

    def sample(self, rng: np.random.Generator) -> tuple[Clip, int]:
        """A random clip (T, H, W, 3) and its class, classes equally likely."""

    def __len__(self) -> int:
        """Clips of the fixed test set."""

    def __getitem__(self, index: int) -> tuple[Clip, int]:
        """Clip (T, H, W, 3) and class of the fixed test set."""


class SyntheticClips:
    """Rendered clips; the test set has `part.clips` per class from `part.first_seed` on."""

    def __init__(self, part: SyntheticPart, labels: Sequence[str], spec: ClipSpec) -> None:
        self.part, self.labels, self.spec = part, labels, spec
        self.name = part.name

    def _clip(self, class_id: int, seed: int, rng: np.random.Generator) -> Clip:
        height, width = self.spec.size
        if rng.random() < 0.4:  # other aspect ratios, with the bars that letterboxing gives them
            if rng.random() < 0.5:
                height = int(height * rng.uniform(0.6, 1))
            else:
                width = int(width * rng.uniform(0.6, 1))
        window_s = float(rng.uniform(*self.part.window_s))
        if self.part.change:
            clip = self._changing_clip(class_id, seed, rng, window_s, (height, width))
        else:
            clip = render_clip(
                self.labels[class_id],
                seed=seed,
                num_frames=self.spec.num_frames,
                window_s=window_s,
                size=(height, width),
                clean=self.part.clean,
            )
        return preprocess_clip(clip, self.spec)

    def _changing_clip(
        self, class_id: int, seed: int, rng: np.random.Generator, window_s: float, size: Size
    ) -> Clip:
        """Another action, mostly idle, before or after; the class fills 58 to 85 % of the window.

        Without such clips a network names an action as soon as a corner of it is in the window, and
        segments come out half a second too long at either end.
        """
        others = [name for name in self.labels if name != self.labels[class_id]]
        idle = "idle" in others and rng.random() < 0.7
        other = "idle" if idle else str(rng.choice(others))
        share = float(rng.uniform(0.58, 0.85))
        parts = [(self.labels[class_id], share * window_s), (other, (1 - share) * window_s)]
        timeline = parts if rng.random() < 0.5 else parts[::-1]
        fps = self.spec.num_frames / window_s
        return np.stack(list(render_video(timeline, seed=seed, fps=fps, size=size)))

    def sample(self, rng: np.random.Generator) -> tuple[Clip, int]:
        """See ClipSet."""
        class_id = int(rng.integers(len(self.labels)))
        seed = self.part.first_seed + int(rng.integers(10**9))
        return self._clip(class_id, seed, rng), class_id

    def __len__(self) -> int:
        return self.part.clips * len(self.labels)

    def __getitem__(self, index: int) -> tuple[Clip, int]:
        class_id, number = index % len(self.labels), index // len(self.labels)
        seed = self.part.first_seed + number
        return self._clip(class_id, seed, np.random.default_rng([seed, class_id])), class_id


class VideoClips:
    """Labelled video files; the test set is one clip per file, spread over the whole video."""

    def __init__(self, part: VideosPart, labels: Sequence[str], spec: ClipSpec) -> None:
        self.part, self.spec, self.name = part, spec, part.name
        self.files = _listed(part, labels)
        self.by_class = [
            [path for path, class_id in self.files if class_id == wanted]
            for wanted in sorted({class_id for _, class_id in self.files})
        ]
        self.classes = sorted({class_id for _, class_id in self.files})

    def sample(self, rng: np.random.Generator) -> tuple[Clip, int]:
        """See ClipSet."""
        choice = int(rng.integers(len(self.classes)))
        paths = self.by_class[choice]
        images, times = decoded(paths[int(rng.integers(len(paths)))])
        length = times[-1] * len(times) / max(len(times) - 1, 1)
        span = min(float(rng.uniform(*self.part.window_s)), length)
        targets = window_targets(rng.uniform(0, length - span), span, self.spec.num_frames)
        jitter = rng.uniform(-0.25, 0.25, len(targets)) * span / self.spec.num_frames
        picked = images[nearest(times, targets + jitter)]
        return preprocess_clip(picked, self.spec), self.classes[choice]

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Clip, int]:
        path, class_id = self.files[index]
        images = np.stack([frame.image for frame in open_source(path).frames()])
        picks = uniform_indices(len(images), self.spec.num_frames, self.spec.frame_interval)
        return preprocess_clip(images[picks], self.spec), class_id


@functools.cache
def decoded(path: str) -> tuple[Clip, NDArray[np.float64]]:
    """All frames of a short video at most `CACHE_PX` large, (N, h, w, 3), and their times, s."""
    images, times = [], []
    for frame in open_source(path).frames():
        height, width = frame.image.shape[:2]
        scale = min(1.0, CACHE_PX / max(height, width))
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        images.append(cv2.resize(frame.image, size, interpolation=cv2.INTER_AREA))
        times.append(frame.time_s)
    return np.stack(images).astype(np.uint8, copy=False), np.asarray(times)


def _listed(part: VideosPart, labels: Sequence[str]) -> list[tuple[str, int]]:
    """(path, class) of the files that the part's filters keep."""
    index = Path(part.index)
    if index.is_dir():
        names = sorted(p.name for p in index.iterdir() if p.suffix.lower() in VIDEO_SUFFIXES)
        rows = [{"file": name, "label": ""} for name in names]
        folder = index
    else:
        try:
            with index.open(newline="", encoding="utf-8") as file:
                rows = list(csv.DictReader(file))
        except OSError as err:
            raise RecipeError(
                f"data set {part.name!r}: cannot read {index}: {err.strerror}; "
                f"set its path with --set train.N.index=... or test.N.index=..."
            ) from err
        folder = index.parent
    for column in (*part.only, *part.exclude):
        if rows and column not in rows[0]:
            raise RecipeError(
                f"data set {part.name!r}: no column {column!r} in {index}; it has {list(rows[0])}"
            )
    for row in rows:
        row["label"] = part.rename.get(row["label"], row["label"] if not part.rename else "")
    kept = [
        (str(folder / row["file"]), labels.index(row["label"]))
        for row in rows
        if row["label"] in labels
        and all(row[column] in values for column, values in part.only.items())
        and not any(row[column] in values for column, values in part.exclude.items())
    ]
    if not kept:
        raise RecipeError(
            f"data set {part.name!r}: no row of {index} has a label of {list(labels)} "
            f"and passes its filters"
        )
    if missing := [path for path, _ in kept if not Path(path).is_file()]:
        raise RecipeError(
            f"data set {part.name!r}: {len(missing)} of {len(kept)} files listed in {index} do not "
            f"exist, the first is {missing[0]}; put the videos beside the list"
        )
    return kept


def clip_set(part: SyntheticPart | VideosPart, recipe: Recipe) -> ClipSet:
    """Opens the clips that a table of a recipe describes.

    Raises:
        RecipeError: if its files or labels are not there.
    """
    if isinstance(part, SyntheticPart):
        return SyntheticClips(part, recipe.labels, recipe.spec)
    return VideoClips(part, recipe.labels, recipe.spec)


class TrainingBatches(Dataset[tuple[Tensor, Tensor]]):
    """Item `step` is the batch of that step: (B, T, 3, H, W) float in 0-1 and (B,) classes."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.sets = [clip_set(part, recipe) for part in recipe.train]
        weights = np.asarray([part.weight for part in recipe.train])
        self.shares = weights / weights.sum()
        self.augment = ClipAugmentation(recipe.augment)

    def __len__(self) -> int:
        return self.recipe.optim.steps

    def __getitem__(self, step: int) -> tuple[Tensor, Tensor]:
        rng = np.random.default_rng([self.recipe.seed, step])
        clips, classes = [], []
        for _ in range(self.recipe.optim.batch_size):
            clip, class_id = self.sets[int(rng.choice(len(self.sets), p=self.shares))].sample(rng)
            clips.append(degrade(clip, rng, self.recipe.augment.degrade))
            classes.append(class_id)
        batch = torch.from_numpy(np.stack(clips)).permute(0, 1, 4, 2, 3).float() / 255
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(rng.integers(2**31)))
            return self.augment(batch), torch.tensor(classes)


def quiet_worker(_worker: int) -> None:
    """A loader process uses one thread: the others belong to the training."""
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
