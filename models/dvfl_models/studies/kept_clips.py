"""Small clips of one size that are kept in memory, and random forms of them, made there in batches.

They are made on the device that trains. Not yet run on a GPU in this form.
"""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dvfl_models.data.clips import normalise
from dvfl_models.data.datasets import list_videos
from dvfl_models.data.decoding import decode
from dvfl_models.data.list_formats import read_rows
from dvfl_models.data.rendered_clips import SyntheticClips
from dvfl_models.recipe.tables import SyntheticTable, VideosTable
from dvfl_models.rendered.synthetic import ACTIONS
from dvfl_runtime.clips.sampling import uniform_indices
from dvfl_runtime.clips.spec import Clip, ClipSpec

FRAMES = 8  # of a clip
KEPT_FRAMES = 30  # of a video, spread evenly over it
SIDE_PX = 64
TEST_SEED = 2_000_000_000  # of the first rendered clip to test on, as in the recipes


@dataclass(frozen=True)
class Clips:
    """A data set in memory.

    Attributes:
        frames: (N, F, H, W, 3) uint8, frames of each video.
        classes: (N,).
        groups: of each video; videos of one scene have the same.
        tests: per fold the indices of the videos that are held out.
    """

    frames: Tensor
    classes: Tensor
    groups: tuple[str, ...]
    tests: tuple[tuple[int, ...], ...]

    def trained(self, fold: int) -> list[int]:
        """Return the indices of the videos that a fold may train on."""
        held = set(self.tests[fold])
        return [n for n in range(len(self.classes)) if n not in held]


def read_clips(index: Path, folds: int, *, group: str = "group", given: bool = True) -> Clips:
    """Decode videos, the square in their middle, and divide them into folds.

    Fold 0 is the list's own split, by its column `split`. To folds 1, 2 ... the groups are dealt
    out at random.

    Args:
        index: a CSV file with columns file and label.
        folds: number of parts that the groups are dealt out to.
        group: column that names what videos have in common.
        given: whether the list has a split of its own; if not, fold 0 is empty.

    Raises:
        RecipeError: if the list cannot be read or lacks one of these columns.
    """
    listed = {"kind": "videos", "name": "clips", "index": str(index), "group": group}
    table = VideosTable.model_validate(listed)
    labels = sorted({row["label"] for row in read_rows(table, ())})
    whole = list_videos(table, labels)
    own: set[str] = set()
    if given:
        held = VideosTable.model_validate({**listed, "only": {"split": ["val", "test"]}})
        own = {entry.path for entry in list_videos(held, labels)}
    with ThreadPoolExecutor() as pool:
        videos = list(pool.map(lambda entry: _some_frames(entry.path), whole))
    groups = tuple(entry.group for entry in whole)
    names = sorted(set(groups))
    np.random.default_rng(0).shuffle(names)
    dealt = {name: number % max(folds, 1) for number, name in enumerate(names)}
    tests = [tuple(n for n, entry in enumerate(whole) if entry.path in own)]
    tests += [tuple(n for n, g in enumerate(groups) if dealt[g] == k) for k in range(folds)]
    classes = torch.tensor([entry.class_id for entry in whole])
    return Clips(torch.from_numpy(np.stack(videos)), classes, groups, tuple(tests))


def _some_frames(path: str) -> Clip:
    spec = ClipSpec(size=(SIDE_PX, SIDE_PX), resize=SIDE_PX, crop="center")
    frames = decode(path, spec)[0]
    return frames[uniform_indices(len(frames), KEPT_FRAMES)]


def draw_clips(train: int, test: int, side: int) -> Clips:
    """Render hard scenes, each a group of its own; fold 0 tests on the last `test` clips.

    Args:
        train: number of clips to train on, of all classes together.
        test: number of clips to test on.
        side: of the pictures, px.
    """
    parts = []
    for count, first_seed in ((train, 0), (test, TEST_SEED)):
        spec = ClipSpec(num_frames=FRAMES, size=(side, side))
        table = SyntheticTable.model_validate(
            {"kind": "synthetic", "clips": count // len(ACTIONS), "first_seed": first_seed}
        )
        drawn = SyntheticClips(table, ACTIONS, spec)
        parts += [drawn[n] for n in range(len(drawn))]
    frames = torch.from_numpy(np.stack([clip for clip, _ in parts]))
    classes = torch.tensor([class_id for _, class_id in parts])
    held = tuple(range(len(parts) - test // len(ACTIONS) * len(ACTIONS), len(parts)))
    return Clips(frames, classes, tuple(str(n) for n in range(len(parts))), (held,))


class RandomForms:
    """Random clips of videos, on the device: another span of time, crop, flip and colour.

    Args:
        clips: the data set.
        device: where its frames are kept.
        num_classes: of the targets, which are shares of classes.
        crop: smallest share of the picture that a crop shows.
        mixed: share of the clips that are mixed with the one before them in the batch (mixup,
            alpha 0.8).
    """

    def __init__(
        self,
        clips: Clips,
        device: torch.device,
        num_classes: int,
        *,
        crop: float = 0.5,
        mixed: float = 0.0,
    ) -> None:
        self.frames, self.classes = clips.frames.to(device), clips.classes.to(device)
        self.device, self.num_classes = device, num_classes
        self.crop, self.mixed = crop, mixed

    def __call__(self, videos: Tensor) -> tuple[Tensor, Tensor]:
        """Indices of videos (B,) -> clips (B, T, H, W, 3) uint8 and targets (B, num_classes)."""
        count = len(videos)
        # (B, T, H, W, 3) uint8 -> (B, T, 3, H, W) in 0 to 1
        images = self.frames[videos[:, None], self._picks(count)].permute(0, 1, 4, 2, 3) / 255
        images = self._coloured(self._cropped(images)).clamp(0, 1)
        targets = F.one_hot(self.classes[videos], self.num_classes).float()
        if self.mixed:
            share = torch.distributions.Beta(0.8, 0.8).sample((count,)).to(self.device)
            share = torch.where(self._random(count) < self.mixed, share, 1.0)
            images = _mix(images, share.view(-1, 1, 1, 1, 1))
            targets = _mix(targets, share.view(-1, 1))
        # (B, T, 3, H, W) -> (B, T, H, W, 3) uint8
        return (images * 255).round().byte().permute(0, 1, 3, 4, 2), targets

    def _random(self, *shape: int) -> Tensor:
        return torch.rand(*shape, device=self.device)

    def _picks(self, count: int) -> Tensor:
        """Return (B, T) frames, at the centres of equal parts of 40 to 100 % of the videos."""
        most = self.frames.shape[1]
        steps = torch.arange(FRAMES, device=self.device) + 0.5
        if most == FRAMES:
            return steps.long().expand(count, -1)
        span = most * (0.4 + 0.6 * self._random(count, 1))
        start = (most - span) * self._random(count, 1)
        jitter = 0.5 * self._random(count, FRAMES) - 0.25  # each frame is moved a little
        return (start + span / FRAMES * (steps + jitter)).long().clamp(0, most - 1)

    def _cropped(self, images: Tensor) -> Tensor:
        """Crop, turn by up to 4 degrees and flip, all frames of a clip alike."""
        count = len(images)
        share = self.crop + (1 - self.crop) * self._random(count)
        ratio = torch.exp(math.log(4 / 3) * (2 * self._random(count) - 1))  # width over height
        wide, high = (share * ratio).sqrt().clamp(max=1), (share / ratio).sqrt().clamp(max=1)
        x, y = ((1 - size) * (2 * self._random(count) - 1) for size in (wide, high))
        angle = math.radians(4) * (2 * self._random(count) - 1)
        wide = wide * torch.where(self._random(count) < 0.5, 1.0, -1.0)
        sine, cosine = angle.sin(), angle.cos()
        rows = [wide * cosine, -high * sine, x, wide * sine, high * cosine, y]
        # (B, T, 3, H, W) -> (B, T * 3, H, W), whose grid all frames share
        flat = images.flatten(1, 2)
        grid = F.affine_grid(torch.stack(rows, 1).view(-1, 2, 3), list(flat.shape), False)
        return F.grid_sample(flat, grid, padding_mode="reflection", align_corners=False).view_as(
            images
        )

    def _coloured(self, images: Tensor) -> Tensor:
        """Change brightness and contrast by up to 20 %, saturation by 10 %; one in ten is grey."""
        count = len(images)
        light, contrast, colour = (
            (1 + most * (2 * self._random(count) - 1)).view(-1, 1, 1, 1, 1)
            for most in (0.2, 0.2, 0.1)
        )
        colour = torch.where(self._random(count).view(-1, 1, 1, 1, 1) < 0.1, 0.0, colour)
        grey = images.mean(2, keepdim=True)
        images = grey + colour * (images - grey)
        middle = grey.mean((1, 2, 3, 4), keepdim=True)
        return light * (middle + contrast * (images - middle))


def _mix(values: Tensor, share: Tensor) -> Tensor:
    return share * values + (1 - share) * values.roll(1, 0)


def centre_clips(clips: Clips, videos: Tensor) -> Tensor:
    """Return the clips that networks are tested on: frames evenly over each of some videos."""
    picks = torch.from_numpy(uniform_indices(clips.frames.shape[1], FRAMES))
    return clips.frames[videos][:, picks]


def bf16_where_fast(device: torch.device) -> torch.autocast:
    """Compute in bf16, but for CPUs without AVX512_BF16 or AMX, which take ten times as long."""
    # an older PyTorch cannot tell
    has: dict[str, object] = (
        getattr(torch.cpu, "get_capabilities", dict)() if device.type == "cpu" else {}
    )
    fast = device.type != "cpu" or bool(has.get("avx512_bf16") or has.get("amx_bf16"))
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=fast)


def normalised(clips: Tensor) -> Tensor:
    """(B, T, H, W, 3) uint8 -> (B, T, 3, H, W) as the network takes it."""
    return normalise(clips.permute(0, 1, 4, 2, 3).float() / 255, ClipSpec()).contiguous()


def save(clips: Clips, path: Path) -> None:
    """Write the data set for other processes."""
    torch.save(vars(clips), path)


def load(path: Path) -> Clips:
    """Read a data set that `save` has written."""
    return Clips(**torch.load(path, weights_only=True))
