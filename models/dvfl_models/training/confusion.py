"""The result of a test: accuracy with its interval, and the confusion matrix."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dvfl_runtime.clips.accuracy import wilson
from dvfl_runtime.files import replacing

MAX_NAMED = 30  # classes that a confusion matrix can name


@dataclass(frozen=True, eq=False)
class Confusion:
    """How many clips of each class a network took for which class.

    Attributes:
        labels: the classes.
        counts: (true class, predicted class).
        top5: number of clips whose class is among the five best.
        skipped: videos that could not be decoded and are not counted.
    """

    labels: tuple[str, ...]
    counts: NDArray[np.int64]
    top5: int = 0
    skipped: tuple[str, ...] = ()

    @property
    def clips(self) -> int:
        """Number of clips."""
        return int(self.counts.sum())

    @property
    def accuracy(self) -> float:
        """Share of right clips, 0 to 1."""
        return float(np.trace(self.counts)) / max(self.clips, 1)

    def most_confused(self) -> tuple[str, str, int] | None:
        """Return the two classes that were confused most often, and how often; None if none."""
        both = np.triu(self.counts + self.counts.T, 1)
        first, second = np.unravel_index(int(both.argmax()), both.shape)
        times = int(both[first, second])
        return (self.labels[first], self.labels[second], times) if times else None

    def title(self, name: str) -> str:
        """Return the line above the matrix of a test set."""
        return f"{name}: {self.accuracy:.1%} of {self.clips} clips"

    def __add__(self, other: Confusion) -> Confusion:
        top5, skipped = self.top5 + other.top5, self.skipped + other.skipped
        return Confusion(self.labels, self.counts + other.counts, top5, skipped)

    def report(self) -> dict[str, Any]:
        """Return accuracies with 95 % intervals, overall and per class, ready for JSON."""
        right, clips = int(np.trace(self.counts)), self.clips
        classes = {
            label: _share(int(self.counts[k, k]), int(self.counts[k].sum()))
            for k, label in enumerate(self.labels)
        }
        found = {"top1": _share(right, clips)}
        if len(self.labels) > 5:
            found["top5"] = _share(self.top5, clips)
        return {"clips": clips, "skipped": len(self.skipped), **found, "classes": classes}

    def save_png(self, path: str | os.PathLike[str], title: str) -> None:
        """Draw the matrix.

        Raises:
            OutputError: if the file cannot be written.
        """
        from matplotlib.figure import Figure

        few = len(self.labels) <= MAX_NAMED
        size = 2.2 + 0.7 * len(self.labels) if few else 9.0
        figure = Figure(figsize=(size + 0.6, size), dpi=110, layout="constrained")
        axes = figure.subplots()
        share = self.counts / np.maximum(self.counts.sum(1, keepdims=True), 1)
        axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
        axes.set_xlabel("predicted")
        axes.set_ylabel("true")
        axes.set_title(title, fontsize=10)
        # hundreds of names would overlap: matplotlib then numbers the classes itself
        ticks = range(len(self.labels)) if few else range(0)
        if few:
            axes.set_xticks(ticks, self.labels, rotation=35, ha="right")
            axes.set_yticks(ticks, self.labels)
        for row in ticks:
            for column in ticks:
                if count := self.counts[row, column]:
                    colour = "white" if share[row, column] > 0.5 else "black"
                    axes.text(column, row, str(count), ha="center", va="center", color=colour)
        with replacing(path) as part:
            figure.savefig(part)


def _share(right: int, total: int) -> dict[str, Any]:
    low, high = wilson(right, total)
    value = round(right / total, 4) if total else None
    return {"value": value, "ci95": [round(low, 4), round(high, 4)], "clips": total}


def count(
    labels: tuple[str, ...], scores: NDArray[np.float32], classes: Sequence[int]
) -> Confusion:
    """Return the confusion of N clips of known classes by their scores or logits (N, classes)."""
    counts = np.zeros((len(labels), len(labels)), np.int64)
    wanted = np.asarray(classes, np.int64)
    np.add.at(counts, (wanted, scores.argmax(1)), 1)
    best = np.argsort(-scores, axis=1, kind="stable")[:, :5]
    return Confusion(labels, counts, int((best == wanted[:, None]).sum()))
