"""Mixup and CutMix: clips of which each shows a share of another one."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from dvfl_models.recipe.tables import AugmentTable

_SEED = 2  # first number of the seeds of a pair; see `training_clips`


class PairMix:
    """Mixup (arXiv 1710.09412) or CutMix (1905.04899) of neighbours: clips 0 and 1, 2 and 3, ...

    Both clips of a pair get the same share or rectangle, and so do all frames of a clip. Pairs do
    not depend on how a batch is divided among processes.

    Args:
        table: its `mixup` and `cutmix`.
        num_classes: width of the targets.
    """

    def __init__(self, table: AugmentTable, num_classes: int) -> None:
        self.table, self.num_classes = table, num_classes

    @property
    def active(self) -> bool:
        """Whether the recipe mixes at all."""
        return bool(self.table.mixup or self.table.cutmix)

    def mix(
        self, clips: Tensor, classes: Tensor, seed: tuple[int, int], first: int
    ) -> tuple[Tensor, Tensor]:
        """Mix all pairs of (B, T, 3, H, W) clips, and return them and (B, num_classes) targets.

        Args:
            clips: an even number of them, on any device.
            classes: (B,), on the same device.
            seed: of the run, and the step.
            first: number of the first pair within the step.
        """
        count, _, _, height, width = clips.shape
        numbers = range(first, first + count // 2)
        shares = [self._own_share((*seed, number), height, width) for number in numbers]
        # (P, H, W) or, if all shares are those of whole pictures, (P, 1, 1)
        own = torch.from_numpy(np.stack(np.broadcast_arrays(*shares)).repeat(2, 0))
        own = own.to(clips, non_blocking=True)
        pairs = clips.unflatten(0, (-1, 2))  # (B, T, C, H, W) -> (P, 2, T, C, H, W)
        weights = own[:, None, None]  # (B, H, W) -> (B, 1, 1, H, W)
        mixed = weights * clips + (1 - weights) * pairs.flip(1).flatten(0, 1)
        # a clip without a label has none to share: its row is zero
        one_hot = F.one_hot(classes.clamp(min=0), self.num_classes) * (classes >= 0).unsqueeze(1)
        one_hot = one_hot.float()
        others = one_hot.unflatten(0, (-1, 2)).flip(1).flatten(0, 1)
        share = own.mean((1, 2)).unsqueeze(1)
        return mixed, share * one_hot + (1 - share) * others

    def _own_share(self, seed: tuple[int, ...], height: int, width: int) -> NDArray[np.float32]:
        """Return how much of its own a clip of a pair shows: everywhere, or at each pixel."""
        rng = np.random.default_rng([_SEED, *seed])
        if self.table.cutmix and not (self.table.mixup and rng.random() < 0.5):
            side = math.sqrt(1 - rng.beta(self.table.cutmix, self.table.cutmix))
            own = np.ones((height, width), np.float32)
            y, x = rng.uniform(0, height), rng.uniform(0, width)  # the middle of the rectangle
            top, bottom = (round(y + k * side * height / 2) for k in (-1, 1))
            left, right = (round(x + k * side * width / 2) for k in (-1, 1))
            own[max(0, top) : max(0, bottom), max(0, left) : max(0, right)] = 0
            return own
        return np.full((1, 1), 1 - rng.beta(self.table.mixup, self.table.mixup), np.float32)
