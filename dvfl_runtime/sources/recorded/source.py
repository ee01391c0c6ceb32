"""What sources of recorded frames have in common: they give every frame, until they are closed."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterator
from contextlib import closing

from dvfl_runtime.errors import SourceError
from dvfl_runtime.sources.frame import Frame


class RecordedSource(ABC):
    """A source that never drops a frame.

    Args:
        name: how predictions and log lines call it.
        duration_s: the estimated duration, seconds; `None` if unknown.
    """

    live = False
    rewindable = True
    closed_error = ""  # for a name that is no subject of a sentence

    def __init__(self, name: str, duration_s: float | None) -> None:
        self.name = name
        self.duration_s = duration_s
        self._closed = threading.Event()

    def frames(self) -> Iterator[Frame]:
        """Yield every frame.

        Raises:
            SourceError: if there is none, or the source is closed.
        """
        yield from self._until_closed(self._read())

    def close(self) -> None:
        """End a running `frames()` at its next frame; may be called from any thread."""
        self._closed.set()

    def _until_closed(self, frames: Generator[Frame, None, None]) -> Generator[Frame, None, None]:
        """Yield these frames until the source is closed."""
        if self._closed.is_set():
            raise SourceError(self.closed_error or f"{self.name} is closed; open it again")
        with closing(frames):
            while not self._closed.is_set():
                frame = next(frames, None)
                if frame is None or self._closed.is_set():
                    return
                yield frame

    @abstractmethod
    def _read(self) -> Generator[Frame, None, None]:
        """Yield every frame; raise SourceError if there is none."""
