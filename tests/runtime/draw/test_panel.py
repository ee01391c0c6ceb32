"""The panel below the picture: its letters, its sizes, and how it is joined to the picture."""

import numpy as np
import pytest
from artifacts import LABELS

from dvfl_runtime import Prediction
from dvfl_runtime.draw import lettering
from dvfl_runtime.draw.encoding import enlarged, stacked, to_yuv
from dvfl_runtime.draw.overlay import magnification
from dvfl_runtime.draw.panel import LeadingClass, Panel


@pytest.mark.parametrize("pen", ["_FontPen", "_StrokePen"])
def test_long_and_foreign_labels_stay_in_their_room(monkeypatch, pen):
    import cv2

    if pen == "_FontPen" and not hasattr(cv2, "FontFace"):
        pytest.skip("this OpenCV has no fonts")
    monkeypatch.setattr(lettering, "_pen", lambda: getattr(lettering, pen)(cv2))
    for text in ("idle", "überspringen", "跳跃", "a" * 300, ""):
        image = np.zeros((60, 400, 3), np.uint8)
        lettering.put_text(image, text, (100, 40), size=24, room=150, colour=(255, 255, 255))
        columns = np.flatnonzero(image.any(axis=(0, 2)))
        assert bool(columns.size) == bool(text)
        assert not columns.size or (columns[0] >= 98 and columns[-1] <= 252)


@pytest.mark.parametrize("size", [(2, 2), (16, 320), (64, 2000), (1920, 1080), (3840, 2160)])
def test_the_panel_can_be_drawn_below_any_picture(size):
    width, height = size
    panel = Panel(width, height, LABELS)
    strip = panel.strip([LeadingClass(0, 1, 0), LeadingClass(1, 2, 1)], 1.5, (0, 2))
    assert strip.shape == (panel.strip_px, width, 3)
    assert (panel.strip_px % 2, panel.body_px % 2) == (0, 0)
    red = Prediction("red", 0, 1.0, np.array([1, 0, 0], np.float32), (("red", 1.0),), 0, 1)
    for seen in (red, None):
        assert panel.body(seen).shape == (panel.body_px, width, 3)


@pytest.mark.parametrize("side", [64, 192, 240, 720])
def test_labels_can_be_read_keep_their_size_and_are_not_cut(side):
    labels = ("lid", "lay_the_lid_of_a_long_label_back")
    side *= magnification(side, side)
    panel = Panel(side, side, labels)
    top = {}
    for n, label in enumerate(labels):
        rows = ((label, 0.9), (labels[1 - n], 0.1))
        seen = Prediction(label, n, 0.9, np.array([0.9, 0.1], np.float32), rows, 0, 1)
        ink = panel.body(seen).min(2) > 150
        letters = ink[: len(ink) // 3, 20:]
        lines, columns = np.flatnonzero(letters.any(1)), np.flatnonzero(letters.any(0))
        top[label] = lines[0]
        assert len(lines) >= 8  # px, the height of l and d
        assert columns[-1] < side - 24  # nothing is cut at the right border
    assert abs(top[labels[0]] - top[labels[1]]) <= 1  # the letter l is as high in both


def test_small_pictures_are_enlarged_and_large_ones_are_left_alone():
    sizes = {(64, 64): 5, (192, 192): 2, (320, 240): 2, (640, 360): 1, (1920, 1080): 1, (2, 2): 160}
    assert {size: magnification(*size) for size in sizes} == sizes
    assert magnification(40, 4000) == 1
    picture = to_yuv(np.full((4, 6, 3), (200, 40, 40), np.uint8))
    assert enlarged(picture, 1) is picture
    assert enlarged(picture, 3).shape == (18, 18)
    both = stacked(picture, to_yuv(np.full((2, 6, 3), 255, np.uint8)))
    assert both.shape == (9, 6)
    np.testing.assert_array_equal(both[:4], picture[:4])
    assert (both[4:6] > 230).all()
