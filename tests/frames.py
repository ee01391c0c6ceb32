"""What the tests ask of any source."""

from __future__ import annotations

import contextlib
import logging

import numpy as np
import pytest

from dvfl_runtime.sources import Frame, open_source


def read(source: object, **kwargs: float) -> list[Frame]:
    with contextlib.closing(open_source(source, **kwargs)) as opened:
        return list(opened.frames())


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]


def assert_in_order(frames: list[Frame], begin_s: float = 0.0) -> None:
    assert [f.index for f in frames] == list(range(len(frames)))
    assert frames[0].time_s == pytest.approx(begin_s, abs=1e-5)
    assert (np.diff([f.time_s for f in frames]) > 0).all()


class Watched:
    """A source that remembers what was done to it."""

    name, live, duration_s = "watched", False, None

    def __init__(self, images, *, rewindable=True, fps=10.0):
        self.images, self.rewindable, self.fps = images, rewindable, fps
        self.passes = self.ended = self.closed = 0

    def frames(self):
        self.passes += 1
        try:
            for n, image in enumerate(self.images):
                yield Frame(image, n / self.fps, n)
        finally:
            self.ended += 1

    def close(self):
        self.closed += 1
