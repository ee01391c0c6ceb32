"""The video of each event, from some seconds before it to its end, and the event beside it."""

from __future__ import annotations

import json
import re
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from dvfl_runtime.errors import DvflError, OutputError
from dvfl_runtime.files import Replacement, cannot_write, write_json
from dvfl_runtime.record.cutting import FileRecorder
from dvfl_runtime.record.recorder import Recorder, Recording
from dvfl_runtime.results import Event
from dvfl_runtime.sources import Source
from dvfl_runtime.sources.recorded.file import FileSource

LATE_S = 20.0  # so long after its beginning an event may become certain
MAX_S = 600.0  # of one recording
MAX_NAME = 80  # characters of a label or a source in a file's name


class EventRecordings:
    """Records the events of all sources into one folder.

    The recording of a live source goes on until the end of its event is known: a little longer.

    The oldest recordings are deleted as soon as all take more than `keep_bytes`; only what an
    earlier or this run has recorded, as the JSON beside it says, and nothing else. A recording that
    cannot be written is reported and costs nothing but itself.

    Args:
        folder: made if it is missing.
        pre_roll_s: so long before its event a recording begins, seconds.
        keep_bytes: the most bytes of all recordings that are complete.
        report: called with one line about the first that fails, and about all at the end.

    Raises:
        OutputError: if nothing can be written there.
    """

    def __init__(
        self, folder: Path, pre_roll_s: float, keep_bytes: float, report: Callable[[str], None]
    ) -> None:
        self._folder = folder
        self._pre_roll_s = pre_roll_s
        self._report = report
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as err:
            raise cannot_write(folder, err) from err
        Replacement(folder / "event.json").discard()  # the folder is writable
        self._lock = threading.Lock()  # guards the counts and the kept ones
        self._kept = _KeptRecordings(folder, keep_bytes)
        self._recorders: dict[str, Recorder | FileRecorder] = {}
        self._running: dict[tuple[object, ...], _EventRecording] = {}
        self._names: deque[str] = deque(maxlen=1000)  # of the newest recordings
        self.failed = self.done = 0

    def watch(self, name: str, source: Source) -> Recorder | FileRecorder:
        """Record the events of a source; return what has to observe its frames, and be closed.

        Args:
            name: of the source in events.
            source: not yet read.
        """
        recorder: Recorder | FileRecorder
        if isinstance(source, FileSource) and source.has_timestamps:
            recorder = FileRecorder(source)
        else:
            recorder = Recorder(source, pre_roll_s=self._pre_roll_s + LATE_S)
        self._recorders[name] = recorder
        return recorder

    def write(self, event: Event) -> None:
        """Begin, follow or end the recording of an event."""
        key = (event.source, event.track_id, event.start_s)
        running = self._running.get(key)
        if running is None:
            if event.kind != "start":
                return
            stem = self._stem(event)
            running = self._running[key] = _EventRecording(event, stem, self._take)
            begin_s = max(0.0, event.start_s - self._pre_roll_s)
            recorder = self._recorders[event.source]
            running.recording = recorder.begin(stem, begin_s, running.complete)
        running.follow(event)
        if event.kind == "end":
            del self._running[key]

    def close(self) -> None:
        """Report what went wrong."""
        if self.failed:
            self._report(f"--record-events: {self.failed} of {self.failed + self.done} failed")

    def _take(self, recording: _EventRecording, error: DvflError | None) -> None:
        """Count a recording that is complete, and make room; in the thread that wrote it."""
        with self._lock:
            if error is None:
                self.done += 1
                self._kept.add(recording.sidecar)
            else:
                self.failed += 1
                if self.failed == 1:
                    self._report(f"--record-events: {error}")

    def _stem(self, event: Event) -> Path:
        """Return a path that no other recording has: time, source and label, without a suffix."""
        begun_s = time.time() - max(0.0, event.now_s - event.start_s)
        parts = [event.source, event.label, *([] if event.track_id is None else [event.track_id])]
        words = [re.sub(r"[^\w.-]+", "_", str(part)).strip("_.")[-MAX_NAME:] for part in parts]
        stem = "_".join([time.strftime("%Y-%m-%d_%H-%M-%S", time.localtime(begun_s)), *words])
        number, name = 1, stem
        while name.casefold() in self._names or (self._folder / f"{name}.json").exists():
            number += 1
            name = f"{stem}_{number}"
        self._names.append(name.casefold())
        return self._folder / name


class _EventRecording:
    """One event and its video; the JSON is written when both are complete."""

    def __init__(
        self,
        event: Event,
        stem: Path,
        on_complete: Callable[[_EventRecording, DvflError | None], None],
    ) -> None:
        self.sidecar = stem.with_name(f"{stem.name}.json")
        self.recording: Recording | None = None
        self._event = event
        self._on_complete = on_complete
        self._lock = threading.Lock()
        self._done: Recording | None = None

    def follow(self, event: Event) -> None:
        """Take the newest state of the event."""
        with self._lock:
            self._event = event
            done = self._done
        assert self.recording is not None
        last_s = event.start_s + MAX_S
        if self.recording.end_s is None and (event.kind == "end" or event.end_s >= last_s):
            self.recording.end(min(event.end_s, last_s))
        if done is not None and event.kind == "end":  # its video had become too long before
            with suppress(OutputError):
                self._write(done)

    def complete(self, recording: Recording) -> None:
        """Write the JSON; in the thread that wrote the video."""
        error = recording.error
        with self._lock:
            self._done = recording
        if error is None:
            try:
                self._write(recording)
            except OutputError as err:
                error = err
        self._on_complete(self, error)

    def _write(self, recording: Recording) -> None:
        files = [path.name for path in recording.paths]
        about = {**self._event.to_dict(), "files": files, "files_begin_s": recording.begin_s}
        write_json(self.sidecar, about)


class _KeptRecordings:
    """The recordings in a folder, by the JSON beside each; the oldest go first."""

    def __init__(self, folder: Path, keep_bytes: float) -> None:
        self._keep_bytes = keep_bytes
        self._kept: list[tuple[list[Path], int]] = []  # files and bytes of each, the oldest first
        self._size = 0
        found = sorted(folder.glob("*.json"), key=lambda path: (_changed_s(path), path.name))
        for sidecar in found:
            self.add(sidecar)

    def add(self, sidecar: Path) -> None:
        """Add a recording that is complete, and delete the oldest ones if all are too many."""
        files = _files_of(sidecar)
        if not files:
            return
        size = 0
        for path in files:
            with suppress(OSError):
                size += path.stat().st_size
        self._kept.append((files, size))
        self._size += size
        while self._size > self._keep_bytes and len(self._kept) > 1:
            oldest, size = self._kept.pop(0)
            self._size -= size
            for path in oldest:
                with suppress(OSError):
                    path.unlink(missing_ok=True)


def _files_of(sidecar: Path) -> list[Path]:
    """Return the JSON of a recording and its videos; nothing if it is no recording's."""
    try:
        about: Any = json.loads(sidecar.read_text(encoding="utf-8"))
        names = [str(name) for name in about["files"]] if about["event"] else []
    except (OSError, ValueError, KeyError, TypeError):
        return []
    # its videos are called like it, so that no other file is ever deleted
    if not names or any(Path(n).name != n or not n.startswith(sidecar.stem) for n in names):
        return []
    return [sidecar, *(sidecar.parent / name for name in names)]


def _changed_s(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
