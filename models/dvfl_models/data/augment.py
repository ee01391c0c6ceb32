"""Random changes of training clips, the same for all frames of a clip.

A crop is cut where a clip is read; all else happens in batches on the device that trains.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import cv2
import kornia.augmentation as K
import numpy as np
import torch
import torch.nn.functional as F
from kornia.augmentation.container.params import ParamItem
from torch import Tensor, nn

from dvfl_models.data.camera import Camera
from dvfl_models.recipe.tables import AugmentTable
from dvfl_runtime.clips.spec import Clip

_SEED = 4  # first number of the seeds of `degrade`; see `training_clips`
CROP_TRIES = 10  # as torchvision and kornia draw crops
UP = ("bilinear", "nearest", "bicubic")
UP_SHARES = (0.6, 0.1, 0.3)


class ClipAugmentation(nn.Module):
    """Geometry and colour by kornia, drawn from torch's generator: (B, T, 3, H, W) in 0-1."""

    def __init__(self, table: AugmentTable) -> None:
        super().__init__()
        self.table, self.camera = table, Camera(table)
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

    def forward(self, clips: Tensor, params: list[ParamItem] | None = None) -> Tensor:
        """Change clips: (B, T, 3, H, W) -> the same shape."""
        out: Tensor = self.steps(clips, params=params)
        return out

    def with_points(
        self, clips: Tensor, points: Tensor, params: list[ParamItem] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Change clips, and move points (B, T, N, 2) in pixels with them; NaN stays NaN."""
        both = K.AugmentationSequential(self.steps, data_keys=["input", "keypoints"])
        nested = None if params is None else [ParamItem("VideoSequential_0", params)]
        moved: tuple[Tensor, Tensor] = both(clips, points, params=nested)
        return moved

    def augment(
        self, clips: Tensor, seeds: Sequence[int], points: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Change each clip as its own seed decides, whatever it is batched with.

        Args:
            clips: (B, T, H, W, 3) uint8.
            seeds: one for each clip.
            points: (B, T, N, 2) in pixels, which move with the clips.

        Returns:
            (B, T, 3, H, W) in 0-1 on the same device, and the points.
        """
        # (B, T, H, W, C) uint8 -> (B, T, C, H, W) in 0-1
        floats = clips.permute(0, 1, 4, 2, 3).float() / 255
        if self.table.degrade:
            pairs = zip(floats, seeds, strict=True)
            floats = torch.stack([degrade(clip, seed, self.table.degrade) for clip, seed in pairs])
        params = self._params(floats.shape, seeds)
        if points is None:
            out = self(floats, params)
        else:
            out, points = self.with_points(floats, points, params)
        return self.camera.record(out, seeds, points)

    def _params(self, shape: torch.Size, seeds: Sequence[int]) -> list[ParamItem]:
        """Return the parameters of kornia's steps, those of each clip drawn from its own seed."""
        one = torch.Size((1, *shape[1:]))
        with torch.random.fork_rng(devices=[]):
            params: list[ParamItem] = self.steps.forward_parameters(shape)
            drawn = []
            for seed in seeds:
                torch.default_generator.manual_seed(seed)
                drawn.append(self.steps.forward_parameters(one))
        for item, *alone in zip(params, *drawn, strict=True):
            data: Any = item.data
            for key in data.keys() - {"order", "forward_input_shape", "video_batch_size"}:
                # B times (T, ...) -> (B * T, ...)
                data[key] = torch.cat([clip.data[key] for clip in alone])
            if "order" in data:  # of brightness, contrast, saturation, hue: one for a batch
                data["order"] = torch.arange(4)
        return params


def degrade(clip: Tensor, seed: int, probability: float) -> Tensor:
    """With `probability`, scale a clip (T, 3, H, W) in 0-1 down and up, and add sensor noise.

    Real clips of different origin differ in sharpness; after this, sharpness tells nothing about
    the class.
    """
    rng = np.random.default_rng([_SEED, seed])
    if rng.random() >= probability:
        return clip
    height, width = clip.shape[2:]
    factor = rng.uniform(0.35, 0.9)
    small = (max(8, round(height * factor)), max(8, round(width * factor)))
    up = str(rng.choice(UP, p=UP_SHARES))
    out = F.interpolate(F.interpolate(clip, small, mode="area"), (height, width), mode=up)
    generator = torch.Generator(clip.device).manual_seed(seed)
    noise = torch.randn(clip.shape, generator=generator, device=clip.device)
    return (out + rng.uniform(0, 8 / 255) * noise).clamp(0, 1)


def random_crop(
    images: Clip, size: tuple[int, int], table: AugmentTable, rng: np.random.Generator
) -> Clip:
    """Cut a random part of the picture, the same of all frames: (T, h, w, 3) -> (T, H, W, 3).

    Its share of the picture and its width over its height are drawn from the recipe's ranges;
    if no such part fits ten times, it is the largest one in the middle. Without a crop in the
    recipe the clip stays as it is.
    """
    if table.crop is None:
        return images
    y, x, height, width = _random_box(images.shape[1:3], table.crop, table.crop_ratio, rng)
    parts = images[:, y : y + height, x : x + width]
    return np.stack([cv2.resize(part, size[::-1]) for part in parts]).astype(np.uint8, copy=False)


def _random_box(
    shape: Sequence[int],
    share: tuple[float, float],
    ratio: tuple[float, float],
    rng: np.random.Generator,
) -> tuple[int, int, int, int]:
    """Return (top, left, height, width) of a part of a picture, px."""
    rows, columns = shape
    for _ in range(CROP_TRIES):
        area = rows * columns * rng.uniform(*share)
        wide = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
        height, width = round(math.sqrt(area / wide)), round(math.sqrt(area * wide))
        if 0 < height <= rows and 0 < width <= columns:
            top, left = rng.integers(rows - height + 1), rng.integers(columns - width + 1)
            return int(top), int(left), height, width
    wide = min(max(columns / rows, ratio[0]), ratio[1])
    height, width = min(rows, round(columns / wide)), min(columns, round(rows * wide))
    return (rows - height) // 2, (columns - width) // 2, height, width
