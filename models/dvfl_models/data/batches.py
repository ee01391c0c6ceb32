"""The clips of a step in one piece, and what is done with them on the device that trains.

experimental: augmentation by the seeds of clips and mixing are not yet run on a GPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from dvfl_models.data.augment import ClipAugmentation
from dvfl_models.data.clips import normalise
from dvfl_models.data.mixing import PairMix
from dvfl_models.data.training_clips import TrainingClip, TrainingClips
from dvfl_models.recipe.recipe import Recipe


class Batch(NamedTuple):
    """Clips of one step, in the order of their numbers.

    Attributes:
        clips: (B, T, H, W, 3) uint8.
        classes: (B,).
        seeds: of the augmentation of each clip.
        names: of the clips.
        corrupt: (name of the data set, path) of the files left out so far.
        joints: (B, T, 13, 2) in pixels of the clips, NaN where unknown; None if not asked for.
    """

    clips: Tensor
    classes: Tensor
    seeds: list[int]
    names: list[str]
    corrupt: list[tuple[str, str]]
    joints: Tensor | None

    def parts(self, count: int) -> list[Batch]:
        """Cut the batch into so many equal parts."""
        size = len(self.seeds) // count
        slices = [slice(first, first + size) for first in range(0, len(self.seeds), size)]
        return [
            Batch(
                self.clips[part],
                self.classes[part],
                self.seeds[part],
                self.names[part],
                self.corrupt,
                None if self.joints is None else self.joints[part],
            )
            for part in slices
        ]


class Inputs(NamedTuple):
    """What a network and its loss take, on their device.

    Attributes:
        clips: (B, T, 3, H, W), augmented, mixed and normalised.
        targets: (B,) classes, or (B, num_classes) shares of classes where clips are mixed.
        classes: (B,).
        joints: (B, T, 13, 2) in pixels of the clips, NaN where unknown; None if not asked for.
    """

    clips: Tensor
    targets: Tensor
    classes: Tensor
    joints: Tensor | None


def collate(clips: Sequence[TrainingClip]) -> Batch:
    """Return the clips as one batch."""
    joints = [clip.joints for clip in clips if clip.joints is not None]
    return Batch(
        torch.from_numpy(np.stack([clip.images for clip in clips])),
        torch.tensor([clip.class_id for clip in clips]),
        [clip.seed for clip in clips],
        [clip.name for clip in clips],
        sorted({file for clip in clips for file in clip.corrupt}),
        torch.from_numpy(np.stack(joints)) if joints else None,
    )


def joined(batches: Sequence[Batch]) -> Batch:
    """Return several batches as one."""
    joints = [batch.joints for batch in batches if batch.joints is not None]
    return Batch(
        torch.cat([batch.clips for batch in batches]),
        torch.cat([batch.classes for batch in batches]),
        [seed for batch in batches for seed in batch.seeds],
        [name for batch in batches for name in batch.names],
        sorted({file for batch in batches for file in batch.corrupt}),
        torch.cat(joints) if joints else None,
    )


def batch_of(clips: TrainingClips, step: int) -> Batch:
    """Return the batch of a step, read by this process itself."""
    indices = range(step * clips.share, (step + 1) * clips.share)
    return collate([clips[index] for index in indices])


class InputMaker:
    """Augments, mixes and normalises clips on a device.

    The result for a clip depends on its seed and on its partner alone, not on the other clips of
    the batch.

    Args:
        recipe: its `augment`, `seed`, labels and ClipSpec.
        device: that trains.
    """

    def __init__(self, recipe: Recipe, device: torch.device) -> None:
        self.recipe, self.device = recipe, device
        self.augmentation = ClipAugmentation(recipe.augment)
        self.mix = PairMix(recipe.augment, len(recipe.labels))

    def make(self, batch: Batch, step: int, first: int = 0) -> Inputs:
        """Return the inputs of a batch or of a part of one.

        Args:
            batch: with pairs of clips that stay together, if the recipe mixes.
            step: its number.
            first: number of the first clip within the step, over all processes.
        """
        # non-blocking: the host prepares the next part while the device computes this one
        clips = batch.clips.to(self.device, non_blocking=True)
        classes = batch.classes.to(self.device, non_blocking=True)
        joints = batch.joints
        if joints is not None:
            joints = joints.to(self.device, non_blocking=True)
        clips, joints = self.augmentation.augment(clips, batch.seeds, joints)
        targets = classes
        if self.mix.active:
            clips, targets = self.mix.mix(clips, classes, (self.recipe.seed, step), first // 2)
        return Inputs(normalise(clips, self.recipe.spec), targets, classes, joints)
