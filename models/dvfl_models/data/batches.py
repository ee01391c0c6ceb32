"""Training batches.

Each batch is a pure function of (seed, step): a resumed run sees the clips that an uninterrupted
one would have seen, with no generator state to store; and its clips do not depend on the number
of processes that share it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from dvfl_models.data.augment import ClipAugmentation, ResizedCrop, degrade
from dvfl_models.data.clips import Sample
from dvfl_models.data.mixing import PairMix
from dvfl_models.data.opening import files_of, open_clips
from dvfl_models.data.video_clips import VideoClips
from dvfl_models.recipe.recipe import Recipe
from dvfl_models.rendered.figures import JOINTS
from dvfl_runtime.errors import RecipeError

# First number of the seeds of a clip, so that no clip draws as a pair of `mixing` (2) or a clip of
# `train_as_test` (3) does. The seeds of a step begin with the recipe's seed.
_SEED = 1


class Batch(NamedTuple):
    """The clips of a step that one process trains on.

    Attributes:
        clips: (B, T, 3, H, W) float in 0-1, augmented.
        classes: (B,).
        targets: (B,) classes, or (B, num_classes) shares of classes where clips are mixed.
        names: of the clips.
        corrupt: (name of the data set, path) of the files left out so far.
        joints: (B, T, 13, 2) in pixels of the clips, NaN where unknown; None if not asked for.
    """

    clips: Tensor
    classes: Tensor
    targets: Tensor
    names: Sequence[str]
    corrupt: Sequence[tuple[str, str]]
    joints: Tensor | None


class TrainingBatches(Dataset[Batch]):
    """Item `step` is the batch of that step.

    Args:
        recipe: its `batch_size` is the number of clips of a step over all processes.
        process: number of this process; it gets a part of each step's clips.
        processes: how many there are.

    Attributes:
        recipe: with its steps resolved.
        sets: the opened `train` tables.
        files: those of them that read video files.

    Raises:
        RecipeError: if a data set is missing, a label has no videos, or a batch cannot be divided.
    """

    def __init__(self, recipe: Recipe, process: int = 0, processes: int = 1) -> None:
        self.sets = [open_clips(table, recipe, training=True) for table in recipe.train]
        self.videos = [clips for clips in self.sets if isinstance(clips, VideoClips)]
        self.files = files_of(self.sets)
        if len(self.videos) == len(self.sets):  # nothing is rendered
            _check_classes(self.videos, recipe.labels)
        # the videos of an epoch, each as its set and its number there
        self.epoch = [(clips, number) for clips in self.videos for number in range(len(clips))]
        self.recipe = recipe.with_epoch_of(len(self.epoch))
        weights = np.asarray([table.weight for table in recipe.train])
        self.shares = weights / weights.sum()
        self.augmentation = ClipAugmentation(recipe.augment)
        self.crop = ResizedCrop(recipe.augment, recipe.spec.size)
        self.mix = PairMix(recipe.augment, len(recipe.labels))
        self.mine = _part_of(recipe, process, processes, pairs=self.mix.active)

    def __len__(self) -> int:
        return self.recipe.optim.steps

    def __getitem__(self, step: int) -> Batch:
        joints = None
        if self.recipe.optim.epochs:
            clips, samples = self._by_epoch(step)
        else:
            clips, samples, joints = self._by_class(step)
        targets = classes = torch.tensor([sample.class_id for sample in samples])
        if self.mix.active:
            first = (self.mine.start or 0) // 2
            clips, targets = self.mix.mix_batch(clips, classes, (self.recipe.seed, step), first)
        names = [sample.name for sample in samples]
        corrupt = [(clips.name, path) for clips in self.files for path in sorted(clips.corrupt)]
        return Batch(clips, classes, targets, names, corrupt, joints)

    def _by_class(self, step: int) -> tuple[Tensor, list[Sample], Tensor | None]:
        """Draw tables by weight and classes with equal probability, with one generator for a step.

        Every process therefore draws the clips of all processes, which costs little as long as
        they are rendered or are small cached videos.
        """
        rng = np.random.default_rng([self.recipe.seed, step])
        clips, samples = [], []
        for _ in range(self.recipe.optim.batch_size):
            sample = self.sets[int(rng.choice(len(self.sets), p=self.shares))].sample(rng)
            clips.append(self._cropped(sample, rng))
            samples.append(sample)
        joints = self._joints(samples) if self.recipe.optim.joints else None
        batch, joints = self.augmentation.augment(torch.stack(clips), rng, joints)
        return batch[self.mine], samples[self.mine], None if joints is None else joints[self.mine]

    def _by_epoch(self, step: int) -> tuple[Tensor, list[Sample]]:
        """Take each video once per epoch, in another order each time; one generator per clip.

        With `augment.seeds` = N a video gets the same augmentation again after N epochs.
        """
        clips, samples = [], []
        batch_size, seed = self.recipe.optim.batch_size, self.recipe.seed
        epoch, within = divmod(step, len(self) // self.recipe.optim.epochs)
        variant = epoch % self.recipe.augment.seeds if self.recipe.augment.seeds else epoch
        order = np.random.default_rng([seed, epoch]).permutation(len(self.epoch))
        for position in range(within * batch_size, (within + 1) * batch_size)[self.mine]:
            index = int(order[position % len(order)])
            rng = np.random.default_rng([_SEED, seed, variant, index])
            videos, number = self.epoch[index]
            sample = videos.sample_of(videos.entries, number, rng)
            clip = self._cropped(sample, rng)
            clips.append(self.augmentation.augment(clip.unsqueeze(0), rng)[0].squeeze(0))
            samples.append(sample)
        return torch.stack(clips), samples

    def _cropped(self, sample: Sample, rng: np.random.Generator) -> Tensor:
        """(T, h, w, 3) -> (T, H, W, 3) uint8, degraded before the crop."""
        return self.crop.crop(degrade(sample.clip, rng, self.recipe.augment.degrade), rng)

    def _joints(self, samples: Sequence[Sample]) -> Tensor:
        """Return the joints of clips, (B, T, 13, 2) in pixels, NaN where they are unknown."""
        unknown = np.full((self.recipe.spec.num_frames, len(JOINTS), 2), np.nan)
        joints = [unknown if sample.joints is None else sample.joints for sample in samples]
        return torch.from_numpy(np.stack(joints)).float()


def _check_classes(videos: Sequence[VideoClips], labels: Sequence[str]) -> None:
    found = {class_id for clips in videos for class_id in clips.classes}
    if absent := [label for class_id, label in enumerate(labels) if class_id not in found]:
        where = ", ".join(clips.table.index for clips in videos)
        raise RecipeError(
            f"no video to train on has a label of {absent} ({where}); add some, or take it out of "
            f"labels"
        )


def _part_of(recipe: Recipe, process: int, processes: int, *, pairs: bool) -> slice:
    """Return which clips of a step a process computes."""
    unit = processes * recipe.optim.accumulate * (2 if pairs else 1)
    size = recipe.optim.batch_size
    if size % unit:
        raise RecipeError(
            f"optim.batch_size {size} cannot be divided among {processes} processes, "
            f"{recipe.optim.accumulate} parts each{', in pairs' if pairs else ''}; "
            f"make it a multiple of {unit}"
        )
    share = size // processes
    return slice(process * share, (process + 1) * share)
