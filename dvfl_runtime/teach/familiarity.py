"""What a head has learnt, and how like it a clip is: a head that stays silent before other things.

A linear head has an answer to everything, and its scores hardly tell what it knows from what it has
never seen. The features do: how near those of a clip are to the nearest ones that were learnt, by
the cosine of their angle (models/RESULTS.md, section 7, has the measurement). Where they are
further away than windows of groups that were left out, the logits are taken back to zero: all
scores are even then, and the clip is called "unknown".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float32]

RAMP = 0.1  # of the distance that is kept: within so much more the logits go to zero
SHORTEST = 1e-12  # length of features; those of zeros have no direction


@dataclass(frozen=True, eq=False)
class Familiarity:
    """How like what was learnt a clip must be.

    Attributes:
        references: (C, K) features that were learnt, each of length 1.
        least: the cosine to the nearest of them from which on a clip counts in full.
    """

    references: Floats
    least: float

    @property
    def ramp(self) -> float:
        """How far below `least` nothing of a clip's logits is left."""
        return max(RAMP * (1 - self.least), 1e-3)

    def share(self, features: Floats) -> Floats:
        """Return how much of the logits of features (..., C) is left, 0 to 1: (..., 1)."""
        nearest = nearest_cosine(features, self.references)[..., None]
        share = np.clip((nearest - self.least) / self.ramp + 1, 0, 1)
        return np.asarray(share, np.float32)


def units(features: Floats) -> Floats:
    """Return features (..., C), each of length 1."""
    lengths = np.linalg.norm(features, axis=-1, keepdims=True)
    return np.asarray(features / np.maximum(lengths, SHORTEST), np.float32)


def nearest_cosine(features: Floats, references: Floats) -> Floats:
    """Return the cosine of features (..., C) to the nearest of the references (C, K): (...)."""
    return np.asarray((units(features) @ references).max(-1), np.float32)
