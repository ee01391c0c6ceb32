"""A frame, and the check of its picture."""

import copy
import pickle

import numpy as np
import pytest

from dvfl_runtime import ClipError, Frame
from dvfl_runtime.sources.frame import check_rgb


def test_a_picture_made_later_is_made_once_and_only_if_asked_for():
    made = []

    def make():
        made.append(1)
        return np.full((2, 3, 3), 7, np.uint8)

    frame = Frame(make, 1.5, 4, dropped=2, after_gap=True)
    assert (frame.time_s, frame.index, frame.dropped, frame.after_gap) == (1.5, 4, 2, True)
    assert "image" not in repr(frame)
    assert made == []
    copies = [frame, frame.replace(index=9), pickle.loads(pickle.dumps(frame))]
    assert all((f.image == 7).all() and f.time_s == 1.5 for f in copies)
    assert made == [1]
    with pytest.raises(AttributeError, match="'picture'"):
        frame.picture  # noqa: B018


def test_a_frame_that_is_copied_or_sent_has_its_picture():
    frame = Frame(lambda: np.full((2, 3, 3), 7, np.uint8), 1.5, 4, arrival_ns=5, dropped=2)
    for copied in (frame.replace(), copy.copy(frame), pickle.loads(pickle.dumps(frame))):
        assert (copied.image == 7).all()
        assert repr(copied) == repr(frame)
    changed = frame.replace(image=np.zeros((1, 1, 3), np.uint8), time_s=2.0)
    assert (changed.image.shape, changed.time_s, changed.arrival_ns) == ((1, 1, 3), 2.0, 5)
    with pytest.raises(TypeError, match="picture"):
        frame.replace(picture=1)


@pytest.mark.parametrize(
    ("array", "axes", "message"),
    [
        ("a.png", "HW3", r"it must be a numpy array \(H, W, 3\), got str"),
        (np.zeros((4, 5), np.uint8), "HW3", r"shape \(H, W, 3\), got \(4, 5\); convert it to RGB"),
        (np.zeros((4, 5, 4), np.uint8), "HW3", r"got \(4, 5, 4\)"),
        (np.zeros((0, 5, 3), np.uint8), "HW3", r"got \(0, 5, 3\)"),
        (np.zeros((4, 5, 3), np.uint8), "NHW3", r"shape \(N, H, W, 3\), got \(4, 5, 3\)"),
        (np.zeros((4, 5, 3), float), "HW3", "uint8 RGB from 0 to 255, got float64; convert it"),
    ],
)
def test_arrays_that_are_no_pictures_are_refused(array, axes, message):
    with pytest.raises(ClipError, match=message):
        check_rgb(array, "it", axes)


def test_an_empty_batch_of_pictures_is_one():
    empty = np.zeros((0, 4, 5, 3), np.uint8)
    assert check_rgb(empty, "it", "NHW3") is empty
