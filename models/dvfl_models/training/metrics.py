"""What a run writes beside its checkpoints: metrics as a table, as curves and for TensorBoard."""

from __future__ import annotations

import csv
import io
import logging
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dvfl_runtime.errors.packages import needed
from dvfl_runtime.files import RowFile, replacing

log = logging.getLogger(__name__)


class Metrics:
    """`metrics.csv`, one row per step, and the same for TensorBoard if that is asked for.

    Args:
        folder: of the run.
        tensorboard: whether to write event files too.

    Raises:
        DvflError: if tensorboardX is asked for and not installed.
    """

    def __init__(self, folder: Path, *, tensorboard: bool = False) -> None:
        self.path, self.folder = folder / "metrics.csv", folder
        self._writer: Any = None
        if tensorboard:
            with needed("--tensorboard", "tensorboardX"):
                from tensorboardX import SummaryWriter
            self._writer = SummaryWriter(str(folder / "tensorboard"))

    def append(self, row: Mapping[str, Any]) -> None:
        """Adds a row; in a file of an earlier version, in that file's columns.

        Raises:
            OutputError: if it cannot be written; the rows before it stay whole.
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
        """All rows so far."""
        if not self.path.exists():
            return []
        with self.path.open(newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))

    def forget_after(self, step: int) -> None:
        """Removes the rows of later steps, which a resumed run writes again."""
        every = self.rows()
        if not every:
            return
        with replacing(self.path) as part, part.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(every[0]))
            writer.writeheader()
            writer.writerows(row for row in every if int(row["step"]) <= step)

    def flush(self) -> None:
        """Writes what the event files do not have yet."""
        if self._writer is not None:
            self._writer.flush()

    def close(self) -> None:
        """Finishes the event files."""
        if self._writer is not None:
            self._writer.close()

    def save_curves(self, tests: Sequence[str]) -> None:
        """Draws `curves.png`: losses, and accuracies of training and of each test set.

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
    """One column over the steps; noisy ones as means over stretches of the run."""
    points = [(int(row["step"]), float(row[name])) for row in rows if row.get(name)]
    points = [point for point in points if math.isfinite(point[1])]
    if not points:
        return
    stretch = max(1, len(points) // 100) if smooth else 1
    groups = [points[k : k + stretch] for k in range(0, len(points), stretch)]
    steps = [group[-1][0] for group in groups]
    values = [sum(value for _, value in group) / len(group) for group in groups]
    axes.plot(steps, values, label=name, marker="" if smooth else "o", markersize=3)


class ProgressLog:
    """A line of progress a minute, for runs whose output goes to a file.

    Args:
        step: that the run starts at.
        steps: of the whole run.
        every_s: seconds between two lines.
    """

    def __init__(self, step: int, steps: int, every_s: float = 60.0) -> None:
        self._first, self._steps, self._every_s = step, steps, every_s
        self._began_s = self._told_s = time.monotonic()

    def tell(self, step: int, shown: Mapping[str, Any]) -> None:
        """Logs where the run is, if the last line is old enough, and at the end."""
        now_s = time.monotonic()
        if now_s - self._told_s < self._every_s and step < self._steps:
            return
        self._told_s = now_s
        left_s = (now_s - self._began_s) / max(step - self._first, 1) * (self._steps - step)
        values = ", ".join(f"{name} {value}" for name, value in shown.items())
        log.info("step %d of %d, %s, %d s left", step, self._steps, values, left_s)
