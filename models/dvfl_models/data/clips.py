"""What a set of clips is, whatever they come from."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

Clip = NDArray[np.uint8]


class Sample(NamedTuple):
    """A clip of training.

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


class ClipSet(Protocol):
    """Clips of one origin."""

    name: str

    def sample(self, rng: np.random.Generator) -> Sample:
        """A random clip, classes equally likely."""

    def __len__(self) -> int:
        """Clips of the fixed test set."""

    def __getitem__(self, index: int) -> tuple[Clip, int]:
        """Clip (T, H, W, 3) and class of the fixed test set."""
