"""A source that is observed while it is read: each frame is decoded once for all who see it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterator
from typing import TypeAlias

from dvfl_runtime.errors.addresses import reason_of
from dvfl_runtime.interrupts import uninterrupted
from dvfl_runtime.sources.frame import Frame, Source
from dvfl_runtime.sources.live.source import LiveSource
from dvfl_runtime.sources.packets import PacketObserver

FrameObserver: TypeAlias = Callable[[Frame], object]


class ObservedSource:
    """Yields the frames of a source unchanged, and shows each of them to its observers first.

    Args:
        source: closed with this one.
        observers: called with each frame, one after the other, in the thread that reads the source.
        name: in place of the source's own name.

    Attributes:
        name: how predictions call the source.
        live: whether frames may be dropped to keep up.
        rewindable: whether the frames can be read again.
        observers: see above; more can be added before the source is read.
        error: why the reading failed, without secrets; `None` if it did not.
        closed: set by `close`.
    """

    def __init__(self, source: Source, *observers: FrameObserver, name: str | None = None) -> None:
        self._source = source
        self.name = source.name if name is None else name
        self.live = source.live
        self.rewindable = source.rewindable
        self.observers = list(observers)
        self.error: str | None = None
        self.closed = threading.Event()
        self._begun = self._ended = False

    @property
    def duration_s(self) -> float | None:
        """The container's estimate, seconds."""
        return self._source.duration_s

    @property
    def state(self) -> str:
        """What the source is doing: connecting, playing (recorded), live, stalled or ended."""
        if self._ended or self.closed.is_set():
            return "ended"
        if isinstance(self._source, LiveSource):
            return self._source.state
        if self.live:
            return "live"
        return "playing" if self._begun else "connecting"

    @property
    def problem(self) -> str | None:
        """The error, or why a live source cannot be reached now; `None` if all is well."""
        if self.error is None and isinstance(self._source, LiveSource) and self.state != "ended":
            return self._source.outage
        return self.error

    @property
    def reconnects(self) -> int:
        """How often a live source was opened again and gave a frame."""
        return self._source.stats.reconnects if isinstance(self._source, LiveSource) else 0

    def observe_packets(self, observer: PacketObserver) -> bool:
        """Show each compressed picture before it is decoded; see `LiveSource.observe_packets`."""
        return isinstance(self._source, LiveSource) and self._source.observe_packets(observer)

    def frames(self) -> Iterator[Frame]:
        """Yield the frames of the source."""
        frames = self._source.frames()
        try:
            for frame in frames:
                self._begun = True
                with uninterrupted():
                    for observe in self.observers:
                        observe(frame)
                yield frame
        except Exception as err:
            # the text alone: an exception would tie the last pictures into a reference cycle
            self.error = reason_of(err)
            raise
        finally:
            self._ended = True
            if isinstance(frames, Generator):
                frames.close()

    def close(self) -> None:
        """Close the source, and end a running `frames()` at once."""
        self.closed.set()
        self._source.close()
