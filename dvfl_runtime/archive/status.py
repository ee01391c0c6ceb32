"""What an archive has so far: progress, rates, and failures by class."""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from dvfl_runtime.archive.folder import Folder, Part
from dvfl_runtime.archive.journal import Journal
from dvfl_runtime.archive.tables import COUNTS, STATUSES, open_parquet, read_rows, summary
from dvfl_runtime.archive.videos import Row

RECENT_S = 600.0  # parts that were completed within it tell the rate


@dataclass
class Status:
    """Counts of an archive.

    Attributes:
        videos: how many are listed.
        parts: how many parts there are.
        complete: how many of these are complete.
        statuses: rows by status.
        failures: rows by class of error.
        seconds: that processes spent.
        videos_s: how long the videos are, as far as that is known.
        rate: rows per second of late, 0 if none came.
    """

    videos: int = 0
    parts: int = 0
    complete: int = 0
    statuses: Counter[str] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    videos_s: float = 0.0
    rate: float = 0.0

    @property
    def rows(self) -> int:
        """How many videos have a row."""
        return sum(self.statuses.values())


def status_of(folder: Folder) -> Status:
    """Return the counts of an archive; another command may be at work on it.

    Raises:
        OutputError: if the folder is no archive, or cannot be read.
    """
    folder.about()
    parts, complete = folder.parts(), folder.complete()
    status = Status(sum(parts.values()), len(parts), len(complete))
    now_s = time.time()
    recent: list[tuple[float, int]] = []
    for part in sorted(complete):
        path = folder.part(part)
        counts = json.loads(open_parquet(path).metadata.metadata[COUNTS])
        _add(status, counts)
        recent.append((os.stat(path).st_mtime, sum(counts["statuses"].values())))
    for part in sorted(folder.in_progress()):
        _add(status, summary(rows_so_far(folder, part)))
    status.rate = _rate([one for one in recent if now_s - one[0] < RECENT_S])
    return status


def rows_so_far(folder: Folder, part: Part) -> list[Row]:
    """Return the rows of a part that is not complete.

    Raises:
        OutputError: if the folder cannot be read.
    """
    rows = {row["id"]: row for row in read_rows(folder.part(part))}
    return list((rows | Journal(folder.journal(part)).rows).values())


def lines_of(status: Status) -> list[str]:
    """Return the counts for people to read."""
    share = status.rows / status.videos if status.videos else 1.0
    lines = [
        f"{status.rows} of {status.videos} videos ({share:.1%}), "
        f"{status.complete} of {status.parts} parts complete"
    ]
    by_status = (f"{status.statuses[name]} {name}" for name in STATUSES)
    lines.append(f"rows      {', '.join(by_status)}")
    if status.failures:
        common = (f"{count} {name}" for name, count in status.failures.most_common())
        lines.append(f"reasons   {', '.join(common)}")
    if status.seconds:
        lines.append(
            f"spent     {status.seconds:.0f} s of processes on {status.videos_s:.0f} s of video"
        )
    left = status.videos - status.rows
    if left and status.rate:
        eta = _time(left / status.rate)
        lines.append(f"rate      {status.rate:.3g} videos/s of late, ETA {eta}")
    return lines


def _add(status: Status, counts: dict[str, Any]) -> None:
    status.statuses.update(counts["statuses"])
    status.failures.update(counts["failures"])
    status.seconds += counts["seconds"]
    status.videos_s += counts["videos_s"]


def _rate(completed: Sequence[tuple[float, int]]) -> float:
    """Return the rows per second of parts, given when each was completed and how many it has."""
    if len(completed) < 2:
        return 0.0
    times, counts = zip(*sorted(completed), strict=True)
    span_s = times[-1] - times[0]  # the first part was begun before it
    return sum(counts[1:]) / span_s if span_s > 0 else 0.0


def _time(seconds: float) -> str:
    hours, minutes = divmod(round(seconds) // 60, 60)
    return f"{hours}:{minutes:02}:{round(seconds) % 60:02}"
