"""Sources that are observed while they are read."""

import numpy as np
import pytest
from artifacts import coloured
from videos import write_video

from dvfl_runtime.errors import ClipError
from dvfl_runtime.sources import open_source
from dvfl_runtime.sources.observed import ObservedSource


def test_a_file_source_ends_when_its_observed_source_is_closed(tmp_path):
    video = write_video(tmp_path / "v.mp4", coloured(("red", 50)))
    seen = []
    source = ObservedSource(open_source(video), seen.append)
    assert source.state == "connecting"
    frames = source.frames()
    assert next(frames) is seen[0]
    assert source.state == "playing"
    source.close()
    assert source.state == "ended"
    assert list(frames) == []
    assert (source.name, source.live, source.rewindable) == (str(video), False, True)
    assert source.duration_s == pytest.approx(2.0)
    assert (source.problem, source.reconnects) == (None, 0)


def test_an_error_of_a_source_or_of_an_observer_is_its_problem():
    wrong = [np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4), np.uint8)]
    source = ObservedSource(open_source(iter(wrong)), name="door")
    with pytest.raises(ClipError):
        list(source.frames())
    assert source.name == "door"
    assert source.state == "ended"
    assert "frame 1" in source.problem

    def refuse(_):
        raise ValueError("full")

    source = ObservedSource(open_source(wrong[:1]), refuse)
    with pytest.raises(ValueError, match="full"):
        list(source.frames())
    assert source.problem == "full"
