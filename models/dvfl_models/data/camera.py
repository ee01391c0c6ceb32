"""What cameras do to a clip: they shake, are out of focus, have little light, noise, compression.

Everything happens in batches on the device that trains, for those clips alone whose seeds ask for
it. What belongs to the scene is the same for all frames of a clip; shake and noise are fresh in
each of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from kornia.enhance import jpeg_codec_differentiable
from kornia.filters import gaussian_blur2d
from numpy.typing import NDArray
from torch import Tensor

from dvfl_models.recipe.tables import AugmentTable

Floats: TypeAlias = NDArray[np.float32]

_SEED = 5  # first number of the seeds drawn from here; see `training_clips`

SHAKE = (0.01, 0.12)  # the largest shift of a frame, in sides of the picture
BLUR_PX = (0.4, 1.6)  # deviation of a Gaussian, for each 64 px of the picture's height
LIGHT = (0.12, 0.6)  # what is left of it
READ_NOISE = (1.0, 25.0)  # deviation at black, of 255
SHOT_NOISE = (0.0, 20.0)  # deviation at white that the light itself adds, of 255
GRAIN = (1.0, 2.0)  # px of a grain of noise: a focus enlarges small parts of a picture
DARK_NOISE = 0.6  # of both in a dark picture, where they weigh more
QUALITY = (5.0, 40.0)  # of JPEG, whose blocks and rounding are those of a key frame
BORDERS = ("border", "reflection", "zeros")  # what a shaken picture shows beyond its edge


class Faults(NamedTuple):
    """What a camera does to each of B clips; 0 where it does not.

    Attributes:
        shifts: (B, T, 2) of the picture in its sides, x and y.
        border: (B,) numbers of `BORDERS`.
        blur: (B,) in px for each 64 px of height.
        light: (B,) factors.
        read: (B,) deviation of the noise at black, 0-1.
        shot: (B,) deviation that is added at white, 0-1.
        grain: (B,) px of a grain of noise.
        quality: (B,) of the compression.
    """

    shifts: Floats
    border: Floats
    blur: Floats
    light: Floats
    read: Floats
    shot: Floats
    grain: Floats
    quality: Floats


class Camera:
    """Records clips as real cameras do.

    Args:
        table: the probability of each fault.
    """

    def __init__(self, table: AugmentTable) -> None:
        self.table = table
        self.faultless = not any((table.shake, table.blur, table.dark, table.noise, table.compress))

    def record(
        self, clips: Tensor, seeds: Sequence[int], points: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Change each clip as its own seed decides, whatever it is batched with.

        Args:
            clips: (B, T, 3, H, W) in 0-1.
            seeds: one for each clip.
            points: (B, T, N, 2) in pixels, which move with the picture.

        Returns:
            Clips of the same shape in 0-1, and the points.
        """
        if self.faultless:
            return clips, points
        drawn = [draw_faults(seed, clips.shape[1], self.table) for seed in seeds]
        faults = Faults(*map(np.stack, zip(*drawn, strict=True)))
        for number, name in enumerate(BORDERS):
            chosen = faults.shifts.any((1, 2)) & (faults.border == number)
            shifts = torch.from_numpy(faults.shifts[chosen]).to(clips.device)
            clips = _changed(clips, chosen, partial(_shifted, shifts=shifts, border=name))
        if points is not None:
            height, width = clips.shape[-2:]
            sides = points.new_tensor([width, height])
            points = points + torch.from_numpy(faults.shifts).to(points)[:, :, None] * sides
        clips = _changed(clips, faults.blur > 0, partial(_blurred, faults=faults))
        light = torch.from_numpy(faults.light).to(clips)[:, None, None, None, None]
        clips = _with_noise(clips * light, faults, seeds)
        return _changed(clips, faults.quality > 0, partial(_compressed, faults=faults)), points


def draw_faults(seed: int, frames: int, table: AugmentTable) -> Faults:
    """Return the faults of one clip of so many frames."""
    rng = np.random.default_rng([_SEED, seed])
    shake, blur, dark, noise, compress = rng.random(5) < (
        *(table.shake, table.blur, table.dark, table.noise, table.compress),
    )
    most = shake * rng.uniform(*SHAKE)
    shifts = most * rng.uniform(-1, 1, (frames, 2))
    light = rng.uniform(*LIGHT) if dark else 1.0
    strength = (noise | dark) * rng.random() * (DARK_NOISE if dark else 1.0) / 255
    read = (READ_NOISE[0] + strength * 255 * (READ_NOISE[1] - READ_NOISE[0])) / 255
    values = (
        *(shifts, rng.integers(len(BORDERS)), blur * rng.uniform(*BLUR_PX), light),
        *(read * (noise | dark), strength * rng.uniform(*SHOT_NOISE)),
        *(rng.uniform(*GRAIN),),
        compress * rng.uniform(*QUALITY),
    )
    return Faults(*(np.asarray(value, np.float32) for value in values))


def _changed(
    clips: Tensor, chosen: NDArray[np.bool_], change: Callable[[Tensor], Tensor]
) -> Tensor:
    """Return the clips, the chosen ones changed."""
    if not chosen.any():
        return clips
    which = torch.from_numpy(np.flatnonzero(chosen)).to(clips.device)
    return clips.index_copy(0, which, change(clips[which]))


def _shifted(clips: Tensor, shifts: Tensor, border: str) -> Tensor:
    """Shift each frame: (B, T, 3, H, W), by (B, T, 2) sides of the picture."""
    frames = clips.flatten(0, 1)
    theta = torch.eye(2, 3, device=clips.device).repeat(len(frames), 1, 1)
    theta[:, :, 2] = -2 * shifts.flatten(0, 1)
    grid = F.affine_grid(theta, list(frames.shape), align_corners=False)
    moved = F.grid_sample(frames, grid, padding_mode=border, align_corners=False)
    return moved.view_as(clips)


def _blurred(clips: Tensor, faults: Faults) -> Tensor:
    sigma = faults.blur[faults.blur > 0].repeat(clips.shape[1]) * clips.shape[-2] / 64
    size = 2 * int(np.ceil(2.5 * BLUR_PX[1] * clips.shape[-2] / 64)) + 1
    sigmas = torch.from_numpy(sigma).to(clips)[:, None].expand(-1, 2)
    return gaussian_blur2d(clips.flatten(0, 1), size, sigmas).view_as(clips)


def _with_noise(clips: Tensor, faults: Faults, seeds: Sequence[int]) -> Tensor:
    """Add noise whose variance grows with the light, fresh in each frame."""
    out = clips.clone()
    for number in np.flatnonzero(faults.read):
        generator = torch.Generator(clips.device).manual_seed(seeds[int(number)])
        clip, read, shot = clips[number], float(faults.read[number]), float(faults.shot[number])
        sides = [round(side / float(faults.grain[number])) for side in clip.shape[2:]]
        shape = (*clip.shape[:2], *sides)
        noise = torch.randn(shape, generator=generator, device=clips.device)
        if sides != list(clip.shape[2:]):
            noise = F.interpolate(noise, clip.shape[2:], mode="bilinear")
        out[number] = clip + noise * (read**2 + shot**2 * clip).sqrt()
    return out.clamp(0, 1)


def _compressed(clips: Tensor, faults: Faults) -> Tensor:
    """Encode and decode pictures of a multiple of 16 px on each side; others stay as they are."""
    if clips.shape[-1] % 16 or clips.shape[-2] % 16:
        return clips
    quality = torch.from_numpy(faults.quality[faults.quality > 0].repeat(clips.shape[1]))
    frames = jpeg_codec_differentiable(clips.flatten(0, 1), quality.to(clips))
    return frames.view_as(clips).clamp(0, 1)
