"""Predictions with known scores, one after the other, as a model would make them."""

import numpy as np
from hypothesis import strategies as st

from dvfl_runtime import Prediction, Smoothing

LABELS = ("idle", "wave", "bend")


def prediction(scores, start_s, end_s):
    scores = np.asarray(scores, np.float32)
    best = int(scores.argmax())
    return Prediction(
        LABELS[best], best, float(scores[best]), scores, (), start_s, end_s, 0.0, "video"
    )


def sequence(*rows, hop_s=1.0):
    return [prediction(row, k * hop_s, k * hop_s + 2) for k, row in enumerate(rows)]


def waving(*scores):
    """Return one prediction per score of "wave", and what is left for the others."""
    return sequence(*([(1 - score) / 2, score, (1 - score) / 2] for score in scores))


@st.composite
def drawn_streams(draw):
    start_s, out = draw(st.floats(-10, 10)), []
    window_s = draw(st.floats(0.5, 3))
    for _ in range(draw(st.integers(1, 40))):
        raw = np.array(draw(st.tuples(*[st.floats(0.01, 1)] * 3)))
        out.append(prediction(raw / raw.sum(), start_s, start_s + window_s))
        start_s += draw(st.sampled_from([0.1, 0.25, 0.5, 5.0]))
    return out


@st.composite
def drawn_smoothings(draw):
    enter = draw(st.floats(0, 1))
    return Smoothing(
        alpha=draw(st.floats(0.05, 1)),
        enter=enter,
        leave=draw(st.floats(0, 1)) * enter,
        min_duration_s=draw(st.floats(0, 2)),
    )
