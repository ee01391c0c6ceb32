from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from frames import assert_in_order, read
from videos import pictures

from dvfl_runtime.errors import ClipError, SourceError
from dvfl_runtime.sources import Frame, open_source


def test_array_is_a_source(tmp_path):
    clip = np.stack(list(pictures(6)))
    source = open_source(clip, fps=2)
    assert (source.name, source.live, source.rewindable) == ("frames", False, True)
    assert source.duration_s == 3.0
    frames = list(source.frames())
    assert_in_order(frames)
    assert [f.time_s for f in frames] == [0, 0.5, 1, 1.5, 2, 2.5]
    np.testing.assert_array_equal(np.stack([f.image for f in frames]), clip)


def test_iterator_is_read_once_and_lazily():
    taken = []

    def camera() -> Iterator[np.ndarray]:
        for i, image in enumerate(pictures(5)):
            taken.append(i)
            yield image

    source = open_source(camera())
    assert not source.rewindable
    assert source.duration_s is None
    frames = source.frames()
    next(frames)
    assert taken == [0]
    assert len(list(frames)) == 4
    with pytest.raises(SourceError, match="only once"):
        next(source.frames())


def test_list_can_be_read_twice():
    source = open_source(list(pictures(3)))
    assert source.rewindable
    assert len(list(source.frames())) == len(list(source.frames())) == 3


def test_frames_keep_their_times_and_are_numbered():
    image = next(iter(pictures(1)))
    given_frames = [Frame(image, 10.0, 7), Frame(image, 10.5, 9)]
    assert [(f.time_s, f.index) for f in read(given_frames)] == [(10.0, 0), (10.5, 1)]


@pytest.mark.parametrize("times", [[0.0, 0.0], [1.0, 0.5], [0.0, float("nan")]])
def test_times_of_frames_must_increase(times):
    image = next(iter(pictures(1)))
    with pytest.raises(ClipError, match="frame 1: time_s"):
        read([Frame(image, t, i) for i, t in enumerate(times)])


GOOD = np.zeros((4, 5, 3), np.uint8)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (GOOD.astype(np.float32), "frame 1 must be uint8"),
        (GOOD[..., 0], r"frame 1 must have the shape \(H, W, 3\), got \(4, 5\)"),
        (np.zeros((4, 5, 4), np.uint8), r"frame 1 .*got \(4, 5, 4\)"),
        (np.zeros((0, 5, 3), np.uint8), r"frame 1 .*got \(0, 5, 3\)"),
        ("a.png", "frame 1 must be .* got str"),
        (Frame(GOOD[..., :1], 9.0, 0), r"frame 1 .*got \(4, 5, 1\)"),
    ],
)
def test_bad_frames_are_named(bad, message):
    with pytest.raises(ClipError, match=message):
        read([GOOD, bad])


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (GOOD, r"\(N, H, W, 3\).*image\[None\]"),
        (GOOD[None].astype(float), "uint8"),
        (GOOD[None, ..., :2], r"\(N, H, W, 3\)"),
    ],
)
def test_bad_arrays_are_refused_at_once(array, message):
    with pytest.raises(ClipError, match=message):
        open_source(array)


@pytest.mark.parametrize("nothing", [[], iter(()), np.zeros((0, 4, 5, 3), np.uint8)])
def test_no_frames(nothing):
    with pytest.raises(SourceError, match="no frames"):
        read(nothing)


def test_closed_memory_source_ends():
    source = open_source(list(pictures(4)))
    frames = source.frames()
    next(frames)
    source.close()
    source.close()
    assert list(frames) == []
