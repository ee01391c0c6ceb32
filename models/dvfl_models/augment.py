"""Random changes of training clips, the same for all frames of a clip."""

from __future__ import annotations

import cv2
import kornia.augmentation as K
import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from dvfl_models.recipe import AugmentPart


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
            steps.append(K.ColorJiggle(j, j, j, j / 6, p=0.8))
        steps.append(K.RandomGrayscale(p=part.grey))
        self.steps = K.VideoSequential(*steps, data_format="BTCHW", same_on_frame=True)

    def forward(self, clips: Tensor) -> Tensor:
        """(B, T, 3, H, W) -> the same shape."""
        out: Tensor = self.steps(clips)
        return out


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
