"""The result of a test: accuracy with its interval, and the confusion matrix."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dvfl_runtime.clips.accuracy import Answers, wilson
from dvfl_runtime.files import replacing

MAX_NAMED = 30  # classes that a confusion matrix can name


@dataclass(frozen=True, eq=False)
class Confusion(Answers):
    """How many clips of each class a network took for which class.

    Attributes:
        top5: number of clips whose class is among the five best.
        skipped: videos that could not be decoded and are not counted.
    """

    top5: int = 0
    skipped: tuple[str, ...] = ()

    def title(self, name: str) -> str:
        """Return the line above the matrix of a test set."""
        return f"{name}: {self.accuracy:.1%} of {self.clips} clips"

    def __add__(self, other: Confusion) -> Confusion:
        top5, skipped = self.top5 + other.top5, self.skipped + other.skipped
        return Confusion(self.labels, self.counts + other.counts, top5, skipped)

    def report(self) -> dict[str, Any]:
        """Return accuracies with 95 % intervals, overall and per class, ready for JSON."""
        classes = {
            label: _share(int(self.counts[k, k]), int(self.counts[k].sum()))
            for k, label in enumerate(self.labels)
        }
        found = {"top1": _share(self.right, self.clips)}
        if len(self.labels) > 5:
            found["top5"] = _share(self.top5, self.clips)
        return {"clips": self.clips, "skipped": len(self.skipped), **found, "classes": classes}

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
    wanted = np.asarray(classes, np.int64)
    counts = Answers.of(labels, wanted, scores.argmax(1)).counts
    best = np.argsort(-scores, axis=1, kind="stable")[:, :5]
    return Confusion(labels, counts, int((best == wanted[:, None]).sum()))
