"""Random changes of training clips, the same for all frames of a clip."""

from __future__ import annotations

import cv2
import kornia.augmentation as K
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from dvfl_models.recipe.parts import AugmentPart


class ClipAugmentation(nn.Module):
    """Geometry and colour by kornia, drawn from torch's generator: (B, T, 3, H, W) in 0-1."""

    def __init__(self, part: AugmentPart) -> None:
        super().__init__()
        steps: list[nn.Module] = [K.RandomHorizontalFlip(p=part.flip)]
        if part.degrees or part.translate or part.scale != (1.0, 1.0):
            shift = (part.translate, part.translate)
            steps.append(
                K.RandomAffine(part.degrees, shift, part.scale, padding_mode="reflection", p=0.9)
            )
        if part.jitter:
            j = part.jitter
            # brightness and contrast multiply: ColorJiggle, which adds, turns dark clips black
            steps.append(K.ColorJitter(j, j, j / 2, j / 4, p=0.8))
        steps.append(K.RandomGrayscale(p=part.grey))
        self.steps = K.VideoSequential(*steps, data_format="BTCHW", same_on_frame=True)

    def forward(self, clips: Tensor) -> Tensor:
        """(B, T, 3, H, W) -> the same shape."""
        out: Tensor = self.steps(clips)
        return out

    def with_points(self, clips: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
        """The same, with points (B, T, N, 2) in pixels that move with the clips; NaN stays NaN."""
        both = K.AugmentationSequential(self.steps, data_keys=["input", "keypoints"])
        moved: tuple[Tensor, Tensor] = both(clips, points)
        return moved


class ResizedCrop(nn.Module):
    """A random part of the picture, the same of all frames: (T, 3, h, w) -> (T, 3, H, W)."""

    def __init__(self, part: AugmentPart, size: tuple[int, int]) -> None:
        super().__init__()
        self.steps: nn.Module | None = None
        if part.crop is not None:
            crop = K.RandomResizedCrop(size, scale=part.crop, ratio=part.crop_ratio)
            self.steps = K.VideoSequential(crop, data_format="BTCHW", same_on_frame=True)

    def forward(self, clip: Tensor) -> Tensor:
        """See the class; without a crop in the recipe the clip stays as it is."""
        if self.steps is None:
            return clip
        out: Tensor = self.steps(clip.unsqueeze(0))
        return out.squeeze(0)


class PairMix:
    """Mixup (arXiv 1710.09412) or CutMix (1905.04899) of neighbours: clips 0 and 1, 2 and 3, ...

    Both clips of a pair get the same share or rectangle, all frames of a clip too: frames are
    handed to kornia as channels. Pairs do not depend on how a batch is divided among processes.
    """

    def __init__(self, part: AugmentPart, num_classes: int) -> None:
        self.part, self.num_classes = part, num_classes
        keys = ["input", "class"]
        self.mixup = K.RandomMixUpV2(data_keys=keys)
        self.cutmix = K.RandomCutMixV2(
            beta=part.cutmix or None, data_keys=keys, same_on_batch=True, use_correct_lambda=True
        )

    @property
    def active(self) -> bool:
        """Whether the recipe mixes at all."""
        return bool(self.part.mixup or self.part.cutmix)

    def __call__(
        self, pair: Tensor, classes: Tensor, rng: np.random.Generator
    ) -> tuple[Tensor, Tensor]:
        """(2, T, 3, H, W) and (2,) classes -> the mixed clips and (2, num_classes) targets.

        Draws from `rng` and from torch's generator, which the caller seeds.
        """
        flat = pair.flatten(1, 2)  # (2, T, 3, H, W) -> (2, T*3, H, W)
        cut = bool(self.part.cutmix) and not (self.part.mixup and rng.random() < 0.5)
        swap = torch.tensor([1, 0])
        if cut:
            params = self.cutmix.forward_parameters(flat.shape)
            params["mix_pairs"] = swap.unsqueeze(0)
            mixed, found = self.cutmix(flat, classes.float(), params=params)
            own = found[0, :, 2]  # what the rectangle leaves
        else:
            params = self.mixup.forward_parameters(flat.shape)
            share = rng.beta(self.part.mixup, self.part.mixup)
            params |= {"mixup_pairs": swap, "mixup_lambdas": torch.full((2,), share)}
            mixed, found = self.mixup(flat, classes.float(), params=params)
            own = 1 - found[:, 2]
        one_hot = F.one_hot(classes, self.num_classes).float()
        targets = own[:, None] * one_hot + (1 - own)[:, None] * one_hot[swap]
        return mixed.reshape(pair.shape), targets


def degrade(
    clip: NDArray[np.uint8], rng: np.random.Generator, probability: float
) -> NDArray[np.uint8]:
    """With `probability`, scales a clip (T, H, W, 3) down and up again, and adds sensor noise.

    Real clips of different origin differ in sharpness; after this, sharpness says nothing about
    the class.
    """
    if rng.random() >= probability:
        return clip
    height, width = clip.shape[1:3]
    factor = rng.uniform(0.35, 0.9)
    small = (max(8, round(width * factor)), max(8, round(height * factor)))
    up = int(rng.choice([cv2.INTER_LINEAR, cv2.INTER_NEAREST, cv2.INTER_CUBIC], p=[0.6, 0.1, 0.3]))
    out = [
        cv2.resize(cv2.resize(image, small, interpolation=cv2.INTER_AREA), (width, height),
                   interpolation=up)
        for image in clip
    ]  # fmt: skip
    noise = rng.normal(0, rng.uniform(0, 8), clip.shape)
    return np.clip(np.stack(out) + noise, 0, 255).astype(np.uint8)
