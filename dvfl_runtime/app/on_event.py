"""A command that is run for each event, without making the recognition wait."""

from __future__ import annotations

import contextlib
import os
import queue
import shlex
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable

from dvfl_runtime.errors import OutputError
from dvfl_runtime.results import Event, to_json_row

WAITING = 64  # events; of further ones none is kept
TIMEOUT_S = 30.0  # of one run
FAREWELL_S = 10.0  # for the runs that are still to come when all sources have ended


class EventCommand:
    """Runs a command at the start and the end of each action, one run after the other.

    The event comes on its standard input, as one JSON object. Its standard output goes nowhere, its
    standard error where that of this process goes.

    Args:
        command: split like a shell does it, but run without one.
        report: called with one line about the first run that fails, and about all at the end.
        timeout_s: after which a run is ended.

    Raises:
        OutputError: if there is no such command.
    """

    def __init__(
        self, command: str, report: Callable[[str], None], *, timeout_s: float = TIMEOUT_S
    ) -> None:
        try:
            self._words = shlex.split(command)
        except ValueError as err:
            raise OutputError(f"--on-event {command!r} cannot be split into words: {err}") from err
        if not self._words or shutil.which(self._words[0]) is None:
            raise OutputError(
                f"--on-event: there is no command {self._words[0] if self._words else ''!r}; give "
                f"the path of a program, with its arguments, in one pair of quotes"
            )
        self._report = report
        self._timeout_s = timeout_s
        self._events: queue.Queue[Event | None] = queue.Queue(WAITING)
        self._process: subprocess.Popen[bytes] | None = None
        self._closed = False
        self.runs = self.failed = self.timed_out = self.lost = 0
        self._thread = threading.Thread(target=self._run_all, name="dvfl-on-event", daemon=True)
        self._thread.start()

    def write(self, event: Event) -> None:
        """Take a start or an end; it is lost, and counted, if too many wait already."""
        if event.kind == "update":
            return
        try:
            self._events.put_nowait(event)
        except queue.Full:
            self.lost += 1

    def close(self) -> None:
        """Let the runs that wait end, but not for long, and report what went wrong."""
        if self._closed:
            return
        self._closed = True
        until_s = time.monotonic() + FAREWELL_S
        while self._thread.is_alive():  # a full queue has no room for the sign to end
            with contextlib.suppress(queue.Full):
                self._events.put(None, timeout=0.1)
                break
            if time.monotonic() > until_s:
                break
        self._thread.join(max(0.0, until_s - time.monotonic()))
        if self._thread.is_alive():
            self.lost += self._drain()
            self._end_run()
            self._thread.join(1.0)
        if self.failed or self.lost:
            self._report(
                f"--on-event: {self.failed} of {self.runs} runs failed ({self.timed_out} took more "
                f"than {self._timeout_s:g} s), {self.lost} events were lost because others waited"
            )

    def _drain(self) -> int:
        """Take all events that wait out of the queue, and return how many there were."""
        count = 0
        with contextlib.suppress(queue.Empty):
            while True:
                count += self._events.get_nowait() is not None
        self._events.put_nowait(None)
        return count

    def _run_all(self) -> None:
        while (event := self._events.get()) is not None:
            problem = self._run(event)
            self.runs += 1
            if problem:
                self.failed += 1
                if self.failed == 1:
                    self._report(f"--on-event {shlex.join(self._words)}: {problem}")

    def _run(self, event: Event) -> str:
        """Run the command once and return what went wrong, "" if nothing did."""
        own_group = os.name == "posix"  # what it starts ends with it; Ctrl-C here is not for it
        try:
            self._process = process = subprocess.Popen(
                self._words,
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                start_new_session=own_group,
            )
        except OSError as err:
            return str(err.strerror or err)
        try:
            process.communicate(f"{to_json_row(event)}\n".encode(), self._timeout_s)
        except subprocess.TimeoutExpired:
            self.timed_out += 1
            self._end_run()
            return f"ended after {self._timeout_s:g} s"
        return f"exit status {process.returncode}" if process.returncode else ""

    def _end_run(self) -> None:
        """End the command that runs, and what it has started."""
        process = self._process
        if process is None or process.poll() is not None:
            return
        with contextlib.suppress(OSError):  # it has ended by itself
            if os.name == "posix":
                os.killpg(process.pid, signal.SIGKILL)
            else:
                process.kill()
        process.wait()
