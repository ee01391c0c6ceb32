"""What lowers false alarms at the same recall: rules chosen on one half, measured on the other.

    python -m dvfl_bench.comparisons.alarm_search --clips ../shared/data/weizmann4/index.csv \
        --negatives ../shared/data/ucf10 ../shared/data/yoga --json FILE

One run of the model gives all points, as in `alarms`. A rule is a `Smoothing` and the margin of a
calibration (`confidence_calibration.min_margin`). On one half of the negatives and of the rendered
videos the rule is chosen that leaves the fewest false alarms, finds as many actions as the default
one, and keeps every F1 at 0.95 or more; what counts are its figures on the other half. Negatives
are divided in blocks of videos, because neighbours come from one place.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from dvfl_bench.comparisons.alarms import (
    Seen,
    Timed,
    look_at_all,
    segment_f1,
    shares_of,
    time_to_decision,
    watching_parser,
)
from dvfl_bench.comparisons.command import Result, log, run_comparison
from dvfl_export.confidence.alarms import Watched, poisson_interval
from dvfl_runtime import Prediction, Smoothing
from dvfl_runtime.artifact import ConfidenceCalibration
from dvfl_runtime.results import RESTING, UNKNOWN
from dvfl_runtime.streams.smoothing import segments

ENTERS = (0.9, 0.92, 0.95)
ALPHAS = (1.0, 0.7)
MIN_DURATIONS_S = (0.75, 1.5)
MARGINS = (0.0, 3.0, 3.2, 3.4, 3.6, 4.0)  # logits; exp(3.4) is a ratio of 30
LEVERS = ("enter", "alpha", "min_duration_s", "margin")
BLOCK = 20  # videos
LEAST_F1 = 0.95


@dataclass(frozen=True)
class Rule:
    """How actions are told from the rest."""

    smoothing: Smoothing
    margin: float = 0.0

    def apply(self, predictions: Sequence[Prediction]) -> list[Prediction]:
        """Return the predictions of a file that was calibrated so."""
        calibration = ConfidenceCalibration(min_margin=self.margin)
        return [
            replace(one, label=UNKNOWN, class_id=-1)
            if one.label not in RESTING and calibration.is_unknown(one.scores)
            else one
            for one in predictions
        ]


def rules() -> Iterator[Rule]:
    """Yield all rules, the default one first."""
    yield Rule(Smoothing())
    for enter, alpha, shortest, margin in itertools.product(
        ENTERS, ALPHAS, MIN_DURATIONS_S, MARGINS
    ):
        rule = Rule(Smoothing(enter=enter, alpha=alpha, min_duration_s=shortest), margin)
        if rule != Rule(Smoothing()):
            yield rule


def changed(rule: Rule) -> set[str]:
    """Return which of the LEVERS a rule uses."""
    default = Smoothing()
    used = {name for name in LEVERS[:-1] if getattr(rule.smoothing, name) != getattr(default, name)}
    return used | ({"margin"} if rule.margin else set())


def halves(seen: Seen) -> tuple[Seen, Seen]:
    """Divide the negatives and the rendered videos; the clips are in both halves."""
    parts = []
    for half in (0, 1):
        some = [p for n, p in enumerate(seen.negatives.predictions) if n // BLOCK % 2 == half]
        parts.append(
            seen._replace(
                negatives=Watched(some, [""] * len(some)), rendered=seen.rendered[half::2]
            )
        )
    return parts[0], parts[1]


def figures(labels: Sequence[str], seen: Seen, rule: Rule) -> dict[str, Any]:
    """Return what a rule makes of a half, ready for JSON."""
    alarms = sum(
        segment.label not in RESTING
        for found in seen.negatives.predictions
        for segment in segments(rule.apply(found), labels, rule.smoothing)
    )
    hours = seen.negatives.hours
    low, high = poisson_interval(alarms)
    found = [
        any(s.label == label for s in segments(rule.apply(some), labels, rule.smoothing))
        for some, label in zip(seen.clips.predictions, seen.clips.truth, strict=True)
        if label not in RESTING
    ]
    out: dict[str, Any] = {
        "alarms": alarms,
        "per_hour": round(alarms / hours, 2),
        "per_hour_ci95": [round(low / hours, 2), round(high / hours, 2)],
        "recall": round(sum(found) / max(len(found), 1), 4),
    }
    for name in ("joined", "joined_with_stills", "rendered"):
        videos = [Timed(v.truth, rule.apply(v.predictions)) for v in getattr(seen, name)]
        out[f"f1_{name}"] = segment_f1(videos, labels, rule.smoothing)
        if name == "rendered":
            out |= time_to_decision(videos, labels, rule.smoothing)
    return out


def search(labels: Sequence[str], seen: Seen) -> Result:
    """Return the best rule by each single lever, and by all together, on both halves."""
    chosen_on, measured_on = halves(seen)
    every = [(rule, figures(labels, chosen_on, rule)) for rule in rules()]
    default, at_default = every[0]

    def is_good(found: dict[str, Any]) -> bool:
        worst = min(found[f"f1_{name}"] for name in ("joined", "joined_with_stills", "rendered"))
        least = min(LEAST_F1, *(at_default[k] for k in at_default if k.startswith("f1")))
        finds_as_many = found["recall"] >= at_default["recall"]
        return bool(finds_as_many and found["missed"] <= at_default["missed"] and worst >= least)

    rows = {}
    for name in ("default", *LEVERS, "all together"):
        levers = {name} if name != "all together" else {*LEVERS}
        good = [n for n, (r, f) in enumerate(every) if changed(r) <= levers and is_good(f)]
        rule, found = every[min(good, key=lambda n: (every[n][1]["per_hour"], n))]
        rows[name] = {
            "smoothing": vars(rule.smoothing),
            "margin": rule.margin,
            "chosen_on": found,
            "measured_on": figures(labels, measured_on, rule),
        }
        log.info("%s: %s", name, rows[name])
    margins = {
        str(margin): figures(labels, measured_on, Rule(default.smoothing, margin))
        for margin in MARGINS
    }
    return {"rules": len(every), "rows": rows, "margins_measured_on": margins}


def measure(args: argparse.Namespace) -> Result:
    """Run the model on everything once, and search; the result is ready for JSON."""
    about, seen = look_at_all(shares_of(args))
    return {**about, **search(about["labels"], seen)}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    parser = watching_parser("alarm_search", __doc__)
    args = parser.parse_args(argv)
    return run_comparison(args, partial(measure, args), threads=0)  # the engine has its own number


if __name__ == "__main__":
    sys.exit(main())
