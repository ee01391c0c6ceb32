"""Batches of clips from many sources at once, in fair turns."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from operator import add
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dvfl_runtime.clips.source_windows import SourceWindows
from dvfl_runtime.clips.spec import ClipOrigin, ClipSpec
from dvfl_runtime.clips.windows import Window, Windower
from dvfl_runtime.errors import DvflError, SourceError
from dvfl_runtime.errors.addresses import reason_of
from dvfl_runtime.sources import SourceLike, display_name
from dvfl_runtime.streams.options import StreamOptions
from dvfl_runtime.streams.reader import SourceReader
from dvfl_runtime.streams.window_queue import WindowQueue

_logger = logging.getLogger(__name__)

DEFAULT_MAX_BATCH = 8  # clips; with fewer sources, one of each
OF_A_SOURCE = 4  # ... of whose regions no more run at once: on a CPU eight need twice the memory
GRACE_S = 2.0  # how long, at the end, sources of the caller's may take for one more frame
PAUSE_CHECK_S = 1.0  # how often live sources are asked whether they have paused


class Empty(NamedTuple):
    """A span of time of a source in which there is nothing to be recognised.

    Attributes:
        source: name of the source.
        start_s: start on the source's clock, seconds.
        end_s: end, seconds.
    """

    source: str
    start_s: float
    end_s: float


@dataclass(frozen=True, eq=False)
class Batch:
    """Clips for one run of the engine, and what else happened.

    Attributes:
        clips: (B, T, H, W, 3) uint8 RGB, preprocessed; overwritten by the next batch.
        turns: in order, the number of a source with the origin of its next clip (B of them), with
            an empty span, or with `None` at its end.
    """

    clips: NDArray[np.uint8]
    turns: Sequence[tuple[int, ClipOrigin | Empty | None]]


class Scheduler:
    """Reads sources while the engine works, and hands out their clips in fair turns.

    Args:
        sources: one or more.
        spec: the model's contract.
        options: how windows and batches are made.

    Attributes:
        stopped: whether nothing more is read or handed out.

    Raises:
        ArgumentError: if an option is out of its range.
    """

    def __init__(
        self, sources: Sequence[SourceLike], spec: ClipSpec, options: StreamOptions
    ) -> None:
        names = [display_name(source) for source in sources]
        suffixes = [f" [{n + 1}]" if names.count(name) > 1 else "" for n, name in enumerate(names)]
        finders = options.finders([*map(add, names, suffixes)], spec)
        most = sum(min(finder.most, OF_A_SOURCE) for finder in finders)  # clips of the same time
        self._max_batch = options.max_batch or min(DEFAULT_MAX_BATCH, most)
        self._max_wait_s = options.max_wait_ms / 1e3
        self._changed = threading.Condition()
        capacity = max(2, self._max_batch)  # each window ahead holds a hop of frames
        self._queues = [WindowQueue(self._changed, capacity) for _ in sources]
        self._readers = [
            SourceReader(
                source,
                suffixes[n],
                SourceWindows(
                    Windower(
                        *(spec, options.window_s, options.hop_s),
                        pad=options.pad,
                        finder=finders[n],
                    )
                ),
                self._queues[n],
                options.fps,
            )
            for n, source in enumerate(sources)
        ]
        self._next = 0  # number of the source whose turn it is
        self._pid = os.getpid()
        # (B, T, H, W, 3), reused by every batch
        self._clips = np.empty((self._max_batch, spec.num_frames, *spec.size, 3), np.uint8)
        self.stopped = False

    def start(self) -> None:
        """Begin to read."""
        for reader in self._readers:
            reader.start()

    def stop(self) -> None:
        """End reading and handing out; may be called from any thread."""
        with self._changed:
            self.stopped = True
            for queue in self._queues:
                queue.close()

    def close(self) -> None:
        """Stop, and wait until all threads have ended; a `Source` of the caller's stays open.

        Such a source is closed too if it keeps its reader waiting for more than `GRACE_S`.
        """
        if os.getpid() != self._pid:  # a forked child has neither the threads nor their locks
            return
        self.stop()
        for reader in self._readers:
            reader.close_source()
        give_up_s = time.monotonic() + GRACE_S
        for reader in self._readers:
            reader.wait_for_end(give_up_s)

    def take(self) -> Batch | None:
        """Block until a source has a clip or has ended; return `None` when nothing is left.

        A batch has up to `max_batch` clips, one from each source in turn.

        Raises:
            Exception: the error of the only source, if it failed.
            SourceError: if each of several sources failed.
        """
        with self._changed:
            due = False
            while not due:
                for reader in self._readers:
                    reader.end_pause()
                due = self._changed.wait_for(self._is_due, PAUSE_CHECK_S)
            if len(self._queues) > 1:
                self._changed.wait_for(self._is_full, self._max_wait_s)
            if self.stopped:
                return None
            turns = self._take_turns()
        if not turns:
            self._raise_if_all_failed()
            return None
        return self._gather(turns)

    def _is_due(self) -> bool:
        """Return whether `take` has something to do."""
        return self.stopped or any(map(len, self._queues)) or all(q.done for q in self._queues)

    def _is_full(self) -> bool:
        """Return whether waiting gains nothing: a full batch, or a window of each source."""
        return (
            self.stopped
            or sum(map(len, self._queues)) >= self._max_batch
            or all(queue.done or len(queue) > 0 for queue in self._queues)
        )

    def _take_turns(self) -> list[tuple[int, Window | None]]:
        """Take the next window, or the end, of one source after the other, with its number."""
        turns: list[tuple[int, Window | None]] = []
        count = len(self._queues)
        while len(turns) < self._max_batch and any(map(len, self._queues)):
            while len(self._queues[self._next]) == 0:
                self._next = (self._next + 1) % count
            turns.append((self._next, self._queues[self._next].take()))
            self._next = (self._next + 1) % count
        return turns

    def _gather(self, turns: Sequence[tuple[int, Window | None]]) -> Batch:
        """Copy the pictures of the windows into the batch; this needs no lock."""
        begin_ns = time.monotonic_ns()
        count = 0
        given: list[tuple[int, ClipOrigin | Empty | None]] = []
        for number, window in turns:
            name = self._readers[number].source_name
            if window is None:
                self._log_error(number)
                given.append((number, None))
            elif window.track is None:
                given.append((number, Empty(name, window.start_s, window.end_s)))
            else:
                window.take(self._clips[count])
                count += 1
                origin = ClipOrigin(
                    source=name,
                    start_s=window.start_s,
                    end_s=window.end_s,
                    since_ns=window.arrival_ns or begin_ns,
                    dropped_frames=window.dropped,
                    region=window.track.region,
                    track_id=window.track.track_id,
                )
                given.append((number, origin))
        return Batch(self._clips[:count], given)

    def _log_error(self, number: int) -> None:
        """Log the error of one of several sources; `take` raises that of a single source."""
        error = self._queues[number].error
        if error is not None and len(self._queues) > 1:
            _logger.warning(
                "%s ended with an error, the other sources go on: %s",
                *(self._readers[number].source_name, reason_of(error)),
                exc_info=None if isinstance(error, DvflError) else error,
            )

    def _raise_if_all_failed(self) -> None:
        errors = [queue.error for queue in self._queues if queue.error is not None]
        if len(errors) == len(self._queues) > 1:
            raise SourceError(
                f"all {len(errors)} sources failed, the first one with: {errors[0]}"
            ) from errors[0]
        if len(errors) == len(self._queues):
            raise errors[0]
