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
