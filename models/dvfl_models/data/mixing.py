"""Mixup and CutMix: clips of which each shows a share of another one."""

from __future__ import annotations

import kornia.augmentation as K
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dvfl_models.data.augment import seeded
from dvfl_models.recipe.tables import AugmentTable

_SEED = 2  # first number of the seeds of a pair; see `batches`


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
        keys = ["input", "class"]
        self.cutmix = K.RandomCutMixV2(
            beta=table.cutmix or None, data_keys=keys, same_on_batch=True, use_correct_lambda=True
        )

    @property
    def active(self) -> bool:
        """Whether the recipe mixes at all."""
        return bool(self.table.mixup or self.table.cutmix)

    def mix_batch(
        self, clips: Tensor, classes: Tensor, seed: tuple[int, int], first: int
    ) -> tuple[Tensor, Tensor]:
        """Mix all pairs of (B, T, 3, H, W) clips, and return them and (B, num_classes) targets.

        Args:
            clips: an even number of them.
            classes: (B,).
            seed: of the run, and the step.
            first: number of the first pair within the step.
        """
        mixed, targets = [], []
        pairs = zip(clips.split(2), classes.split(2), strict=True)
        for number, (pair, kinds) in enumerate(pairs, first):
            rng = np.random.default_rng([_SEED, *seed, number])
            with seeded(rng):
                both, shares = self(pair, kinds, rng)
            mixed.append(both)
            targets.append(shares)
        return torch.cat(mixed), torch.cat(targets)

    def __call__(
        self, pair: Tensor, classes: Tensor, rng: np.random.Generator
    ) -> tuple[Tensor, Tensor]:
        """Mix a pair: (2, T, 3, H, W), (2,) classes -> the same shape, (2, num_classes) targets.

        Draws from `rng` and from torch's generator, which the caller seeds.
        """
        one_hot = F.one_hot(classes, self.num_classes).float()
        if self.table.cutmix and not (self.table.mixup and rng.random() < 0.5):
            mixed, own = self._cut(pair, classes)
        else:
            other = torch.tensor(rng.beta(self.table.mixup, self.table.mixup)).float()
            own = 1 - other
            mixed = own * pair + other * pair.flip(0)
        return mixed, own * one_hot + (1 - own) * one_hot.flip(0)

    def _cut(self, pair: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
        """Return the pair with a rectangle exchanged, and the share that it leaves of each clip."""
        flat = pair.flatten(1, 2)  # (2, T, 3, H, W) -> (2, T*3, H, W): kornia takes pictures
        params = self.cutmix.forward_parameters(flat.shape)
        params["mix_pairs"] = torch.tensor([[1, 0]])  # kornia may pair a clip with itself
        mixed, found = self.cutmix(flat, classes.float(), params=params)
        return mixed.reshape(pair.shape), found[0, 0, 2]
