"""How sure a taught file may be, and what it calls unknown: from windows that were left out."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from dvfl_runtime.artifact.calibration import (
    KEPT,
    MIN_CLIPS,
    ConfidenceCalibration,
    fit_calibration,
)
from dvfl_runtime.results import RESTING
from dvfl_runtime.teach.familiarity import Familiarity, nearest_cosine, units
from dvfl_runtime.teach.head import CrossValidation, Examples, folds_of

MOST_REFERENCES = 2000  # windows in a file: 2 MB at 256 features
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
    directions = units(examples.plain)
    nearest = np.ones(len(directions), np.float32)
    for held in folds_of(examples):
        here = held[examples.video]
        nearest[here] = nearest_cosine(directions[here], directions[~here].T)
    step = -(-len(directions) // MOST_REFERENCES)
    least = float(np.quantile(nearest[right & acts], 1 - KEPT))
    fitted = fit_calibration(validation.logits[tested], truth[tested], examples.labels)
    about = {
        "rule": "cosine to the nearest features that were learnt",
        "least": round(least, 4),
        "videos": int(validation.tested.sum()),
        "kept": round(float((nearest[right & acts] >= least).mean()), 4),
    }
    calibration = replace(fitted, min_margin=EVEN, report={**fitted.report, **about})
    return Familiarity(np.ascontiguousarray(directions[::step].T), least), calibration
