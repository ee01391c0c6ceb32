"""Accuracy on fixed test sets, and the confusion matrix as numbers and as a picture."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dvfl_models.data import ClipSet
from dvfl_runtime.files import replacing
from dvfl_runtime.spec import ClipSpec


@dataclass(frozen=True, eq=False)
class Confusion:
    """Counts of (true class, predicted class)."""

    labels: tuple[str, ...]
    counts: NDArray[np.int64]

    @property
    def clips(self) -> int:
        """Number of clips."""
        return int(self.counts.sum())

    @property
    def accuracy(self) -> float:
        """Share of right clips, 0 to 1."""
        return float(np.trace(self.counts)) / max(self.clips, 1)

    def __add__(self, other: Confusion) -> Confusion:
        return Confusion(self.labels, self.counts + other.counts)

    def save_png(self, path: str | os.PathLike[str], title: str) -> None:
        """Draws the matrix.

        Raises:
            OutputError: if the file cannot be written.
        """
        from matplotlib.figure import Figure

        size = 2.2 + 0.7 * len(self.labels)
        figure = Figure(figsize=(size + 0.6, size), dpi=110, layout="constrained")
        axes = figure.subplots()
        share = self.counts / np.maximum(self.counts.sum(1, keepdims=True), 1)
        axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
        ticks = range(len(self.labels))
        axes.set_xticks(ticks, self.labels, rotation=35, ha="right")
        axes.set_yticks(ticks, self.labels)
        axes.set_xlabel("predicted")
        axes.set_ylabel("true")
        axes.set_title(title, fontsize=10)
        for row in ticks:
            for column in ticks:
                if count := self.counts[row, column]:
                    colour = "white" if share[row, column] > 0.5 else "black"
                    axes.text(column, row, str(count), ha="center", va="center", color=colour)
        with replacing(path) as part:
            figure.savefig(part)


def normalise(clips: Tensor, spec: ClipSpec) -> Tensor:
    """(..., 3, H, W) in 0-1 -> what the network takes."""
    mean = torch.tensor(spec.mean).view(3, 1, 1)
    std = torch.tensor(spec.std).view(3, 1, 1)
    return (clips * 255 - mean) / std


def to_batch(clips: Sequence[NDArray[np.uint8]], spec: ClipSpec) -> Tensor:
    """Preprocessed clips (T, H, W, 3) uint8 -> (B, T, 3, H, W) normalised float."""
    stacked = torch.from_numpy(np.stack(clips)).permute(0, 1, 4, 2, 3)
    return normalise(stacked.float() / 255, spec)


@torch.inference_mode()
def evaluate(
    model: nn.Module, clips: ClipSet, labels: tuple[str, ...], spec: ClipSpec, *, batch: int = 32
) -> Confusion:
    """Runs each clip of a fixed test set once, in eval mode; the model's mode is restored."""
    was_training = model.training
    model.eval()
    counts = np.zeros((len(labels), len(labels)), np.int64)
    for first in range(0, len(clips), batch):
        items = [clips[index] for index in range(first, min(first + batch, len(clips)))]
        predicted = model(to_batch([clip for clip, _ in items], spec)).argmax(1).numpy()
        np.add.at(counts, ([class_id for _, class_id in items], predicted), 1)
    model.train(was_training)
    return Confusion(labels, counts)
