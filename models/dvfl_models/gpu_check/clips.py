"""Small videos of one size that are kept on a GPU, and random clips of them, made there in batches.

They have run on one NVIDIA H200.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import kornia.augmentation as K
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dvfl_models.data.augment import ClipAugmentation
from dvfl_models.data.clips import normalise
from dvfl_models.data.datasets import list_videos
from dvfl_models.data.decoding import decode
from dvfl_models.data.list_formats import read_rows
from dvfl_models.recipe.tables import AugmentTable, VideosTable
from dvfl_runtime.clips.spec import ClipSpec
from dvfl_runtime.errors import RecipeError

FRAMES = 8
AUGMENT = {"degrees": 4, "translate": 0.05, "scale": (0.9, 1.1), "jitter": 0.2, "grey": 0.1}


@dataclass(frozen=True)
class Clips:
    """A data set in memory.

    Attributes:
        frames: (N, F, H, W, 3) uint8, the decoded frames of each video.
        classes: (N,).
        groups: of each video; videos of one scene have the same.
        tests: per fold the indices of the videos that are held out.
    """

    frames: Tensor
    classes: Tensor
    groups: tuple[str, ...]
    tests: tuple[tuple[int, ...], ...]


def read_clips(index: Path, folds: int) -> Clips:
    """Decode videos of one size and divide them into folds.

    Fold 0 is the list's own split, by its column `split`. To folds 1, 2 ... the groups of the
    column `group` are dealt out at random.

    Raises:
        RecipeError: if the list cannot be read or lacks one of these columns, or the sizes differ.
    """
    listed = {"kind": "videos", "name": "clips", "index": str(index), "group": "group"}
    table = VideosTable.model_validate(listed)
    labels = sorted({row["label"] for row in read_rows(table, ())})
    whole = list_videos(table, labels)
    held = VideosTable.model_validate({**listed, "only": {"split": ["val", "test"]}})
    given = {entry.path for entry in list_videos(held, labels)}
    with ThreadPoolExecutor() as pool:
        videos = list(pool.map(lambda entry: decode(entry.path, 64)[0], whole))
    if len(sizes := {video.shape[1:3] for video in videos}) > 1:
        raise RecipeError(f"the videos of {index} must be of one size, got {sorted(sizes)}")
    most = max(map(len, videos))
    # a shorter video goes on with its last frame
    picks = [np.minimum(np.arange(most), len(video) - 1) for video in videos]
    frames = np.stack([video[pick] for video, pick in zip(videos, picks, strict=True)])
    groups = tuple(entry.group for entry in whole)
    names = sorted(set(groups))
    np.random.default_rng(0).shuffle(names)
    dealt = {name: number % max(folds, 1) for number, name in enumerate(names)}
    tests = [tuple(n for n, entry in enumerate(whole) if entry.path in given)]
    tests += [tuple(n for n, g in enumerate(groups) if dealt[g] == k) for k in range(folds)]
    classes = torch.tensor([entry.class_id for entry in whole])
    return Clips(torch.from_numpy(frames), classes, groups, tuple(tests))


class Augmented:
    """Random clips of videos, augmented and mixed on the device.

    Half of the clips are mixed with the one before them in the batch (mixup, alpha 0.8); targets
    are shares of classes.
    """

    def __init__(self, clips: Clips, device: torch.device, num_classes: int) -> None:
        self.frames, self.classes = clips.frames.to(device), clips.classes.to(device)
        self.device, self.num_classes = device, num_classes
        height, width = self.frames.shape[2:4]
        table = AugmentTable.model_validate(AUGMENT)
        self.steps = ClipAugmentation(table).to(device)
        crop = K.RandomResizedCrop((height, width), scale=(0.5, 1.0), ratio=(0.75, 1.3333))
        self.crop = K.VideoSequential(crop, data_format="BTCHW", same_on_frame=True)

    def __call__(self, videos: Tensor) -> tuple[Tensor, Tensor]:
        """Indices of videos (B,) -> clips (B, T, H, W, 3) uint8 and targets (B, num_classes)."""
        count, most = len(videos), self.frames.shape[1]
        # frames at the centres of equal parts of 40 to 100 % of the video, each moved a little
        span = most * (0.4 + 0.6 * torch.rand(count, 1, device=self.device))
        start = (most - span) * torch.rand(count, 1, device=self.device)
        steps = torch.arange(FRAMES, device=self.device) + 0.5
        jitter = 0.5 * torch.rand(count, FRAMES, device=self.device) - 0.25
        picks = (start + span / FRAMES * (steps + jitter)).long().clamp(0, most - 1)
        # (B, T, H, W, 3) uint8 -> (B, T, 3, H, W) in 0 to 1
        images = self.frames[videos[:, None], picks].permute(0, 1, 4, 2, 3).float() / 255
        images = self.steps(self.crop(images)).clamp(0, 1)
        targets = F.one_hot(self.classes[videos], self.num_classes).float()
        share = torch.distributions.Beta(0.8, 0.8).sample((count,)).to(self.device)
        share = torch.where(torch.rand(count, device=self.device) < 0.5, share, 1.0)
        images = _mix(images, share.view(-1, 1, 1, 1, 1))
        targets = _mix(targets, share.view(-1, 1))
        # (B, T, 3, H, W) -> (B, T, H, W, 3) uint8
        return (images * 255).round().byte().permute(0, 1, 3, 4, 2), targets


def _mix(values: Tensor, share: Tensor) -> Tensor:
    return share * values + (1 - share) * values.roll(1, 0)


def normalised(clips: Tensor) -> Tensor:
    """(B, T, H, W, 3) uint8 -> (B, T, 3, H, W) as the network takes it."""
    return normalise(clips.permute(0, 1, 4, 2, 3).float() / 255, ClipSpec()).contiguous()


def save(clips: Clips, path: Path) -> None:
    """Write the data set for the processes of the folds."""
    torch.save(vars(clips), path)


def load(path: Path) -> Clips:
    """Read a data set that `save` has written."""
    return Clips(**torch.load(path, weights_only=True))
