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
from dvfl_runtime.errors.addresses import reason_of, shown
from dvfl_runtime.errors.checks import check_type
from dvfl_runtime.sources.frame import Frame, Image, check_rgb
from dvfl_runtime.sources.live.grabber import Grabbed, GrabbedPacket, Grabber, PacketGrabber
from dvfl_runtime.sources.live.reconnect import LiveOptions, reconnecting
from dvfl_runtime.sources.packets import PacketObserver, TimedPacket
from dvfl_runtime.sources.timestamps import LiveTimestamps

_logger = logging.getLogger(__name__)

SourceState: TypeAlias = Literal["connecting", "live", "stalled", "ended"]

CLOSE_WAIT_S = 1.0  # how long close() waits for the device to be released


@dataclass(frozen=True)
class SourceStats:
    """Counters of a live source.

    Attributes:
        frames: frames received.
        dropped_frames: those of them that the consumer was too slow for.
        repaired_timestamps: timestamps that were missing, negative, repeated, backward or far off.
        reconnects: how often it was opened again and gave a frame.
    """

    frames: int = 0
    dropped_frames: int = 0
    repaired_timestamps: int = 0
    reconnects: int = 0


@dataclass(frozen=True, eq=False)
class _Reader:
    """The thread of one `frames()`, and the event that ends it."""

    stop: threading.Event
    thread: threading.Thread


class LiveSource:
    """Frames of a camera or a stream, always the newest.

    A thread reads ahead of the consumer, and one frame waits: a newer one takes its place and
    counts it as `dropped`. So a consumer that is too slow sees fewer frames and never older ones.
    `time_s` follows the machine's clock from the first frame on, over outages too.

    Reading begins with `frames()`. A connection that is refused or lost is tried again with growing
    pauses, and the first frame after that comes `after_gap`; no frame is made up in between. What
    can never work (a wrong address, a refused password) is a `SourceError` at once if not one frame
    has come before.

    Args:
        name: how predictions and log lines call it.
        grabber: reads the pictures.
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
        self._timestamps = LiveTimestamps()
        self._changed = threading.Condition()  # guards all attributes below but the last
        self._reader: _Reader | None = None
        self._closed = False
        self._state: SourceState = "connecting"
        self._error: Exception | None = None
        self._outage: str | None = None
        self._waiting: Frame | None = None  # the newest one
        self._last_ns = 0  # arrival of the last frame
        self._stats = SourceStats()
        self._index = 0  # of the next frame that is handed out
        self._new_states: deque[SourceState] = deque()  # the listener has not yet been told
        self._notifying = threading.RLock()  # one thread at a time tells the listener, in order
        self._packets = _PacketClock(self._timestamps)

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

    def observe_packets(self, observer: PacketObserver) -> bool:
        """Show each compressed picture before it is decoded; for before `frames()`.

        All of them are shown, however slow the consumer of the frames is.

        Args:
            observer: called in the thread that reads; it must be quick.

        Returns:
            Whether this source receives compressed pictures: RTSP and MJPEG do, cameras do not.
        """
        if not isinstance(self._grabber, PacketGrabber):
            return False
        self._packets.observers.append(observer)
        self._grabber.on_packet = self._packets.take
        return True

    def frames(self) -> Iterator[Frame]:
        """Yield the newest frame; block until there is one that was not yet handed out.

        May be called again when the iteration before is over: it connects anew.

        Raises:
            SourceError: if the source can never work, was away for `max_outage_s`, is closed, or
                is being read already.
            ClipError: (when the picture is used) if the grabber gives something else than
                (H, W, 3) uint8.
        """
        reader = self._start_reader()
        try:
            while (frame := self._next_frame(reader)) is not None:
                yield frame
        finally:
            self._stop_reader(reader)

    def close(self) -> None:
        """End a running `frames()` at once; may be called twice and from any thread.

        Waits up to `CLOSE_WAIT_S` for the device. A connection that hangs is left to its own
        time-out, in a thread that ends then.
        """
        with self._changed:
            self._closed = True
            reader = self._reader
            self._set_state("ended")
        self._notify_listener()
        if reader is not None:
            self._stop_reader(reader)

    def _start_reader(self) -> _Reader:
        before = self._reader
        if before is not None and before.stop.is_set() and not self._closed:
            before.thread.join()  # it holds the device
        with self._changed:
            if self._closed:
                raise SourceError(f"{self.name} is closed; open it again")
            if self._reader is not None and not self._reader.stop.is_set():
                raise SourceError(f"{self.name} is being read already; open it a second time")
            stop = threading.Event()
            thread = threading.Thread(
                target=self._read, args=(stop,), name=f"dvfl {self.name}", daemon=True
            )
            self._reader = reader = _Reader(stop, thread)
            self._error, self._waiting = None, None
            self._set_state("connecting")
            thread.start()  # before another thread can join it
        self._notify_listener()
        return reader

    def _stop_reader(self, reader: _Reader) -> None:
        with self._changed:
            if not reader.stop.is_set():
                reader.stop.set()
                self._waiting = None
                self._set_state("ended")
            self._changed.notify_all()
        self._notify_listener()
        if reader.thread is not threading.current_thread():
            reader.thread.join(CLOSE_WAIT_S)

    def _next_frame(self, reader: _Reader) -> Frame | None:
        """Block until a frame is there and take it; return `None` at the end."""
        while True:
            with self._changed:
                if reader.stop.is_set():
                    return None
                if self._waiting is not None:
                    frame, self._waiting = self._waiting, None
                    self._index += 1
                    return frame
                if self._state == "ended":
                    if self._error is not None:
                        raise self._error
                    return None
                patience_s = None if self._state != "live" else self._until_stall_s() + 1e-3
                self._changed.wait(patience_s)
            self._notice_stall()

    def _read(self, stop: threading.Event) -> None:
        """Receive pictures until the end; runs in the reading thread."""
        error: Exception | None = None
        try:
            has_worked = self._stats.frames > 0
            for grabbed, is_first in reconnecting(
                self._grabber, self._options, stop, self._note_outage, has_worked=has_worked
            ):
                self._receive(grabbed, is_first, stop)
        except TimeoutError as err:
            error = SourceError(
                f"{self.name}: {err}; check the device and the network, or pass max_outage_s=N"
            )
            error.__cause__ = err
        except Exception as err:  # of any type: the consumer's thread has to raise it
            error = err
        with self._changed:
            if not stop.is_set():
                self._error = error
                self._set_state("ended")
                self._changed.notify_all()
        self._notify_listener()

    def _note_outage(self, reason: Exception, pause_s: float) -> None:
        text = reason_of(reason)
        with self._changed:
            level = logging.WARNING if self._outage is None else logging.INFO
            self._outage = text
            if self._state != "ended":
                self._set_state("connecting")
        self._notify_listener()
        _logger.log(level, "%s: %s; trying again in %.1f s", self.name, text, pause_s)

    def _receive(self, grabbed: Grabbed, is_first: bool, stop: threading.Event) -> None:
        """Make this picture the waiting frame.

        Args:
            grabbed: the picture.
            is_first: whether it is the first of its connection.
            stop: set once nobody waits for frames of this thread.
        """
        now_ns = time.monotonic_ns()
        with self._changed:
            if stop.is_set():
                return
            stats, before = self._stats, self._waiting
            dropped, after_gap = (before.dropped + 1, before.after_gap) if before else (0, False)
            is_reconnect = is_first and stats.frames > 0
            was_stalled = stats.frames > 0 and now_ns - self._last_ns > self._options.stall_s * 1e9
            if is_reconnect:
                self._timestamps.reconnected()
            if isinstance(grabbed.image, np.ndarray):  # the grabber may write into it again
                grabbed = Grabbed(grabbed.image.copy(), grabbed.stamp_s)
            self._waiting = Frame(
                partial(_image_of, grabbed, self._index),
                self._timestamps.time_s(grabbed.stamp_s, now_ns),
                self._index,  # the same as that of a dropped one
                arrival_ns=now_ns,
                dropped=dropped,
                after_gap=after_gap or is_reconnect or was_stalled,
            )
            self._stats = SourceStats(
                frames=stats.frames + 1,
                dropped_frames=stats.dropped_frames + (before is not None),
                repaired_timestamps=self._timestamps.repaired,
                reconnects=stats.reconnects + is_reconnect,
            )
            self._last_ns, self._outage = now_ns, None
            self._set_state("live")
            self._changed.notify_all()
        self._packets.start()
        self._notify_listener()

    def _until_stall_s(self) -> float:
        return self._options.stall_s - (time.monotonic_ns() - self._last_ns) / 1e9

    def _notice_stall(self) -> None:
        with self._changed:
            if self._state == "live" and self._until_stall_s() <= 0:
                self._set_state("stalled")
        self._notify_listener()

    def _set_state(self, state: SourceState) -> None:
        """Change the state; the lock is held, and `_notify_listener` follows without it."""
        if state != self._state:
            self._state = state
            self._new_states.append(state)

    def _notify_listener(self) -> None:
        """Tell the listener of each change, in order."""
        with self._notifying:
            while self._new_states:
                state = self._new_states.popleft()
                if self._on_state is None:
                    continue
                try:
                    self._on_state(state)
                except Exception:  # a listener's fault must not end the source
                    _logger.exception("%s: the on_state listener failed", self.name)


class _PacketClock:
    """Gives packets the times of frames; used in the reading thread alone.

    The first packets of a connection wait until its first picture has told how the server's clock
    and the source's lie to each other.

    Args:
        timestamps: of the frames.
    """

    def __init__(self, timestamps: LiveTimestamps) -> None:
        self.observers: list[PacketObserver] = []
        self._timestamps = timestamps
        self._stream: object = None  # of the connection
        self._waiting: list[tuple[GrabbedPacket, int]] = []  # and when they arrived, ns
        self._started = False

    def take(self, grabbed: GrabbedPacket) -> None:
        """Hand on a packet as soon as its time is known."""
        if grabbed.stream is not self._stream:
            self._stream, self._waiting, self._started = grabbed.stream, [], False
        now_ns = time.monotonic_ns()
        if self._started:
            self._hand_on(grabbed, now_ns)
        else:
            self._waiting.append((grabbed, now_ns))

    def start(self) -> None:
        """Hand on the packets that wait; called after each picture."""
        self._started = True
        waiting, self._waiting = self._waiting, []
        for grabbed, arrival_ns in waiting:
            self._hand_on(grabbed, arrival_ns)

    def _hand_on(self, grabbed: GrabbedPacket, arrival_ns: int) -> None:
        time_s = self._timestamps.place_s(grabbed.stamp_s, arrival_ns)
        for observe in self.observers:
            observe(TimedPacket(grabbed.packet, grabbed.stream, time_s))


def _image_of(grabbed: Grabbed, index: int) -> Image:
    """Return the image of frame `index`; raise ClipError if it is none."""
    image = grabbed.image
    return check_rgb(image() if callable(image) else image, f"frame {index}")
