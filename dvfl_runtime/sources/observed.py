"""A source that lets somebody look at its frames on their way: each is decoded once for both."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator

from dvfl_runtime.interrupts import uninterrupted
from dvfl_runtime.sources import Frame, Source


class Tap:
    """Hands on the frames of a source unchanged, and shows each of them first.

    What else the source has, such as the state of a live one, is reached through the tap.

    Args:
        source: closed with the tap.
        look: called with each frame, in the thread that reads the source.
    """

    def __init__(self, source: Source, look: Callable[[Frame], None]) -> None:
        self._source = source
        self._look = look

    @property
    def name(self) -> str:
        """How predictions call the source."""
        return self._source.name

    @property
    def live(self) -> bool:
        """Whether frames may be dropped to keep up."""
        return self._source.live

    @property
    def duration_s(self) -> float | None:
        """The container's estimate, seconds."""
        return self._source.duration_s

    @property
    def rewindable(self) -> bool:
        """Whether the frames can be read again."""
        return self._source.rewindable

    def __getattr__(self, name: str) -> object:
        return getattr(self._source, name)

    def frames(self) -> Iterator[Frame]:
        """Yields the frames of the source."""
        frames = self._source.frames()
        try:
            for frame in frames:
                with uninterrupted():
                    self._look(frame)
                yield frame
        finally:
            if isinstance(frames, Generator):
                frames.close()

    def close(self) -> None:
        """Closes the source."""
        self._source.close()
