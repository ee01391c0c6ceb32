"""How sure a model may be: a temperature for its scores, and a rule for what it has never seen.

Networks tend to be too sure, or not sure enough. Logits that are divided by a temperature, fitted
on clips that were held back from training, give scores that are right as often as they say (Guo et
al., 2017, "On Calibration of Modern Neural Networks"). Scores alone say "one of these classes" of
any picture. Where the two best classes are close, the answer is "unknown" instead.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dvfl_runtime.errors import ArgumentError
from dvfl_runtime.errors.checks import check_number, check_type

Floats = NDArray[np.float64]

MIN_CLIPS = 10  # fewer tell nothing about a temperature
MIN_NEGATIVES = 20  # windows
MIN_AUROC = 0.6  # of a rule that is better than to guess
KEPT = 0.95  # share of the held-back clips of an action that the rule keeps
BINS = 15  # of confidence, as in Guo et al.
TEMPERATURES: Final = (0.1, 10.0)


def _log_sum_exp(logits: Floats) -> Floats:
    top = logits.max(1)
    total: Floats = top + np.log(np.exp(logits - top[:, None]).sum(1))
    return total


# of how sure a model is, by logits (N, C); the first one is applied, the others are reported
RULES: dict[str, Callable[[Floats], Floats]] = {
    "margin": lambda logits: np.diff(np.sort(logits, axis=1)[:, -2:], axis=1)[:, 0],
    "max_softmax": lambda logits: -_log_sum_exp(logits - logits.max(1, keepdims=True)),
    "max_logit": lambda logits: np.asarray(logits.max(1)),
    "energy": _log_sum_exp,
}


@dataclass(frozen=True)
class ConfidenceCalibration:
    """What the scores of a model are made of its logits with, and which of them mean "unknown".

    Attributes:
        temperature: logits are divided by it.
        min_margin: a clip that would be an action is unknown if the logits of its two best classes,
            divided by the temperature, are closer than this; 0 if none is.
        report: on which clips it was fitted, and how good it is.

    Raises:
        ArgumentError: if a value is out of its range.
    """

    temperature: float = 1.0
    min_margin: float = 0.0
    report: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_number("temperature", self.temperature, above=0)
        check_number("min_margin", self.min_margin, least=0)
        check_type("report", self.report, Mapping, "a mapping")

    def is_unknown(self, scores: NDArray[np.float32]) -> bool:
        """Return whether the (num_classes,) scores of an action are those of something unknown."""
        if self.min_margin == 0 or len(scores) < 2:
            return False
        second, first = np.sort(scores.astype(np.float64))[-2:]
        return bool(second > 0 and math.log(first / second) < self.min_margin)

    def to_dict(self) -> dict[str, Any]:
        """Return what stands in the metadata of a model file."""
        return {**dataclasses.asdict(self), "report": dict(self.report)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ConfidenceCalibration:
        """Read what `to_dict` wrote; unknown names in it are ignored."""
        check_type("confidence_calibration", values, Mapping, "a mapping")
        names = {f.name for f in dataclasses.fields(cls)}
        return cls(**{name: value for name, value in values.items() if name in names})


def fit_calibration(
    logits: ArrayLike,
    class_ids: ArrayLike,
    labels: Sequence[str],
    negatives: ArrayLike | None = None,
) -> ConfidenceCalibration:
    """Fit a temperature on held-back clips, and with negatives the rule for what is unknown.

    The rule keeps 95 % of the held-back clips of actions. Where it could not tell them from the
    negatives, there is none, and `report["warning"]` says so.

    Args:
        logits: (N, num_classes) of clips that the model was not trained on, as the file gives them.
        class_ids: (N,) what they show.
        labels: names of the classes.
        negatives: (M, num_classes) logits of clips that show none of the actions, such as windows
            of any other videos.

    Returns:
        What `Artifact.confidence_calibration` takes. Its report has the expected calibration error
        before and after; each half of the clips is measured with the temperature of the other.

    Raises:
        ArgumentError: if there are too few clips, or shapes do not fit.
    """
    known, truth = _checked(logits, class_ids, len(labels))
    temperature = _temperature(known, truth)
    report = _calibration_report(known, truth)
    min_margin = 0.0
    if negatives is not None:
        foreign = np.asarray(negatives, np.float64).reshape(-1, len(labels))
        min_margin, found = _min_margin(known / temperature, truth, labels, foreign / temperature)
        report |= found
    return ConfidenceCalibration(round(temperature, 4), round(min_margin, 4), report)


def expected_calibration_error(scores: ArrayLike, class_ids: ArrayLike) -> float:
    """Return the mean distance of confidence and accuracy over bins of equal width.

    Args:
        scores: (N, num_classes).
        class_ids: (N,) what the clips show.
    """
    rows = np.asarray(scores, np.float64)
    confidence, right = rows.max(1), rows.argmax(1) == np.asarray(class_ids)
    bins = np.minimum((confidence * BINS).astype(int), BINS - 1)
    distances = [
        np.mean(bins == b) * abs(confidence[bins == b].mean() - right[bins == b].mean())
        for b in np.unique(bins)
    ]
    return float(np.sum(distances))


def _checked(logits: ArrayLike, class_ids: ArrayLike, classes: int) -> tuple[Floats, NDArray[Any]]:
    known, truth = np.asarray(logits, np.float64), np.asarray(class_ids)
    if known.ndim != 2 or known.shape != (len(truth), classes):
        raise ArgumentError(
            f"logits must be ({len(truth)}, {classes}), one row for each clip and one column for "
            f"each label, got {known.shape}"
        )
    if len(truth) < MIN_CLIPS:
        raise ArgumentError(
            f"a calibration needs at least {MIN_CLIPS} held-back clips, got {len(truth)}; hold "
            f"more of them back"
        )
    if truth.min() < 0 or truth.max() >= classes:
        raise ArgumentError(f"class_ids must be from 0 to {classes - 1}, got {truth.max()}")
    return known, truth


def _temperature(logits: Floats, truth: NDArray[Any]) -> float:
    """Return the temperature with the least cross entropy.

    The targets are a little softer than 1, as in Platt's scaling: a model without a mistake on N
    clips would otherwise be allowed to be as sure as it likes.
    """
    count, classes = logits.shape
    soft = 1 / (count + 2)
    targets = np.full((count, classes), soft / classes)
    targets[np.arange(count), truth] += 1 - soft

    def loss(log_t: float) -> float:
        scaled = logits / math.exp(log_t)
        log_scores = scaled - _log_sum_exp(scaled)[:, None]
        return -float((targets * log_scores).sum())

    low, high = map(math.log, TEMPERATURES)
    ratio = (math.sqrt(5) - 1) / 2  # of the golden section; the loss has one minimum
    for _ in range(60):
        left, right = high - ratio * (high - low), low + ratio * (high - low)
        low, high = (low, right) if loss(left) < loss(right) else (left, high)
    return math.exp((low + high) / 2)


def _calibration_report(logits: Floats, truth: NDArray[Any]) -> dict[str, Any]:
    """Return the calibration error, each half measured with the temperature of the other."""
    order = np.random.default_rng(0).permutation(len(truth))
    halves = order[::2], order[1::2]
    scaled = np.empty_like(logits)
    for fitted, measured in (halves, halves[::-1]):
        scaled[measured] = logits[measured] / _temperature(logits[fitted], truth[fitted])
    return {
        "clips": len(truth),
        "accuracy": round(float(np.mean(logits.argmax(1) == truth)), 4),
        "ece_before": round(expected_calibration_error(_softmax(logits), truth), 4),
        "ece_after": round(expected_calibration_error(_softmax(scaled), truth), 4),
    }


def _min_margin(
    known: Floats, truth: NDArray[Any], labels: Sequence[str], foreign: Floats
) -> tuple[float, dict[str, Any]]:
    """Return the least margin of what is known, and what it does to held-back clips and negatives.

    Only answers that are actions count: "idle" of a negative is right.
    """
    resting = labels.index("idle") if "idle" in labels else -1
    actions = known[(truth != resting) & (known.argmax(1) == truth)]
    alarms = foreign[foreign.argmax(1) != resting]
    report: dict[str, Any] = {"negatives": len(foreign), "negatives_called_actions": len(alarms)}
    if len(foreign) < MIN_NEGATIVES:
        report["warning"] = f"{len(foreign)} negatives are too few for a rule; add videos"
        return 0.0, report
    if not len(actions):
        report["warning"] = "no held-back clip of an action is recognised, so there is no rule"
        return 0.0, report
    if not len(alarms):
        return 0.0, report
    areas = {name: auroc(rule(actions), rule(alarms)) for name, rule in RULES.items()}
    report["auroc"] = {name: round(area, 4) for name, area in areas.items()}
    if areas["margin"] < MIN_AUROC:
        report["warning"] = (
            "the negatives look like the actions, so nothing is called unknown; take videos out "
            "that show the actions"
        )
        return 0.0, report
    least = float(np.quantile(RULES["margin"](actions), 1 - KEPT))
    report["kept"] = round(float(np.mean(RULES["margin"](actions) >= least)), 4)
    report["rejected"] = round(float(np.mean(RULES["margin"](alarms) < least)), 4)
    return least, report


def auroc(positives: Floats, negatives: Floats) -> float:
    """Return how often one of the positives is above one of the negatives; a tie is a half."""
    below = np.searchsorted(np.sort(negatives), positives, "left")
    not_above = np.searchsorted(np.sort(negatives), positives, "right")
    return float(np.mean((below + not_above) / 2) / len(negatives))


def _softmax(logits: Floats) -> Floats:
    scores: Floats = np.exp(logits - _log_sum_exp(logits)[:, None])
    return scores
