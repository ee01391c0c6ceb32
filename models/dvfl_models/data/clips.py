"""Clips as training reads them, sets of them, and the form in which a network takes them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dvfl_runtime.clips.spec import Clip, ClipSpec


class Sample(NamedTuple):
    """A clip to train on.

    Attributes:
        clip: (T, H, W, 3), or as large as the video if a random crop is to follow.
        class_id: its class.
        name: the file, or the seed it was rendered from.
        joints: (T, 13, 2) of a rendered person in pixels of the clip, see `synthetic.Rendered`.
    """

    clip: Clip
    class_id: int
    name: str
    joints: NDArray[np.float64] | None = None


class FixedClips(Protocol):
    """The same clips each time, to test on.

    Attributes:
        name: in messages and results.
    """

    name: str

    def __len__(self) -> int:
        """Return the number of clips."""

    def __getitem__(self, index: int) -> tuple[Clip, int]:
        """Return a clip (T, H, W, 3) and its class."""


class ClipSet(FixedClips, Protocol):
    """The clips that a table of a recipe describes: random ones to train on, fixed ones to test."""

    def sample(self, rng: np.random.Generator) -> Sample:
        """Return a random clip; all classes are equally likely."""


def to_batch(clips: Sequence[Clip], spec: ClipSpec) -> Tensor:
    """Preprocessed clips (T, H, W, 3) uint8 -> (B, T, 3, H, W) normalised float."""
    return to_input(torch.from_numpy(np.stack(clips)), spec)


def to_input(clips: Tensor, spec: ClipSpec) -> Tensor:
    """(B, T, H, W, 3) uint8 -> (B, T, 3, H, W) normalised float, on the same device."""
    return normalise(clips.permute(0, 1, 4, 2, 3).float() / 255, spec)


def normalise(clips: Tensor, spec: ClipSpec) -> Tensor:
    """Clips (..., 3, H, W) in 0-1 -> what the network takes."""
    mean, std = (
        torch.tensor(values).view(3, 1, 1).to(clips.device, non_blocking=True)
        for values in (spec.mean, spec.std)
    )
    return (clips * 255 - mean) / std
