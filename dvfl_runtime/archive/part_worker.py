"""Completes parts: what the hosts, this machine and Ray, have in common."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from dvfl_runtime.archive.folder import Folder, Part, carried, paths_of
from dvfl_runtime.archive.journal import Journal
from dvfl_runtime.archive.manifest import ID, PATH
from dvfl_runtime.archive.process import Died, RecogniserProcess, Settings
from dvfl_runtime.archive.tables import read_rows, write_part
from dvfl_runtime.archive.videos import EMPTY, Row, version_of
from dvfl_runtime.version import __version__

REDONE = ("failed", "quarantined")


@dataclass(frozen=True)
class Job:
    """What is done with each part.

    Attributes:
        settings: for the process that recognises.
        root: the folder that relative paths are in.
        timeout_s: how long a video may bring nothing new.
        tries: how often a process may hang or die with a video.
        again: redo the videos that have failed or changed.
    """

    settings: Settings
    root: str
    timeout_s: float
    tries: int
    again: bool = False


class PartWorker:
    """Completes one part after the other, with one process.

    Args:
        folder: of the archive.
        job: what to do.
        report: called with each new row.
        stop: once it is set, no further video is begun.
    """

    def __init__(
        self,
        folder: Folder,
        job: Job,
        report: Callable[[Row], None] = lambda _: None,
        stop: threading.Event | None = None,
    ) -> None:
        self._folder = folder
        self._job = job
        self._report = report
        self._stop = stop or threading.Event()
        self.process = RecogniserProcess(job.settings, job.timeout_s)

    def complete(self, part: Part) -> None:
        """Give a part all of its rows, or begin to, if a stop is asked for.

        Raises:
            OutputError: if the folder cannot be read or written.
            DvflError: if no video can be recognised.
        """
        listed = self._folder.listed(part)
        paths = paths_of(listed, self._job.root)
        if self._job.again and self._is_settled(part, paths):
            return
        texts = dict(zip(paths, listed.column(PATH).to_pylist(), strict=True))
        with Journal(self._folder.journal(part)) as journal:
            journal.redo(self._to_redo(part, paths) if self._job.again else ())
            written = _written(self._folder, part)
            for one, path in paths.items():
                if one in journal.rows or (one in written and one not in journal.again):
                    continue
                row = self._row(one, path, journal)
                if row is None:
                    return
                about = {"id": one, "path": texts[one], "model": self._job.settings.sha256}
                row |= {**about, "dvfl": __version__}
                journal.add(row)
                self._report(row)
            _write(self._folder.part(part), listed, written | journal.rows, journal)

    def close(self) -> None:
        """End the process."""
        self.process.close()

    def _row(self, one: str, path: str, journal: Journal) -> Row | None:
        """Return the row of a video; `None` if a stop is asked for."""
        while not journal.is_hopeless(one, self._job.tries):
            if self._stop.is_set():
                return None
            self.process.start()  # its death at the start says nothing about the video
            journal.begin(one)
            try:
                return self.process.recognise(path)
            except Died as death:
                if self._stop.is_set():
                    journal.stopped(one)
                    return None
                journal.died(one, death.kind, str(death))
        kind, reason = journal.last_death(one)
        return {**EMPTY, "status": "quarantined", "error_class": kind, "error": reason}

    def _is_settled(self, part: Part, paths: dict[str, str]) -> bool:
        """Return whether a part has all rows, and none that is to be done again."""
        begun = self._folder.journal(part).exists()
        return self._folder.part(part).exists() and not begun and not self._to_redo(part, paths)

    def _to_redo(self, part: Part, paths: dict[str, str]) -> list[str]:
        return [
            one
            for one, row in _written(self._folder, part).items()
            if row["status"] in REDONE
            or (row["size_bytes"], row["modified"]) != version_of(paths[one])
        ]


def publish(folder: Folder, part: Part) -> None:
    """Write the rows that a part has so far; nobody else may be at work on it.

    Raises:
        OutputError: if the folder cannot be read or written.
    """
    with Journal(folder.journal(part)) as journal:
        rows = _written(folder, part) | journal.rows
        _write(folder.part(part), folder.listed(part), rows, journal)


def _written(folder: Folder, part: Part) -> dict[str, Row]:
    return {row["id"]: row for row in read_rows(folder.part(part))}


def _write(path: Path, listed: pa.Table, rows: dict[str, Row], journal: Journal) -> None:
    """Write a part, and remove its journal if the rows are all that it can have."""
    ids = listed.column(ID).to_pylist()
    known = listed.filter(pa.array([one in rows for one in ids]))
    if rows:
        write_part(path, [rows[one] for one in ids if one in rows], carried(known))
    if len(rows) == len(ids) and journal.again <= journal.rows.keys():
        journal.remove()
