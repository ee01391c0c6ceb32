"""Live sources: the newest frame wins, and a source that died is opened again."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Literal, TypeAlias

import numpy as np

from dvfl_runtime.errors import SourceError
from dvfl_runtime.errors.addresses import shown
from dvfl_runtime.errors.checks import check_type
from dvfl_runtime.sources.frame import Frame, Image, check_image
from dvfl_runtime.sources.live.grabber import Grabbed, Grabber
from dvfl_runtime.sources.live.reconnect import LiveOptions, reason_of, reconnecting
from dvfl_runtime.sources.timestamps import LiveClock

_logger = logging.getLogger(__name__)

SourceState: TypeAlias = Literal["connecting", "live", "stalled", "ended"]

CLOSE_WAIT_S = 1.0  # how long close() waits for the device to be released


@dataclass(frozen=True)
class SourceStats:
    """What a live source has met so far.

    Attributes:
        frames: frames received.
        dropped_frames: those of them that the consumer was too slow for.
        repaired_timestamps: stamps that were missing, negative, repeated, backward or far off.
        reconnects: how often it was opened again and gave a frame.
    """

    frames: int = 0
    dropped_frames: int = 0
    repaired_timestamps: int = 0
    reconnects: int = 0


@dataclass(eq=False)
class _Newest:
    """The frame that waits for the consumer, and what was dropped for it."""

    grabbed: Grabbed
    time_s: float
    arrival_ns: int
    dropped: int
    after_gap: bool


@dataclass(frozen=True, eq=False)
class _Reading:
    """One run of `frames()`: its thread, and the event that ends it."""

    stop: threading.Event
    thread: threading.Thread


class LiveSource:
    """Frames of a camera or a stream, always the newest.

    A thread reads ahead of the consumer, and one frame waits: a newer one takes its place, which
    the next frame counts as `dropped`. So a consumer that is too slow sees fewer frames and never
    older ones. `time_s` follows the machine's clock from the first frame on, over outages too.

    Reading begins with `frames()`. What refuses the connection, or loses it, is tried again with
    growing pauses, and the first frame after that comes `after_gap`; nothing is made up in between.
    What can never work (a wrong address, a refused password) is a `SourceError` at once if not one
    frame has come before.

    Args:
        name: how predictions and log lines call it.
        grabber: what reads the pictures.
        options: time limits.
        on_state: called with each new state, from the reading or the consuming thread.
    """

    live = True
    rewindable = False
    duration_s: float | None = None

    def __init__(
        self,
        name: str,
        grabber: Grabber,
        *,
        options: LiveOptions | None = None,
        on_state: Callable[[SourceState], None] | None = None,
    ) -> None:
        check_type("name", name, str, "a string")
        check_type("grabber", grabber, Grabber, "a Grabber, with open, read and close")
        if options is not None:
            check_type("options", options, LiveOptions, "LiveOptions")
        self.name = shown(name)
        self._grabber = grabber
        self._options = options or LiveOptions()
        self._on_state = on_state
        self._clock = LiveClock()
        self._changed = threading.Condition()  # guards what follows
        self._reading: _Reading | None = None
        self._closed = False
        self._state: SourceState = "connecting"
        self._error: Exception | None = None
        self._outage: str | None = None
        self._newest: _Newest | None = None
        self._outage_logged = False
        self._last_ns = 0  # arrival of the last frame
        self._stats = SourceStats()
        self._index = 0
        self._untold: deque[SourceState] = deque()
        self._telling = threading.RLock()  # one thread at a time tells the listener, in order

    @property
    def state(self) -> SourceState:
        """What the source is doing: it is "ended" before `close` returns, and after an error."""
        self._notice_stall()
        return self._state

    @property
    def outage(self) -> str | None:
        """Why it cannot be reached, or was lost, while it is tried again; `None` while it works."""
        return self._outage

    @property
    def stats(self) -> SourceStats:
        """Counters since the source was made."""
        return self._stats

    def frames(self) -> Iterator[Frame]:
        """Yields the newest frame whenever it is asked, and waits for one that was not yet given.

        May be called again when the iteration before is over: it connects anew.

        Raises:
            SourceError: if the source can never work, was away for `max_outage_s`, is closed, or
                is being read already.
            ClipError: (when the picture is used) if the grabber gives something else than
                (H, W, 3) uint8.
        """
        reading = self._begin()
        try:
            while (newest := self._take(reading)) is not None:
                index, self._index = self._index, self._index + 1
                yield Frame(
                    partial(_picture, newest.grabbed, index),
                    newest.time_s,
                    index,
                    arrival_ns=newest.arrival_ns,
                    dropped=newest.dropped,
                    after_gap=newest.after_gap,
                )
        finally:
            self._finish(reading)

    def close(self) -> None:
        """Ends a running `frames()` at once; may be called twice and from any thread.

        Waits up to `CLOSE_WAIT_S` for the device; a connection that hangs is left to its own
        time-out, in a thread that ends then.
        """
        with self._changed:
            self._closed = True
            reading = self._reading
            self._enter("ended")
        self._tell()
        if reading is not None:
            self._finish(reading)

    def _begin(self) -> _Reading:
        before = self._reading
        if before is not None and before.stop.is_set() and not self._closed:
            before.thread.join()  # it holds the device
        with self._changed:
            if self._closed:
                raise SourceError(f"{self.name} is closed; open it again")
            if self._reading is not None and not self._reading.stop.is_set():
                raise SourceError(f"{self.name} is being read already; open it a second time")
            stop = threading.Event()
            thread = threading.Thread(
                target=self._read, args=(stop,), name=f"dvfl {self.name}", daemon=True
            )
            self._reading, self._error, self._newest = _Reading(stop, thread), None, None
            self._enter("connecting")
            thread.start()  # before anybody else can join it
            reading = self._reading
        self._tell()
        return reading

    def _finish(self, reading: _Reading) -> None:
        with self._changed:
            if not reading.stop.is_set():
                reading.stop.set()
                self._newest = None
                self._enter("ended")
            self._changed.notify_all()
        self._tell()
        if reading.thread is not threading.current_thread():
            reading.thread.join(CLOSE_WAIT_S)

    def _take(self, reading: _Reading) -> _Newest | None:
        """Waits for a frame; `None` at the end."""
        while True:
            with self._changed:
                if reading.stop.is_set():
                    return None
                if self._newest is not None:
                    newest, self._newest = self._newest, None
                    return newest
                if self._state == "ended":
                    if self._error is not None:
                        raise self._error
                    return None
                patience_s = None if self._state != "live" else self._until_stall_s() + 1e-3
                self._changed.wait(patience_s)
            self._notice_stall()

    def _read(self, stop: threading.Event) -> None:
        """The reading thread."""
        error: Exception | None = None
        try:
            has_worked = self._stats.frames > 0
            for grabbed, first in reconnecting(
                self._grabber, self._options, stop, self._note_outage, has_worked=has_worked
            ):
                self._put(grabbed, first, stop)
        except TimeoutError as err:
            error = SourceError(
                f"{self.name}: {err}; check the device and the network, or raise max_outage_s"
            )
            error.__cause__ = err
        except Exception as err:  # whatever it is, the consumer's thread has to raise it
            error = err
        with self._changed:
            if not stop.is_set():
                self._error = error
                self._enter("ended")
                self._changed.notify_all()
        self._tell()

    def _note_outage(self, reason: Exception, pause_s: float) -> None:
        text = reason_of(reason)
        with self._changed:
            self._outage = text
            level = logging.INFO if self._outage_logged else logging.WARNING
            self._outage_logged = True
            if self._state != "ended":
                self._enter("connecting")
        self._tell()
        _logger.log(level, "%s: %s; trying again in %.1f s", self.name, text, pause_s)

    def _put(self, grabbed: Grabbed, first: bool, stop: threading.Event) -> None:
        """Makes this the frame that waits."""
        now_ns = time.monotonic_ns()
        with self._changed:
            if stop.is_set():
                return
            stats, before = self._stats, self._newest
            again = first and stats.frames > 0
            late = stats.frames > 0 and now_ns - self._last_ns > self._options.stall_s * 1e9
            if again:
                self._clock.reconnected()
            if isinstance(grabbed.image, np.ndarray):  # the grabber may fill it again
                grabbed = Grabbed(grabbed.image.copy(), grabbed.stamp_s)
            self._newest = _Newest(
                grabbed,
                self._clock.time_s(grabbed.stamp_s, now_ns),
                now_ns,
                0 if before is None else before.dropped + 1,
                again or late or (before is not None and before.after_gap),
            )
            self._stats = SourceStats(
                frames=stats.frames + 1,
                dropped_frames=stats.dropped_frames + (before is not None),
                repaired_timestamps=self._clock.repaired,
                reconnects=stats.reconnects + again,
            )
            self._last_ns, self._outage_logged, self._outage = now_ns, False, None
            self._enter("live")
            self._changed.notify_all()
        self._tell()

    def _until_stall_s(self) -> float:
        return self._options.stall_s - (time.monotonic_ns() - self._last_ns) / 1e9

    def _notice_stall(self) -> None:
        with self._changed:
            if self._state == "live" and self._until_stall_s() <= 0:
                self._enter("stalled")
        self._tell()

    def _enter(self, state: SourceState) -> None:
        """Changes the state; the lock is held, and `_tell` follows when it is not."""
        if state != self._state:
            self._state = state
            self._untold.append(state)

    def _tell(self) -> None:
        """Tells the listener of each change, in order."""
        with self._telling:
            while self._untold:
                state = self._untold.popleft()
                if self._on_state is None:
                    continue
                try:
                    self._on_state(state)
                except Exception:  # a listener's fault must not end the source
                    _logger.exception("%s: the on_state listener failed", self.name)


def _picture(grabbed: Grabbed, index: int) -> Image:
    """Returns the picture of frame `index`; raises ClipError if it is none."""
    image = grabbed.image
    return check_image(image() if callable(image) else image, f"frame {index}")
