"""How sure files of dvfl-teach fit are, and what they call unknown.

    python -m dvfl_bench.comparisons.unknown ../shared/data/weizmann4/index.csv ... --json FILE

A head learns 12 clips of each class of a set, as `dvfl-teach fit` does it, and is shown windows of
groups that it has not learnt, of the other sets, of test cards and noise, and of each class of the
same set where that was left out of training. Beside the distance to what was learnt, which decides,
stands the margin of the two best classes, both so that 95 % of the windows that were left out while
it was fitted stay known.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dvfl_bench.comparisons.command import Result, comparison_parser, run_comparison
from dvfl_bench.comparisons.own_actions import HELD_BACK, draw_videos
from dvfl_runtime.artifact import ModelFile
from dvfl_runtime.artifact.calibration import KEPT, RULES, expected_calibration_error
from dvfl_runtime.clips.labelled import LabelledVideos, find_labelled
from dvfl_runtime.clips.spec import Clip, ClipSpec
from dvfl_runtime.recognizer import BUNDLED_MODEL
from dvfl_runtime.streams.scoring import softmax
from dvfl_runtime.teach.confidence import learn_confidence
from dvfl_runtime.teach.features import EngineChoice, FeatureReader, open_features
from dvfl_runtime.teach.head import Examples, teach_head

log = logging.getLogger("dvfl_bench.comparisons.unknown")  # also where it is the program

CLIPS = 12  # of each class
CARDS = 40  # clips
Features = NDArray[np.float32]


class Rules:
    """A taught head, and both rules for what it calls unknown."""

    def __init__(self, examples: Examples) -> None:
        self.head, validation = teach_head(examples)
        found = learn_confidence(examples, validation)
        if found is None:
            raise ValueError("too few clips")
        self.familiarity, self.calibration = found
        tested = validation.tested[examples.video]
        right = tested & (validation.logits.argmax(1) == examples.class_of[examples.video])
        self._margin = float(np.quantile(RULES["margin"](validation.logits[right]), 1 - KEPT))

    def unknown(self, features: Features) -> dict[str, float]:
        """Return the share of windows that each rule calls unknown."""
        logits = replace(self.head, familiarity=self.familiarity).logits(features)
        scores = softmax(logits, self.calibration.temperature)
        margin = RULES["margin"](self.head.logits(features).astype(np.float64))
        return {
            "distance": float(np.mean([self.calibration.is_unknown(row) for row in scores])),
            "margin": float(np.mean(margin < self._margin)),
        }

    def unknown_clips(self, examples: Examples) -> float:
        """Return the share of videos that are unknown by the mean scores of their windows."""
        logits = replace(self.head, familiarity=self.familiarity).logits(examples.plain)
        scores = softmax(logits, self.calibration.temperature).astype(np.float64)
        means = examples.video_means(scores).astype(np.float32)
        return float(np.mean([self.calibration.is_unknown(row) for row in means]))

    def errors(self, features: Features, truth: NDArray[np.int64]) -> list[float]:
        """Return the calibration error of windows before the temperature and with it."""
        logits = self.head.logits(features)
        return [
            expected_calibration_error(softmax(logits, temperature), truth)
            for temperature in (1.0, self.calibration.temperature)
        ]


def test_cards(spec: ClipSpec) -> list[Clip]:
    """Return clips of black, bars of colours, gradients and noise, still or moving."""
    rng = np.random.default_rng(0)
    (height, width), frames = spec.size, spec.num_frames
    clips: list[Clip] = []
    for number in range(CARDS):
        colours = rng.integers(0, 256, (int(rng.integers(1, 9)), 3))
        bars = colours[np.arange(width) * len(colours) // width]
        card = (
            np.broadcast_to(bars, (height, width, 3)) * np.linspace(0.5, 1, height)[:, None, None]
        )
        step = number % 4
        images = [np.roll(card, step * t, axis=1) for t in range(frames)]
        noise = rng.normal(0, 20 * (number % 3), (frames, height, width, 3))
        clips.append(np.clip(np.stack(images) + noise, 0, 255).astype(np.uint8))
    return clips


def without_class(examples: Examples, number: int) -> Examples:
    """Return the videos of the other classes, whose numbers close up."""
    rest = examples.only(np.flatnonzero(examples.class_of != number))
    labels = tuple(label for k, label in enumerate(examples.labels) if k != number)
    return replace(rest, labels=labels, class_of=rest.class_of - (rest.class_of > number))


def measure_set(
    found: LabelledVideos, examples: Examples, foreign: dict[str, Features], draws: int
) -> Result:
    """Return the errors and the shares that are called unknown, means over the draws."""
    rows: dict[str, list[dict[str, float]]] = {}
    errors, clips = [], []
    for seed in range(draws):
        learnt, tested = map(examples.only, draw_videos(found, CLIPS, seed))
        truth = tested.class_of[tested.video]
        rules = Rules(learnt)
        errors.append(rules.errors(tested.plain, truth))
        rows.setdefault("known", []).append(rules.unknown(tested.plain))
        clips.append(rules.unknown_clips(tested))
        for name, features in foreign.items():
            rows.setdefault(name, []).append(rules.unknown(features))
        left_out = seed % len(examples.labels)
        if len(examples.labels) > 2 and (truth == left_out).any():
            new = tested.plain[truth == left_out]
            others = Rules(without_class(learnt, left_out))
            rows.setdefault("a class left out", []).append(others.unknown(new))
    before, after = np.mean(errors, axis=0)
    shares = {
        name: {rule: round(float(np.mean([r[rule] for r in some])), 4) for rule in some[0]}
        for name, some in rows.items()
    }
    log.info("error %.3f -> %.3f, unknown: %s", before, after, shares)
    return {
        "ece_before": round(float(before), 4),
        "ece_after": round(float(after), 4),
        "known_clips_called_unknown": round(float(np.mean(clips)), 4),
        "called_unknown": shares,
    }


def measure(args: argparse.Namespace) -> Result:
    """Return the results of all sets."""
    file = ModelFile(args.model)
    sets: dict[str, tuple[LabelledVideos, Examples]] = {}
    spec = file.artifact.spec
    with open_features(file, spec, EngineChoice("onnxruntime", "cpu", args.threads)) as reader:
        for place in args.sets:
            found = find_labelled(place)
            sets[place.parent.name if place.is_file() else place.name] = (
                found,
                _examples(reader, found),
            )
        cards = reader.features_of(test_cards(spec))
    rng, features = np.random.default_rng(0), {}
    for name, (_, examples) in sets.items():
        some = rng.permutation(len(examples.plain))[: args.windows]
        features[name] = examples.plain[some]
    rows: dict[str, Any] = {}
    for name, (found, examples) in sets.items():
        log.info("%s: %d clips of %d classes", name, len(found.videos), len(found.labels))
        foreign = {other: some for other, some in features.items() if other != name}
        foreign["test cards and noise"] = cards
        rows[name] = measure_set(found, examples, foreign, args.draws)
    return {
        "model": {"name": file.artifact.name, "graph_sha256": file.graph_sha256},
        "clips_of_each_class": CLIPS,
        "draws": args.draws,
        "held_back": HELD_BACK,
        "kept": KEPT,
        "sets": rows,
    }


def _examples(reader: FeatureReader, found: LabelledVideos) -> Examples:
    return Examples.of(found, [reader.read(video.path) for video in found.videos])


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return the exit status."""
    parser = comparison_parser("unknown", __doc__ or "")
    parser.add_argument("sets", type=Path, nargs="+", help="folders of classes, or index.csv")
    parser.add_argument(
        "--model", type=Path, default=BUNDLED_MODEL, help="default: the bundled one"
    )
    parser.add_argument("--draws", type=int, default=4, help="of what is held back; default: 4")
    parser.add_argument("--windows", type=int, default=400, help="of each other set; default: 400")
    parser.add_argument("--threads", type=int, default=2, help="of the engine; default: 2")
    args = parser.parse_args(argv)
    return run_comparison(args, lambda: measure(args), threads=args.threads)


if __name__ == "__main__":
    sys.exit(main())
