"""Training batches.

Each batch is a pure function of (seed, step): a resumed run sees the clips that an uninterrupted
one would have seen, with no generator state to store; and its clips do not depend on the number
of processes that share it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from dvfl_models.data.augment import ClipAugmentation, PairMix, ResizedCrop, degrade
from dvfl_models.data.clip_sets import clip_set
from dvfl_models.data.clips import Clip
from dvfl_models.data.video_clips import VideoClips, files_of
from dvfl_models.recipe.recipe import Recipe
from dvfl_models.rendered.figures import JOINTS
from dvfl_runtime.errors import RecipeError

# first numbers of the seeds of what is drawn per clip and per pair; batches begin with the seed
_CLIP, _PAIR = 1, 2


class Batch(NamedTuple):
    """The clips of a step that one process trains on.

    Attributes:
        clips: (B, T, 3, H, W) float in 0-1, augmented.
        classes: (B,).
        targets: (B,) classes, or (B, num_classes) shares of classes where clips are mixed.
        names: of the clips.
        corrupt: files left out so far: name of the data set, tab, path.
        joints: (B, T, 13, 2) in pixels of the clips, NaN where unknown; None if not asked for.
    """

    clips: Tensor
    classes: Tensor
    targets: Tensor
    names: Sequence[str]
    corrupt: Sequence[str]
    joints: Tensor | None


class TrainingBatches(Dataset[Batch]):
    """Item `step` is the batch of that step.

    Args:
        recipe: says how many clips a step has over all processes.
        process: number of this process; it gets a part of each step's clips.
        processes: how many there are.

    Raises:
        RecipeError: if a data set is missing, a label has no videos, or a batch cannot be divided.
    """

    def __init__(self, recipe: Recipe, process: int = 0, processes: int = 1) -> None:
        self.sets = [clip_set(part, recipe, training=True) for part in recipe.train]
        self.videos = [clips for clips in self.sets if isinstance(clips, VideoClips)]
        self.files = files_of(self.sets)
        if len(self.videos) == len(self.sets):  # nothing is rendered
            _check_classes(self.videos, recipe.labels)
        self.recipe = recipe.with_epoch_of(sum(map(len, self.videos)))
        weights = np.asarray([part.weight for part in recipe.train])
        self.shares = weights / weights.sum()
        self.degraded, self.variants = recipe.augment.degrade, recipe.augment.seeds
        self.augment = ClipAugmentation(recipe.augment)
        self.crop = ResizedCrop(recipe.augment, recipe.spec.size)
        self.mix = PairMix(recipe.augment, len(recipe.labels))
        self.mine = _part_of(recipe, process, processes, pairs=self.mix.active)

    def __len__(self) -> int:
        return self.recipe.optim.steps

    def __getitem__(self, step: int) -> Batch:
        joints = None
        if self.recipe.optim.epochs:
            clips, classes, names = self._by_epoch(step)
        else:
            clips, classes, names, joints = self._by_class(step)
        targets = classes
        if self.mix.active:
            clips, targets = self._mixed(step, clips, classes)
        corrupt = [f"{s.name}\t{path}" for s in self.files for path in sorted(s.corrupt)]
        return Batch(clips, classes, targets, names, corrupt, joints)

    def _by_class(self, step: int) -> tuple[Tensor, Tensor, list[str], Tensor | None]:
        """Tables by weight, classes equally likely; one generator for all clips of the step.

        So every process draws the clips of all: rendering and small cached videos are cheap.
        """
        rng = np.random.default_rng([self.recipe.seed, step])
        clips, classes, names, joints = [], [], [], []
        unknown = np.full((self.recipe.spec.num_frames, len(JOINTS), 2), np.nan)
        for _ in range(self.recipe.optim.batch_size):
            sample = self.sets[int(rng.choice(len(self.sets), p=self.shares))].sample(rng)
            clips.append(self._cropped(degrade(sample.clip, rng, self.degraded), rng))
            classes.append(sample.class_id)
            names.append(sample.name)
            joints.append(unknown if sample.joints is None else sample.joints)
        batch, found = torch.stack(clips), torch.tensor(classes)[self.mine]
        if not self.recipe.optim.joints:
            return self._augmented(batch, rng)[self.mine], found, names[self.mine], None
        places = torch.from_numpy(np.stack(joints)).float()
        with _seeded(rng):
            batch, places = self.augment.with_points(_floats(batch), places)
        return batch[self.mine], found, names[self.mine], places[self.mine]

    def _by_epoch(self, step: int) -> tuple[Tensor, Tensor, list[str]]:
        """Each video once per epoch, in another order each time; one generator per clip.

        Of a recipe with `augment.seeds` a video comes back as it was after so many epochs.
        """
        clips, classes, names = [], [], []
        batch_size, seed = self.recipe.optim.batch_size, self.recipe.seed
        epoch, within = divmod(step, len(self) // self.recipe.optim.epochs)
        order = np.random.default_rng([seed, epoch]).permutation(sum(map(len, self.videos)))
        for position in range(within * batch_size, (within + 1) * batch_size)[self.mine]:
            where = int(order[position % len(order)])
            variant = epoch % self.variants if self.variants else epoch
            rng = np.random.default_rng([_CLIP, seed, variant, where])
            for videos in self.videos:
                if where < len(videos):
                    break
                where -= len(videos)
            sample = videos.take(videos.entries, where, rng)
            clip = self._cropped(degrade(sample.clip, rng, self.degraded), rng)
            clips.append(self._augmented(clip.unsqueeze(0), rng).squeeze(0))
            classes.append(sample.class_id)
            names.append(sample.name)
        return torch.stack(clips), torch.tensor(classes), names

    def _cropped(self, images: Clip, rng: np.random.Generator) -> Tensor:
        """(T, h, w, 3) -> (T, H, W, 3) uint8."""
        clip = torch.from_numpy(images)
        if self.crop.steps is None:
            return clip
        with _seeded(rng):
            cut: Tensor = self.crop(clip.permute(0, 3, 1, 2).float())
        return cut.permute(0, 2, 3, 1).round().clamp(0, 255).to(torch.uint8)

    def _augmented(self, clips: Tensor, rng: np.random.Generator) -> Tensor:
        """(B, T, H, W, 3) uint8 -> (B, T, 3, H, W) in 0-1."""
        with _seeded(rng):
            out: Tensor = self.augment(_floats(clips))
            return out

    def _mixed(self, step: int, clips: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
        mixed = []
        first = (self.mine.start or 0) // 2
        for number, (pair, kinds) in enumerate(_pairs(clips, classes), first):
            rng = np.random.default_rng([_PAIR, self.recipe.seed, step, number])
            with _seeded(rng):
                mixed.append(self.mix(pair, kinds, rng))
        return torch.cat([pair for pair, _ in mixed]), torch.cat([share for _, share in mixed])


@contextmanager
def _seeded(rng: np.random.Generator) -> Iterator[None]:
    """Seeds torch's generator, which kornia draws from, and leaves it as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(rng.integers(2**31)))
        yield


def _floats(clips: Tensor) -> Tensor:
    """(B, T, H, W, 3) uint8 -> (B, T, 3, H, W) in 0-1."""
    return clips.permute(0, 1, 4, 2, 3).float() / 255


def _pairs(clips: Tensor, classes: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    return zip(clips.split(2), classes.split(2), strict=True)


def _check_classes(videos: Sequence[VideoClips], labels: Sequence[str]) -> None:
    found = {class_id for clips in videos for class_id in clips.classes}
    if absent := [label for class_id, label in enumerate(labels) if class_id not in found]:
        where = ", ".join(clips.part.index for clips in videos)
        raise RecipeError(
            f"no video to train on has a label of {absent} ({where}); add some, or take it out of "
            f"labels"
        )


def _part_of(recipe: Recipe, process: int, processes: int, *, pairs: bool) -> slice:
    """Which clips of a step a process computes."""
    unit = processes * recipe.optim.accumulate * (2 if pairs else 1)
    size = recipe.optim.batch_size
    if size % unit:
        raise RecipeError(
            f"optim.batch_size {size} cannot be divided among {processes} processes, "
            f"{recipe.optim.accumulate} parts each{', in pairs' if pairs else ''}; "
            f"make it a multiple of {unit}"
        )
    share = size // processes
    return slice(process * share, (process + 1) * share)
