"""Steps whose loss or gradient is not finite: they change no weight, and are counted."""

from __future__ import annotations

import logging
from pathlib import Path

from dvfl_runtime.errors import DvflError
from dvfl_runtime.files import write_json

log = logging.getLogger(__name__)

IN_A_ROW = 5  # so many end a run: the clips of a single step are not the reason then
IN_A_ROW_SCALED = 20  # the scaler of fp16 needs sixteen steps to come down from 65536 to 1


class SkippedSteps:
    """Counts the steps that were skipped, and ends a run with too many of them in a row.

    Args:
        most: so many in a row end the run.
        where: file for the clips of the steps that ended it.

    Attributes:
        count: skipped steps of the whole run.
    """

    def __init__(self, most: int, where: Path) -> None:
        self.most, self.where, self.count = most, where, 0
        self._row: list[dict[str, object]] = []

    def finite(self) -> None:
        """Note that a step was not skipped."""
        self._row.clear()

    def add(self, what: str, step: int, lr: float, clips: list[str], *, expected: bool) -> None:
        """Note a step that was skipped.

        Args:
            what: the reason: what was not finite, and its value.
            step: number of the step.
            lr: its learning rate.
            clips: names of its clips.
            expected: whether fp16 is only looking for its scale.

        Raises:
            DvflError: if this is one too many in a row.
        """
        self.count += 1
        self._row.append({"step": step, "lr": lr, "why": what, "clips": clips})
        first = ", ".join(clips[:4])
        more = f" and {len(clips) - 4} more" if len(clips) > 4 else ""
        level = logging.INFO if expected else logging.WARNING
        log.log(level, "step %d is skipped, %s; its clips: %s%s", step, what, first, more)
        if len(self._row) < self.most:
            return
        write_json(self.where, self._row)
        raise DvflError(
            f"{what} at step {step}, lr {lr:.2g}, the last of {self.most} steps in a row that were "
            f"skipped; lower optim.lr, or look at their clips, all in {self.where}: {first}{more}"
        )
