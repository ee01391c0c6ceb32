"""The result of a test."""

import numpy as np

from dvfl_models.training.confusion import Confusion


def test_confusion_adds_up() -> None:
    one = Confusion(("a", "b"), np.array([[3, 1], [0, 4]]))
    assert one.accuracy == 7 / 8
    assert (one + one).clips == 16
