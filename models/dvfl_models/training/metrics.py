"""The metrics of a run, as a table, as curves and for TensorBoard, and its lines of progress."""

from __future__ import annotations

import csv
import io
import logging
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dvfl_runtime.errors.packages import needed
from dvfl_runtime.files import RowFile, replacing

log = logging.getLogger(__name__)


class Metrics:
    """`metrics.csv`, one row per step, and on request the same for TensorBoard.

    Args:
        folder: of the run.
        tensorboard: write event files too.

    Raises:
        DvflError: if tensorboardX is needed and not installed.
    """

    def __init__(self, folder: Path, *, tensorboard: bool = False) -> None:
        self.path, self.folder = folder / "metrics.csv", folder
        self._writer: Any = None
        if tensorboard:
            with needed("--tensorboard", "tensorboardX"):
                from tensorboardX import SummaryWriter
            self._writer = SummaryWriter(str(folder / "tensorboard"))

    def append(self, row: Mapping[str, Any]) -> None:
        """Add a row; a file of an earlier version keeps its columns.

        Raises:
            OutputError: if the row cannot be written; the rows before it stay whole.
        """
        names, new = list(row), not self.path.exists()
        if not new:
            with self.path.open(newline="", encoding="utf-8") as file:
                names = next(csv.reader(file), names)
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, names, extrasaction="ignore")
        if new:
            writer.writeheader()
        writer.writerow(row)
        with RowFile(self.path, append=True) as file:
            file.write(text.getvalue())
        if self._writer is not None:
            for name, value in row.items():
                if name != "step" and value != "":
                    self._writer.add_scalar(name, float(value), int(row["step"]))

    def rows(self) -> list[dict[str, str]]:
        """Return all rows so far."""
        if not self.path.exists():
            return []
        with self.path.open(newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))

    def forget_after(self, step: int) -> None:
        """Remove the rows of later steps, which a resumed run writes again."""
        every = self.rows()
        if not every:
            return
        with replacing(self.path) as part, part.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(every[0]))
            writer.writeheader()
            writer.writerows(row for row in every if int(row["step"]) <= step)

    def flush(self) -> None:
        """Write rows that are not in the event files yet."""
        if self._writer is not None:
            self._writer.flush()

    def close(self) -> None:
        """Finish the event files."""
        if self._writer is not None:
            self._writer.close()

    def save_curves(self, tests: Sequence[str]) -> None:
        """Draw `curves.png`: losses, and accuracies of training and of each test set.

        Raises:
            OutputError: if the file cannot be written.
        """
        from matplotlib.figure import Figure

        every = self.rows()
        figure = Figure(figsize=(10, 3.6), dpi=110, layout="constrained")
        losses, accuracies = figure.subplots(1, 2)
        for name in ("loss", "task_loss", "kd_loss", "modulation_loss", "joint_loss"):
            _draw(losses, every, name, smooth=True)
        _draw(accuracies, every, "train_accuracy", smooth=True)
        for name in tests:
            _draw(accuracies, every, name, smooth=False)
        losses.set_ylabel("loss")
        accuracies.set_ylabel("accuracy")
        accuracies.set_ylim(0, 1)
        for axes in (losses, accuracies):
            axes.set_xlabel("step")
            axes.grid(alpha=0.3)
            if axes.lines:
                axes.legend(fontsize=8)
        with replacing(self.folder / "curves.png") as part:
            figure.savefig(part)


def _draw(axes: Any, rows: Sequence[Mapping[str, str]], name: str, *, smooth: bool) -> None:
    """Draw a column over the steps; with `smooth`, pale and `smoothed` over it."""
    values = [(int(row["step"]), float(row[name])) for row in rows if row.get(name)]
    points = [point for point in values if math.isfinite(point[1])]
    if not points:
        return
    steps, heights = (np.array(column) for column in zip(*points, strict=True))
    if not smooth:
        axes.plot(steps, heights, label=name, marker="o", markersize=3)
        return
    (line,) = axes.plot(steps, smoothed(heights), label=name)
    axes.plot(steps, heights, color=line.get_color(), alpha=0.2, linewidth=0.8, zorder=1)


def smoothed(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return means over a fifteenth of the values around each, over fewer at both ends."""
    half = len(values) // 30
    sums = np.concatenate([[0.0], np.cumsum(values)])
    places = np.arange(len(values))
    begin, end = np.maximum(places - half, 0), np.minimum(places + half + 1, len(values))
    return np.asarray((sums[end] - sums[begin]) / (end - begin))


class ProgressLog:
    """A line of progress a minute, for runs whose output goes to a file.

    Args:
        step: the number of steps done at the start.
        steps: the number of steps of the whole run.
        every_s: seconds between two lines.
    """

    def __init__(self, step: int, steps: int, every_s: float = 60.0) -> None:
        self._first, self._steps, self._every_s = step, steps, every_s
        self._began_s = self._told_s = time.monotonic()

    def tell(self, step: int, shown: Mapping[str, Any]) -> None:
        """Log how far the run is, if the last line is old enough, and at the end."""
        now_s = time.monotonic()
        if now_s - self._told_s < self._every_s and step < self._steps:
            return
        self._told_s = now_s
        left_s = (now_s - self._began_s) / max(step - self._first, 1) * (self._steps - step)
        values = ", ".join(f"{name} {value}" for name, value in shown.items())
        log.info("step %d of %d, %s, %d s left", step, self._steps, values, left_s)
