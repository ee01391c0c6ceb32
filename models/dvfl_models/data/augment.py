"""Random changes of training clips, the same for all frames of a clip."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import cv2
import kornia.augmentation as K
import numpy as np
import torch
from torch import Tensor, nn

from dvfl_models.data.clips import Clip
from dvfl_models.recipe.tables import AugmentTable


class ClipAugmentation(nn.Module):
    """Geometry and colour by kornia, drawn from torch's generator: (B, T, 3, H, W) in 0-1."""

    def __init__(self, table: AugmentTable) -> None:
        super().__init__()
        steps: list[nn.Module] = [K.RandomHorizontalFlip(p=table.flip)]
        if table.degrees or table.translate or table.scale != (1.0, 1.0):
            shift = (table.translate, table.translate)
            steps.append(
                K.RandomAffine(table.degrees, shift, table.scale, padding_mode="reflection", p=0.9)
            )
        if table.jitter:
            j = table.jitter
            # brightness and contrast multiply: ColorJiggle, which adds, turns dark clips black
            steps.append(K.ColorJitter(j, j, j / 2, j / 4, p=0.8))
        steps.append(K.RandomGrayscale(p=table.grey))
        self.steps = K.VideoSequential(*steps, data_format="BTCHW", same_on_frame=True)

    def forward(self, clips: Tensor) -> Tensor:
        """Change clips: (B, T, 3, H, W) -> the same shape."""
        out: Tensor = self.steps(clips)
        return out

    def with_points(self, clips: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
        """Change clips, and move points (B, T, N, 2) in pixels with them; NaN stays NaN."""
        both = K.AugmentationSequential(self.steps, data_keys=["input", "keypoints"])
        moved: tuple[Tensor, Tensor] = both(clips, points)
        return moved

    def augment(
        self, clips: Tensor, rng: np.random.Generator, points: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Change clips as `rng` decides, and move the points with them.

        Args:
            clips: (B, T, H, W, 3) uint8.
            rng: seeds all that is drawn.
            points: (B, T, N, 2) in pixels.

        Returns:
            (B, T, 3, H, W) in 0-1, and the points.
        """
        # (B, T, H, W, C) uint8 -> (B, T, C, H, W) in 0-1
        floats = clips.permute(0, 1, 4, 2, 3).float() / 255
        with seeded(rng):
            return (self(floats), None) if points is None else self.with_points(floats, points)


class ResizedCrop(nn.Module):
    """A random part of the picture, the same of all frames: (T, 3, h, w) -> (T, 3, H, W)."""

    def __init__(self, table: AugmentTable, size: tuple[int, int]) -> None:
        super().__init__()
        self.steps: nn.Module | None = None
        if table.crop is not None:
            crop = K.RandomResizedCrop(size, scale=table.crop, ratio=table.crop_ratio)
            self.steps = K.VideoSequential(crop, data_format="BTCHW", same_on_frame=True)

    def forward(self, clip: Tensor) -> Tensor:
        """Crop a clip, or return it as it is if the recipe has no crop."""
        if self.steps is None:
            return clip
        out: Tensor = self.steps(clip.unsqueeze(0))
        return out.squeeze(0)

    def crop(self, images: Clip, rng: np.random.Generator) -> Tensor:
        """Crop as `rng` decides: (T, h, w, 3) uint8 -> (T, H, W, 3) uint8."""
        clip = torch.from_numpy(images)
        if self.steps is None:
            return clip
        with seeded(rng):
            cut: Tensor = self(clip.permute(0, 3, 1, 2).float())  # (T, h, w, C) -> (T, C, H, W)
        return cut.permute(0, 2, 3, 1).round().clamp(0, 255).to(torch.uint8)


def degrade(clip: Clip, rng: np.random.Generator, probability: float) -> Clip:
    """With `probability`, scale a clip (T, H, W, 3) down and up again, and add sensor noise.

    Real clips of different origin differ in sharpness; after this, sharpness tells nothing about
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


@contextmanager
def seeded(rng: np.random.Generator) -> Iterator[None]:
    """Seed torch's generator, which kornia draws from, for the block; then put it back."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(rng.integers(2**31)))
        yield
