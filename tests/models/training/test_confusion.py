"""The result of a test."""

import numpy as np
import pytest

from dvfl_models.training.confusion import Confusion, count
from dvfl_runtime.clips.accuracy import Answers


def test_confusion_adds_up() -> None:
    one = Confusion(("a", "b"), np.array([[3, 1], [0, 4]]))
    assert one.accuracy == 7 / 8
    assert (one + one).clips == 16


@pytest.mark.parametrize("kind", [Answers, Confusion])
def test_the_pair_that_is_confused_most(kind: type[Answers]) -> None:
    found = kind(("a", "b", "c"), np.array([[3, 1, 0], [2, 4, 2], [0, 0, 1]]))
    assert found.most_confused() == ("a", "b", 3)
    assert kind(("a", "b"), np.array([[3, 0], [0, 4]])).most_confused() is None


def test_clips_are_counted_by_their_best_class() -> None:
    scores = np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]], np.float32)
    found = count(("a", "b"), scores, [0, 1, 1])
    assert found.counts.tolist() == [[1, 0], [1, 1]]
    assert (found.right, found.clips, found.top5) == (2, 3, 3)
