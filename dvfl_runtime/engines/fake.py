"""An engine without a model, for the tests of applications that use dvfl."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dvfl_runtime.errors import DvflError
from dvfl_runtime.errors.checks import check_number, check_type


class FakeEngine:
    """An engine that gives the scores it was made with.

        artifact = Artifact(name="test", variant="fake", labels=("idle", "wave"), spec=ClipSpec())
        with Recognizer(artifact, engine=FakeEngine([0.1, 0.9])) as r:
            assert r.predict(clip).label == "wave"

    Args:
        scores: (num_classes,) scores for every clip, or a function from (B, T, H, W, 3) uint8
            clips to (B, num_classes) scores. Scores are >= 0 and are scaled to a sum of 1.
    """

    name = "fake"
    version = "0"
    provider = "fake"
    device = "cpu"
    precision = "file"
    fused_ops: tuple[str, ...] = ()
    num_classes: int | None = None
    clip_shape: tuple[int | None, ...] = (None,) * 5

    def __init__(self, scores: Sequence[float] | Callable[[NDArray[np.uint8]], ArrayLike]) -> None:
        self._scores = scores
        self._closed = False
        if not callable(scores):
            check_type("scores", scores, (Sequence, np.ndarray), "numbers, or a function of clips")
            for score in scores:
                check_number("each score", score, least=0)
            self.num_classes = len(scores)

    def run(self, clips: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return logits whose softmax is the given scores.

        Raises:
            DvflError: after `close`.
        """
        if self._closed:
            raise DvflError("this engine is closed; open another one")
        given = self._scores(clips) if callable(self._scores) else [self._scores] * len(clips)
        scores = np.maximum(np.asarray(given, np.float64), 1e-30)
        return np.log(scores).astype(np.float32)

    def close(self) -> None:
        """Close the engine; further calls do nothing."""
        self._closed = True
