"""The clips that a run trains on.

Each clip is a pure function of (seed, step, its number within the step): a resumed run sees the
clips that an uninterrupted one would have seen, with no generator state to store, and they do not
depend on the number of processes that share a step or that read for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset

from dvfl_models.data.augment import random_crop
from dvfl_models.data.clips import ClipSet, Sample
from dvfl_models.data.datasets import UNLABELLED
from dvfl_models.data.frame_reader import KEPT_BYTES, FrameReader
from dvfl_models.data.opening import files_of, open_clips
from dvfl_models.data.video_clips import VideoClips
from dvfl_models.recipe.recipe import Recipe
from dvfl_models.rendered.figures import JOINTS
from dvfl_runtime.clips.spec import Clip
from dvfl_runtime.errors import RecipeError

# First number of the seeds of a clip, so that no clip draws as a pair of `mixing` (2), a clip of
# `train_as_test` (3) or a degraded one (4) does. The seeds of an epoch begin with the recipe's.
_SEED = 1


class TrainingClip(NamedTuple):
    """A clip to train on, before augmentation and mixing.

    Attributes:
        images: (T, H, W, 3) uint8.
        class_id: its class, counted over all sets of labels of the recipe.
        seed: of its augmentation.
        name: the file, or the seed it was rendered from.
        corrupt: (name of the data set, path) of the files left out so far.
        joints: (T, 13, 2) in pixels, NaN where unknown; None if not asked for.
    """

    images: Clip
    class_id: int
    seed: int
    name: str
    corrupt: tuple[tuple[str, str], ...] = ()
    joints: NDArray[np.float32] | None = None


class TrainingClips(Dataset[TrainingClip]):
    """All clips of a run that one process trains on, step after step.

    Args:
        recipe: its `batch_size` is the number of clips of a step over all processes.
        process: number of this process; it gets a part of each step's clips.
        processes: how many there are.

    Attributes:
        recipe: with its steps resolved.
        sets: the opened `train` tables.
        files: those of them that read video files.
        share: clips of a step for this process.
        first: number of the first of them within the step.

    Raises:
        RecipeError: if a data set is missing, a label has no videos, or a batch cannot be divided.
    """

    def __init__(self, recipe: Recipe, process: int = 0, processes: int = 1) -> None:
        self.sets = [open_clips(table, recipe, training=True) for table in recipe.learnt]
        self.videos = [clips for clips in self.sets if isinstance(clips, VideoClips)]
        self.files = files_of(self.sets)
        paths = [entry.path for clips in self.files for entry in clips.entries]
        reader = FrameReader(paths, KEPT_BYTES // processes)
        for clips in self.files:  # one bound for what all of them keep
            clips.reader = reader
        for labels in recipe.label_sets:
            _check_classes(labels, self._sets_of(labels, recipe))
        self.first_classes = [recipe.first_class_of(table) for table in recipe.learnt]
        # the videos of an epoch, each as the number of its set and its number there
        self.epoch = [
            (which, n) for which, clips in enumerate(self.sets) for n in range(len(clips))
        ]
        self.recipe = recipe.with_epoch_of(len(self.epoch))
        weights = np.asarray([table.weight for table in recipe.learnt])
        self.weights = weights / weights.sum()
        self.share = _share_of(recipe, processes)
        self.first = process * self.share

    def __len__(self) -> int:
        return self.recipe.optim.steps * self.share

    def __getitem__(self, index: int) -> TrainingClip:
        step, number = divmod(index, self.share)
        number += self.first
        rng, sample, which = (
            self._by_epoch(step, number)
            if self.recipe.optim.epochs
            else self._by_class(step, number)
        )
        images = random_crop(sample.clip, self.recipe.spec.size, self.recipe.augment, rng)
        seed = int(rng.integers(2**31))
        corrupt = tuple((s.name, path) for s in self.files for path in sorted(s.corrupt))
        joints = self._joints(sample) if self.recipe.optim.joints else None
        class_id = sample.class_id
        if class_id != UNLABELLED:
            class_id += self.first_classes[which]
        return TrainingClip(images, class_id, seed, sample.name, corrupt, joints)

    def _by_class(self, step: int, number: int) -> tuple[np.random.Generator, Sample, int]:
        """Draw a table by its weight, and a class of it with equal probability.

        The third value is the number of the table.
        """
        rng = np.random.default_rng([_SEED, self.recipe.seed, step, number])
        which = int(rng.choice(len(self.sets), p=self.weights))
        return rng, self.sets[which].sample(rng), which

    def _by_epoch(self, step: int, number: int) -> tuple[np.random.Generator, Sample, int]:
        """Take each video once per epoch, in another order each time.

        With `augment.seeds` = N a video gets the same augmentation again after N epochs.
        """
        batch_size, seed = self.recipe.optim.batch_size, self.recipe.seed
        epoch, within = divmod(step, self.recipe.optim.steps // self.recipe.optim.epochs)
        variant = epoch % self.recipe.augment.seeds if self.recipe.augment.seeds else epoch
        order = np.random.default_rng([seed, epoch]).permutation(len(self.epoch))
        index = int(order[(within * batch_size + number) % len(order)])
        rng = np.random.default_rng([_SEED, seed, variant, index])
        which, first = self.epoch[index]
        videos = self.sets[which]
        assert isinstance(videos, VideoClips)  # as the recipe has checked
        return rng, videos.sample_of(videos.entries, first, rng), which

    def _sets_of(self, labels: Sequence[str], recipe: Recipe) -> list[ClipSet]:
        """Return the sets whose clips have these labels."""
        pairs = zip(self.sets, recipe.learnt, strict=True)
        return [clips for clips, table in pairs if recipe.labels_of(table) == labels]

    def _joints(self, sample: Sample) -> NDArray[np.float32]:
        """Return the joints of a clip, (T, 13, 2) in pixels, NaN where they are unknown."""
        if sample.joints is not None:
            return sample.joints.astype(np.float32)
        return np.full((self.recipe.spec.num_frames, len(JOINTS), 2), np.nan, np.float32)


def _check_classes(labels: Sequence[str], sets: Sequence[ClipSet]) -> None:
    """Check that each label is that of a video, if nothing is rendered or played."""
    videos = [clips for clips in sets if isinstance(clips, VideoClips)]
    if len(videos) < len(sets):
        return
    found = {class_id for clips in videos for class_id in clips.classes}
    if absent := [label for class_id, label in enumerate(labels) if class_id not in found]:
        where = ", ".join(clips.table.index for clips in videos)
        raise RecipeError(
            f"no video to train on has a label of {absent} ({where}); add some, or take it out of "
            f"labels"
        )


def _share_of(recipe: Recipe, processes: int) -> int:
    """Return how many clips of a step a process computes."""
    augment, optim = recipe.augment, recipe.optim
    pairs = bool(augment.mixup or augment.cutmix)
    unit = processes * optim.accumulate * (2 if pairs else 1)
    if optim.batch_size % unit:
        raise RecipeError(
            f"optim.batch_size {optim.batch_size} cannot be divided among {processes} processes, "
            f"{optim.accumulate} parts each{', in pairs' if pairs else ''}; "
            f"make it a multiple of {unit}"
        )
    return optim.batch_size // processes
