"""The journal of a part in progress: its rows so far, and how often each video was tried.

It is a file of JSON lines beside the part, written whole lines at a time, so that it survives the
death of its writer and of whoever started that.

    {"again": [ID, ...]}              the videos that are redone, though the part has rows of them
    {"begun": ID}                     a video is being read
    {"row": {...}}                    its row
    {"died": ID, "kind": "ProcessDied", "reason": "was killed by SIGSEGV"}
    {"stopped": ID}                   it was left on request, which says nothing about it
"""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from dvfl_runtime.archive.videos import Row
from dvfl_runtime.errors import OutputError

LOCK_S = 60.0  # how long another writer, which must be at its end, is waited for
LOCK_CHECK_S = 0.2
# A whole run that died with a video says less about it than a process of its own that did.
RUNS_PER_DEATH = 3


class Journal:
    """A journal that is read, and continued when the block is entered.

    Args:
        path: of the file, which need not exist.

    Attributes:
        rows: by the id of the video.
        again: ids of the videos that are redone.
        deaths: by id: how often a process hung or died with it, and the last time how.

    Raises:
        OutputError: if it cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: int | None = None
        self._read()

    def __enter__(self) -> Journal:
        while True:
            try:
                self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
                _lock(self._file)
                if _is_same(self._file, self.path):
                    break
            except OSError as err:
                raise self._cannot_write(err) from err
            os.close(self._file)  # the writer before has completed the part
        self._read()  # the writer before may have added to it
        if self._torn:
            self._append(b"\n")
        return self

    def __exit__(self, *_: object) -> None:
        assert self._file is not None
        os.close(self._file)
        self._file = None

    def redo(self, ids: Iterable[str]) -> None:
        """Forget the rows of these videos, which are done again."""
        wanted = sorted(set(ids) - self.again)
        if wanted:
            self._write(again=wanted)
            self.again.update(wanted)
            for one in wanted:
                self._forget(one)

    def begin(self, one: str) -> None:
        """Note that a video is being read."""
        self._write(begun=one)
        self._begun[one] += 1

    def add(self, row: Row) -> None:
        """Note the row of a video."""
        self._write(row=row)
        self.rows[row["id"]] = row

    def died(self, one: str, kind: str, reason: str) -> None:
        """Note that a process hung or died with a video."""
        self._write(died=one, kind=kind, reason=reason)
        self._note_death(one, kind, reason)

    def stopped(self, one: str) -> None:
        """Note that a video was left on request."""
        self._write(stopped=one)
        self._begun[one] -= 1

    def is_hopeless(self, one: str, tries: int) -> bool:
        """Return whether a video has had its tries."""
        deaths = self.deaths[one][0] if one in self.deaths else 0
        return deaths >= tries or self._begun[one] >= tries * RUNS_PER_DEATH

    def last_death(self, one: str) -> tuple[str, str]:
        """Return how a process died with a video, as a class and a text."""
        if one in self.deaths:
            times, kind, reason = self.deaths[one]
            return kind, f"{times} times; the last time its process {reason}"
        return "RunDied", f"the whole run died with it {self._begun[one]} times"

    def remove(self) -> None:
        """Remove the file, whose rows are in the part.

        Raises:
            OutputError: if that fails.
        """
        try:
            self.path.unlink(missing_ok=True)
        except OSError as err:
            raise self._cannot_write(err) from err

    def _read(self) -> None:
        self.rows: dict[str, Row] = {}
        self.again: set[str] = set()
        self.deaths: dict[str, tuple[int, str, str]] = {}
        self._begun: Counter[str] = Counter()  # without the ends that are known
        try:
            content = self.path.read_bytes()
        except FileNotFoundError:
            content = b""
        except OSError as err:
            raise OutputError(f"cannot read {self.path}: {err.strerror}; check the disk") from err
        self._torn = bool(content) and not content.endswith(b"\n")
        for line in _whole_lines(content):
            if "again" in line:
                self.again.update(line["again"])
                for one in line["again"]:
                    self._forget(one)
            elif "begun" in line:
                self._begun[line["begun"]] += 1
            elif "row" in line:
                self.rows[line["row"]["id"]] = line["row"]
            elif "died" in line:
                self._note_death(line["died"], line["kind"], line["reason"])
            elif "stopped" in line:
                self._begun[line["stopped"]] -= 1

    def _forget(self, one: str) -> None:
        self.rows.pop(one, None)
        self.deaths.pop(one, None)
        self._begun.pop(one, None)

    def _note_death(self, one: str, kind: str, reason: str) -> None:
        times = self.deaths[one][0] if one in self.deaths else 0
        self.deaths[one] = times + 1, kind, reason
        self._begun[one] -= 1

    def _write(self, **line: Any) -> None:
        self._append(json.dumps(line).encode() + b"\n")

    def _append(self, data: bytes) -> None:
        assert self._file is not None
        try:
            written = os.write(self._file, data)
            if written < len(data):  # a disk that is full takes what it can
                os.write(self._file, data[written:])
        except OSError as err:
            raise self._cannot_write(err) from err

    def _cannot_write(self, err: OSError) -> OutputError:
        return OutputError(f"cannot write {self.path}: {err.strerror}; check the disk")


def _whole_lines(content: bytes) -> Iterator[dict[str, Any]]:
    """Yield the lines, without those that a death or a full disk has torn."""
    for text in content.splitlines():
        with suppress(ValueError):
            line = json.loads(text)
            if isinstance(line, dict):
                yield line


def _is_same(file: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file), os.stat(path))
    except FileNotFoundError:
        return False


def _lock(file: int) -> None:
    """Wait for another writer of the same journal.

    Two writers lose nothing: they would only do the same videos twice, and count them twice.
    """
    try:
        import fcntl
    except ImportError:  # Windows, where no cluster writes into one folder
        return
    give_up_s = time.monotonic() + LOCK_S
    while time.monotonic() < give_up_s:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(LOCK_CHECK_S)
        except OSError:  # a file system without locks
            return
        else:
            return
