"""How sure a taught file may be, and what it calls unknown: from windows that were left out."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from dvfl_runtime.artifact.calibration import (
    KEPT,
    MIN_CLIPS,
    ConfidenceCalibration,
    fit_calibration,
)
from dvfl_runtime.results import RESTING
from dvfl_runtime.teach.familiarity import Familiarity, nearest_cosine, units
from dvfl_runtime.teach.head import CrossValidation, Examples, folds_of

MOST_REFERENCES = 1000  # windows in a file: 1 MB at 256 features
EVEN = 0.05  # logits that are closer than this after the temperature are those of nothing known


def learn_confidence(
    examples: Examples, validation: CrossValidation
) -> tuple[Familiarity, ConfidenceCalibration] | None:
    """Fit what is familiar and the temperature, on the windows that were left out in turn.

    Returns:
        `None` where fewer than ten videos could be left out, or no action among them was right.
    """
    tested = validation.tested[examples.video]
    truth = examples.class_of[examples.video]
    right = tested & (validation.logits.argmax(1) == truth)
    acts = np.array([label not in RESTING for label in examples.labels])[truth]
    if validation.tested.sum() < MIN_CLIPS or not (right & acts).any():
        return None
    nearest = nearest_left_out(examples)
    least = float(np.quantile(nearest[right & acts], 1 - KEPT))
    fitted = fit_calibration(validation.logits[tested], truth[tested], examples.labels)
    about = {
        "rule": "cosine to the nearest features that were learnt",
        "least": round(least, 4),
        "videos": int(validation.tested.sum()),
        "kept": round(float((nearest[right & acts] >= least).mean()), 4),
    }
    calibration = replace(fitted, min_margin=EVEN, report={**fitted.report, **about})
    return Familiarity(references_of(examples.plain), least), calibration


def nearest_left_out(examples: Examples) -> NDArray[np.float32]:
    """Return the cosine of each window to the nearest one of other groups: (windows,)."""
    directions = units(examples.plain)
    nearest = np.ones(len(directions), np.float32)
    for held in folds_of(examples):
        here = held[examples.video]
        nearest[here] = nearest_cosine(directions[here], directions[~here].T)
    return nearest


def references_of(features: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the directions of features (windows, C) to keep in a file: (C, K)."""
    step = -(-len(features) // MOST_REFERENCES)
    return np.ascontiguousarray(units(features[::step]).T)
