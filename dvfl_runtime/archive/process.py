"""A process that recognises videos, seen from both sides: it may hang or die, its parent does not.

The parent writes the path of a video as a line of JSON; the process answers with lines of JSON:
`ready` once, `alive` from time to time, then the `row` of the video. `fatal` says that no video
can be recognised. What libraries print goes elsewhere.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import platform
import queue
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from signal import Signals
from typing import IO, Any, cast

from dvfl_runtime.archive.videos import Reading, Row, recognise_videos
from dvfl_runtime.errors import DvflError
from dvfl_runtime.errors.packages import MEDIA, needed
from dvfl_runtime.recognizer import BUNDLED_MODEL, Recognizer

START_S = 300.0  # the choice of an engine measures each of them when it is first made on a machine
ALIVE_S = 0.5  # between two signs of life
LAST_WORDS = 300  # characters of what a process wrote before it died
END_S = 2.0  # how long a process may take to end when it is told to


@dataclass(frozen=True)
class Settings:
    """What a process needs to know, in JSON's types.

    Attributes:
        model: path of the model file; `None` for the bundled one.
        sha256: of that file.
        engine: its name, or "auto".
        device: likewise.
        threads: for CPU work.
        precision: "file" or "bf16".
        focus: "motion", "frame", or `None` for the model's own.
        reading: how videos are recognised.
    """

    model: str | None = None
    sha256: str = ""
    engine: str = "auto"
    device: str = "auto"
    threads: int = 1
    precision: str = "file"
    focus: str | None = None
    reading: Reading = field(default_factory=Reading)


class Died(Exception):
    """A process hung or died with a video; `kind` is "Hung" or "ProcessDied"."""

    def __init__(self, kind: str, reason: str) -> None:
        super().__init__(reason)
        self.kind = kind


class RecogniserProcess:
    """The parent's side; the process is started when it is needed, and again after its death.

    Args:
        settings: for the process.
        timeout_s: how long a video may bring nothing new before its process is ended.
    """

    def __init__(self, settings: Settings, timeout_s: float) -> None:
        self._settings = settings
        self._timeout_s = timeout_s
        self._process: subprocess.Popen[bytes] | None = None
        self._answers: queue.SimpleQueue[Row | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._words = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the process
        self._closed = False

    def start(self) -> None:
        """Start the process, unless it runs, and wait until its model is open.

        Raises:
            DvflError: if no video can be recognised with these settings.
        """
        if self._process is not None:
            return
        command = [sys.executable, "-m", "dvfl_runtime.archive.process"]
        command.append(json.dumps(asdict(self._settings)))
        with self._lock:
            if self._closed:
                raise DvflError("stopped")
            self._words.seek(0)
            self._words.truncate()
            self._answers = queue.SimpleQueue()
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._words,
                start_new_session=True,  # Ctrl-C is for the parent, which lets a video end
            )
        reader = threading.Thread(
            target=_read_answers, args=(self._process, self._answers), daemon=True
        )
        reader.start()
        try:
            self._answer("ready", START_S)
        except Died as err:
            raise DvflError(f"the process that recognises videos {err} at its start") from err

    def recognise(self, path: str) -> Row:
        """Return the row of a video.

        Raises:
            Died: if the process hung or died with it.
            DvflError: if no video can be recognised.
        """
        self.start()
        process = self._process
        assert process is not None
        assert process.stdin is not None
        with suppress(OSError):  # that it has died is noticed where its answer is awaited
            process.stdin.write(json.dumps(path).encode() + b"\n")
            process.stdin.flush()
        return cast(Row, self._answer("row", self._timeout_s))

    def kill(self) -> None:
        """End the process at once; may be called from any thread."""
        with self._lock:
            if self._process is not None:
                self._process.kill()

    def close(self) -> None:
        """End the process; it is not started again."""
        with self._lock:
            self._closed = True
            process, self._process = self._process, None
        if process is not None:
            _end(process, END_S)
        self._words.close()

    def _answer(self, name: str, timeout_s: float) -> Any:
        """Wait for the answer of a name.

        Raises:
            Died: if none comes; the process has ended then.
            DvflError: if the process says that it cannot work.
        """
        process = self._process
        assert process is not None
        while True:
            try:
                answer = self._answers.get(timeout=timeout_s)
            except queue.Empty:
                self._end()
                raise Died("Hung", f"brought nothing new for {timeout_s:g} s") from None
            if answer is None:
                self._end()
                raise Died("ProcessDied", _cause(process.returncode, self._last_words()))
            if "fatal" in answer:
                self._end()
                raise DvflError(answer["fatal"])
            if name in answer:
                return answer[name]

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            _end(process, END_S)

    def _last_words(self) -> str:
        self._words.seek(0)
        text = self._words.read().decode(errors="replace")
        return " ".join(text.split())[-LAST_WORDS:]


def _read_answers(process: subprocess.Popen[bytes], answers: queue.SimpleQueue[Row | None]) -> None:
    """Hand on the answers of a process as they come, and `None` at its end."""
    assert process.stdout is not None
    with process.stdout, suppress(OSError, ValueError):  # torn by the death of the process
        for line in process.stdout:
            answers.put(json.loads(line))
    with suppress(subprocess.TimeoutExpired):
        process.wait(END_S)
    answers.put(None)


def _end(process: subprocess.Popen[bytes], wait_s: float) -> None:
    assert process.stdin is not None
    with suppress(OSError):
        process.stdin.close()  # at the end of its input the process ends
    try:
        process.wait(wait_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _cause(status: int | None, last_words: str) -> str:
    if status is None or status >= 0:
        how = f"ended with status {status}"
    else:
        with suppress(ValueError):
            how = f"was killed by {Signals(-status).name}"
            return f"{how}: {last_words}" if last_words else how
        how = f"was killed by signal {-status}"
    return f"{how}: {last_words}" if last_words else how


def model_sha256(model: str | None) -> str:
    """Return the SHA-256 of a model file, of the bundled one for `None`."""
    return hashlib.sha256(Path(model or BUNDLED_MODEL).read_bytes()).hexdigest()


def main(argv: list[str]) -> None:
    """Run the process: recognise the videos whose paths come in, until no more come."""
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a library prints
    lines = os.fdopen(os.dup(0), "rb")
    with open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), 0)  # a child that a library forks closes it, and must not wait

    def say(**answer: object) -> None:
        out.write(json.dumps(answer).encode() + b"\n")
        out.flush()

    logging.basicConfig(level=logging.ERROR)
    values = json.loads(argv[0])
    settings = Settings(**{**values, "reading": Reading(**values["reading"])})
    paths: queue.SimpleQueue[str] = queue.SimpleQueue()
    threading.Thread(target=_read_paths, args=(lines, paths), daemon=True).start()
    last_s = 0.0

    def alive() -> None:
        nonlocal last_s
        if (now_s := time.monotonic()) - last_s >= ALIVE_S:
            last_s = now_s
            say(alive=True)

    try:
        with needed("reading video files", *MEDIA):  # before the first video, whose time counts
            import av  # noqa: F401
            import cv2  # noqa: F401
        with Recognizer(
            settings.model,
            engine=settings.engine,
            device=settings.device,
            num_threads=settings.threads,
            precision=settings.precision,
            focus=cast(Any, settings.focus),
        ) as recognizer:
            if (found := model_sha256(settings.model)) != settings.sha256:
                raise DvflError(
                    f"the model file {settings.model or BUNDLED_MODEL} on {platform.node()} is "
                    f"another one (SHA-256 {found[:12]}, not {settings.sha256[:12]}); copy the "
                    "same file to each host"
                )
            say(ready=True)
            for row in recognise_videos(_each(paths), recognizer, settings.reading, alive):
                say(row=row)
    except DvflError as err:
        say(fatal=str(err))


def _each(paths: queue.SimpleQueue[str]) -> Iterator[str]:
    while True:
        yield paths.get()


def _read_paths(lines: IO[bytes], paths: queue.SimpleQueue[str]) -> None:
    """Hand on the paths that come in; end the process when its parent has gone, even mid-video."""
    for line in lines:
        paths.put(json.loads(line))
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1:])
