"""How often answers about labelled videos are right, and which classes are taken for each other."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


def wilson(right: int, total: int, z: float = 1.96) -> tuple[float, float]:
    """Return Wilson's 95 % interval of a share; it holds right / total, also at 0 and 1.

    It treats clips as independent; where they come from few sources it is too narrow.

    Args:
        right: successes.
        total: trials; without any, the interval is 0 to 1.
        z: quantile of the normal distribution; 1.96 is that of 95 %.
    """
    if total == 0:
        return 0.0, 1.0
    share, spread = right / total, z * z / total
    middle = (share + spread / 2) / (1 + spread)
    half = z / (1 + spread) * math.sqrt(share * (1 - share) / total + spread / total / 4)
    return max(0.0, middle - half), min(1.0, middle + half)


@dataclass(frozen=True, eq=False)
class Answers:
    """How many videos of each class were taken for which class.

    Attributes:
        labels: the classes.
        counts: (true class, answer).
    """

    labels: tuple[str, ...]
    counts: NDArray[np.int64]

    @classmethod
    def of(
        cls, labels: tuple[str, ...], truth: NDArray[np.int64], answers: NDArray[np.int64]
    ) -> Answers:
        """Count the answers (N,) about videos of the classes `truth` (N,)."""
        counts = np.zeros((len(labels), len(labels)), np.int64)
        np.add.at(counts, (truth, answers), 1)
        return cls(labels, counts)

    @property
    def clips(self) -> int:
        """Number of videos."""
        return int(self.counts.sum())

    @property
    def right(self) -> int:
        """Number of right answers."""
        return int(np.trace(self.counts))

    @property
    def accuracy(self) -> float:
        """Share of right answers, 0 to 1."""
        return self.right / max(self.clips, 1)

    def report(self) -> dict[str, Any]:
        """Return the accuracy with its 95 % interval, ready for JSON."""
        low, high = wilson(self.right, self.clips)
        return {
            "clips": self.clips,
            "top1": round(self.accuracy, 4),
            "ci95": [round(low, 4), round(high, 4)],
        }

    def summary(self) -> str:
        """Return the accuracy with its 95 % interval, for people."""
        low, high = wilson(self.right, self.clips)
        return f"{self.accuracy:.1%} of {self.clips} clips (95 % interval {low:.1%} to {high:.1%})"

    def most_confused(self) -> tuple[str, str, int] | None:
        """Return the two classes that were confused most often, and how often; None if none."""
        both = np.triu(self.counts + self.counts.T, 1)
        first, second = np.unravel_index(int(both.argmax()), both.shape)
        times = int(both[first, second])
        return (self.labels[first], self.labels[second], times) if times else None
