"""How well segments find actions and their boundaries in long rendered videos.

python -m dvfl_bench.comparisons.segments [MODEL.onnx] [--videos 12] [--minutes 2] [--json FILE]
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dvfl_bench.comparisons.command import Result, comparison_parser, run_comparison
from dvfl_models.rendered.synthetic import ACTIONS, render_video
from dvfl_runtime import Prediction, Recognizer, Segment, Smoothing
from dvfl_runtime.streams.smoothing import segments

log = logging.getLogger(__name__)

FIRST_SEED = 3_000_000_000  # training and its tests use smaller ones
FPS = 12.5
SIZE = (96, 96)
MIN_IOU = 0.5


class Span(NamedTuple):
    """An action in [start_s, end_s)."""

    start_s: float
    end_s: float
    label: str


def random_timeline(seed: int, minutes: float) -> list[Span]:
    """Return actions of 3 to 9 s, most of them after an idle stretch, none twice in a row."""
    rng = np.random.default_rng(seed)
    spans: list[Span] = []
    start_s = 0.0
    while start_s < minutes * 60:
        last = spans[-1].label if spans else ""
        others = [action for action in ACTIONS if action not in ("idle", last)]
        label = str(rng.choice(others)) if last == "idle" else "idle"
        if last not in ("", "idle") and rng.random() < 0.3:  # straight from one action to the next
            label = str(rng.choice(others))
        end_s = start_s + round(float(rng.uniform(3, 9)) * FPS) / FPS
        spans.append(Span(start_s, end_s, label))
        start_s = end_s
    return spans


def matches(found: Sequence[Segment], truth: Sequence[Span], min_iou: float = MIN_IOU) -> int:
    """Count the actions that a segment shows.

    A segment shows an action if the labels are the same and their intersection over union is
    `min_iou` or more. From 0.5 on, at most one of the disjoint segments can show it.
    """
    return sum(any(s.label == t.label and _iou(s, t) >= min_iou for s in found) for t in truth)


def _iou(segment: Segment, span: Span) -> float:
    inside = min(segment.end_s, span.end_s) - max(segment.start_s, span.start_s)
    return max(0.0, inside) / (segment.end_s - segment.start_s + span.end_s - span.start_s - inside)


def f1(matched: int, found: int, true: int) -> float:
    """Return the harmonic mean of precision and recall, 0 where nothing matched."""
    return 2 * matched / (found + true) if found + true else 0.0


class SegmentCounts:
    """Count windows and segments, found and true, over videos."""

    def __init__(self) -> None:
        self.windows = self.right = self.pure = self.pure_right = 0
        self.matched = self.found = self.true = 0
        self.raw_matched = self.raw_found = 0
        self.errors_s: list[float] = []

    def add(
        self, predictions: Sequence[Prediction], labels: Sequence[str], truth: Sequence[Span]
    ) -> None:
        """Add one video."""
        for p in predictions:
            middle_s = (p.start_s + p.end_s) / 2
            span = next(t for t in truth if middle_s < t.end_s)
            is_pure = span.start_s <= p.start_s and p.end_s <= span.end_s
            self.windows += 1
            self.right += p.label == span.label
            self.pure += is_pure
            self.pure_right += is_pure and p.label == span.label
        found = list(segments(predictions, labels))
        # every window counts for itself
        no_smoothing = Smoothing(alpha=1.0, enter=0.0, leave=0.0, min_duration_s=0.0)
        raw = list(segments(predictions, labels, no_smoothing))
        self.matched += matches(found, truth)
        self.found += len(found)
        self.raw_matched += matches(raw, truth)
        self.raw_found += len(raw)
        self.true += len(truth)
        self.errors_s += list(_boundary_errors_s(found, truth))

    def summary(self) -> dict[str, Any]:
        """Return rates, ready for JSON."""
        return {
            "segment_f1": round(f1(self.matched, self.found, self.true), 4),
            "segment_f1_without_smoothing": round(
                f1(self.raw_matched, self.raw_found, self.true), 4
            ),
            "min_iou": MIN_IOU,
            "segments": {"true": self.true, "found": self.found, "matched": self.matched},
            "boundary_error_median_s": round(float(np.median(self.errors_s)), 3),
            "window_accuracy": round(self.right / self.windows, 4),
            "window_accuracy_within_one_action": round(self.pure_right / self.pure, 4),
            "windows": self.windows,
        }


def _boundary_errors_s(found: Sequence[Segment], truth: Sequence[Span]) -> Iterator[float]:
    """Yield how far the boundaries of matched segments are from the true ones."""
    for t in truth[1:-1]:
        for s in found:
            if s.label == t.label and _iou(s, t) >= MIN_IOU:
                yield from (abs(s.start_s - t.start_s), abs(s.end_s - t.end_s))


def measure(model: Path | None, *, videos: int, minutes: float) -> Result:
    """Recognise rendered videos of random timelines; return rates, ready for JSON."""
    count = SegmentCounts()
    with Recognizer(model) as recognizer:
        for seed in range(FIRST_SEED, FIRST_SEED + videos):
            truth = random_timeline(seed, minutes)
            timeline = [(span.label, span.end_s - span.start_s) for span in truth]
            frames = render_video(timeline, seed=seed, fps=FPS, size=SIZE)
            count.add(list(recognizer.stream(frames, fps=FPS)), recognizer.labels, truth)
            log.info("video %d: F1 so far %.3f", seed, count.summary()["segment_f1"])
        info = recognizer.info
    return {
        "what": "segments of rendered videos with random timelines, easy scenes, unseen seeds",
        "model": info.name,
        "engine": f"{info.engine} {info.versions[info.engine]}",
        "videos": videos,
        "minutes_each": minutes,
        "fps": FPS,
        "first_seed": FIRST_SEED,
        **count.summary(),
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    parser = comparison_parser("segments", __doc__)
    parser.add_argument("model", type=Path, nargs="?", help="the bundled model by default")
    parser.add_argument("--videos", type=int, default=12)
    parser.add_argument("--minutes", type=float, default=2.0)
    args = parser.parse_args(argv)
    measured = partial(measure, args.model, videos=args.videos, minutes=args.minutes)
    return run_comparison(args, measured, threads=0)  # the engine is given no number of threads


if __name__ == "__main__":
    sys.exit(main())
