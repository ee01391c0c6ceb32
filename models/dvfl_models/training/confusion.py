"""Accuracy on fixed test sets, and the confusion matrix as numbers and as a picture."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dvfl_models.data.clips import ClipSet
from dvfl_models.data.video_clips import VideoClips
from dvfl_runtime.clips.spec import ClipSpec
from dvfl_runtime.errors import SourceError
from dvfl_runtime.files import replacing

log = logging.getLogger(__name__)

BATCH = 32
MAX_NAMED = 30  # classes that a confusion matrix can name
ALL = slice(None)


def wilson(right: int, total: int, z: float = 1.96) -> tuple[float, float]:
    """Wilson's 95 % interval of a share: right / total lies within, also at 0 and 1.

    It takes clips for independent; where they come from few sources it is too narrow.
    """
    if total == 0:
        return 0.0, 1.0
    share, spread = right / total, z * z / total
    middle = (share + spread / 2) / (1 + spread)
    half = z / (1 + spread) * math.sqrt(share * (1 - share) / total + spread / total / 4)
    return max(0.0, middle - half), min(1.0, middle + half)


@dataclass(frozen=True, eq=False)
class Confusion:
    """What became of a test set.

    Attributes:
        labels: the classes.
        counts: (true class, predicted class).
        top5: clips whose class is among the five best.
        skipped: videos that could not be decoded and are in no count.
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

    def __add__(self, other: Confusion) -> Confusion:
        top5, skipped = self.top5 + other.top5, self.skipped + other.skipped
        return Confusion(self.labels, self.counts + other.counts, top5, skipped)

    def report(self) -> dict[str, Any]:
        """Accuracies with 95 % intervals, overall and per class, ready for JSON."""
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
        """Draws the matrix.

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
        ticks = range(len(self.labels)) if few else range(0)  # of hundreds the numbers of classes
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
    """Counts what scores or logits (N, num_classes) say of N clips of known classes."""
    counts = np.zeros((len(labels), len(labels)), np.int64)
    if len(classes) == 0:
        return Confusion(labels, counts)
    np.add.at(counts, (np.asarray(classes), scores.argmax(1)), 1)
    best = np.argsort(-scores, axis=1, kind="stable")[:, :5]
    return Confusion(labels, counts, int((best == np.asarray(classes)[:, None]).sum()))


def normalise(clips: Tensor, spec: ClipSpec) -> Tensor:
    """(..., 3, H, W) in 0-1 -> what the network takes."""
    mean = torch.tensor(spec.mean, device=clips.device).view(3, 1, 1)
    std = torch.tensor(spec.std, device=clips.device).view(3, 1, 1)
    return (clips * 255 - mean) / std


def to_batch(clips: Sequence[NDArray[np.uint8]], spec: ClipSpec) -> Tensor:
    """Preprocessed clips (T, H, W, 3) uint8 -> (B, T, 3, H, W) normalised float."""
    stacked = torch.from_numpy(np.stack(clips)).permute(0, 1, 4, 2, 3)
    return normalise(stacked.float() / 255, spec)


@torch.inference_mode()
def evaluate(
    model: nn.Module, clips: ClipSet, labels: tuple[str, ...], spec: ClipSpec, part: slice = ALL
) -> Confusion:
    """Runs each clip of a fixed test set once, in eval mode; the model's mode is restored.

    Args:
        model: on whichever device it is.
        clips: the test set; what cannot be decoded is left out with a warning and counted.
        labels: of the logits.
        spec: of the clips.
        part: the clips to run, where several processes share the work.
    """
    was_training, device = model.training, next(model.parameters()).device
    model.eval()
    total = count(labels, np.zeros((0, len(labels)), np.float32), [])
    indices = range(len(clips))[part]
    for first in range(0, len(indices), BATCH):
        items, skipped = _decodable(clips, indices[first : first + BATCH])
        if items:
            logits = model(to_batch([clip for clip, _ in items], spec).to(device))
            total += count(labels, logits.float().cpu().numpy(), [kind for _, kind in items])
        total += Confusion(labels, np.zeros_like(total.counts), 0, skipped)
    model.train(was_training)
    return total


def _decodable(
    clips: ClipSet, indices: Sequence[int]
) -> tuple[list[tuple[NDArray[np.uint8], int]], tuple[str, ...]]:
    items, skipped = [], []
    for index in indices:
        try:
            items.append(clips[index])
        except SourceError as err:
            log.warning("test set %r: left out: %s", clips.name, err)
            skipped.append(clips.entries[index].path if isinstance(clips, VideoClips) else "")
    return items, tuple(skipped)
