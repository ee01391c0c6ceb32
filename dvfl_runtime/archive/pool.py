"""One host: a pool of processes, each of which completes one part after the other."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence

from dvfl_runtime.archive.folder import Folder, Part
from dvfl_runtime.archive.part_worker import Job, PartWorker
from dvfl_runtime.archive.videos import Row
from dvfl_runtime.interrupts import Interrupted

CHECK_S = 0.2  # between two looks at the workers


def run_here(
    folder: Folder, parts: Sequence[Part], job: Job, processes: int, report: Callable[[Row], None]
) -> None:
    """Complete parts with several processes of this host.

    After a first request to end, no further video is begun; after a second one, those that are
    being read are left.

    Args:
        folder: of the archive.
        parts: that are not complete.
        job: what to do with each.
        processes: how many work at the same time.
        report: called with each new row, by one thread at a time.

    Raises:
        DvflError: if no video can be recognised, or the folder cannot be written.
        Interrupted: after a request to end.
    """
    pool = _Pool(folder, parts, job, report)
    threads = [threading.Thread(target=pool.work, daemon=True) for _ in range(processes)]
    try:
        # the first process makes the choice of an engine, which the others then know
        threads[0].start()
        while threads[0].is_alive() and not pool.begun.wait(CHECK_S):
            pass
        for thread in threads[1 : len(parts)]:
            thread.start()
        _wait(threads)
    except Interrupted:
        pool.stop.set()
        try:
            _wait(threads)
        except Interrupted:
            pool.kill()
            _wait(threads)
        raise
    finally:
        pool.stop.set()
    if pool.error is not None:
        raise pool.error


class _Pool:
    """What the threads share, each of which has a process of its own.

    Attributes:
        stop: once it is set, no further video is begun.
        begun: set when the first process has opened its model.
        error: the first one that ended a thread.
    """

    def __init__(
        self, folder: Folder, parts: Sequence[Part], job: Job, report: Callable[[Row], None]
    ) -> None:
        self.stop = threading.Event()
        self.begun = threading.Event()
        self.error: Exception | None = None
        self._parts = deque(parts)
        self._lock = threading.Lock()
        self._report = report
        self._folder = folder
        self._job = job
        self._workers: list[PartWorker] = []

    def work(self) -> None:
        """Complete parts until there are none left, or a stop is asked for."""
        worker = PartWorker(self._folder, self._job, self._report_row, self.stop)
        self._workers.append(worker)
        try:
            worker.process.start()
            self.begun.set()
            while not self.stop.is_set() and (part := self._next()) is not None:
                worker.complete(part)
        except Exception as err:
            with self._lock:
                self.error = self.error or err
            self.stop.set()
        finally:
            worker.close()

    def _next(self) -> Part | None:
        with self._lock:
            return self._parts.popleft() if self._parts else None

    def kill(self) -> None:
        """Leave the videos that are being read."""
        for worker in list(self._workers):
            worker.process.kill()

    def _report_row(self, row: Row) -> None:
        with self._lock:
            self._report(row)


def _wait(threads: Sequence[threading.Thread]) -> None:
    for thread in threads:
        while thread.ident is not None and thread.is_alive():
            thread.join(CHECK_S)
