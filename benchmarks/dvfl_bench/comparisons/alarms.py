"""False alarms against missed actions, boundaries and time to decision, over the threshold.

    python -m dvfl_bench.comparisons.alarms --clips ../shared/data/weizmann4/index.csv \
        --negatives ../shared/data/ucf10 ../shared/data/yoga --json FILE --plot PNG

One run of the model gives all points, because only the smoothing differs: false action segments
per hour on videos that show none of the actions; how many of the labelled clips have their action
among their segments; the F1 of segments at an overlap of a half on the same clips joined to one
video, one after the other and with a still picture of 3 s between them, and on rendered videos; and
on these, how long after its true start the start of an action is told, in time of the source.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial, reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from dvfl_bench.comparisons.command import Result, comparison_parser, log, run_comparison
from dvfl_bench.comparisons.segments import (
    FIRST_SEED,
    FPS,
    MIN_IOU,
    SIZE,
    Span,
    f1,
    matches,
    random_timeline,
)
from dvfl_bench.plots import log_axis, save_panels
from dvfl_export.confidence.alarms import Watched, alarm_curve, watch_negatives
from dvfl_models.rendered.synthetic import render_video
from dvfl_models.studies.folds import held_out_of
from dvfl_runtime import Event, Prediction, Recognizer, Segment, Smoothing
from dvfl_runtime.arguments import Parser
from dvfl_runtime.clips.labelled import LabelledVideo, find_labelled
from dvfl_runtime.errors import RecipeError
from dvfl_runtime.files import replacing
from dvfl_runtime.results import RESTING
from dvfl_runtime.sources import Image, open_source
from dvfl_runtime.sources.folders import videos_below
from dvfl_runtime.streams.events import EventMaker
from dvfl_runtime.streams.smoothing import Segmenter, segments

if TYPE_CHECKING:
    from matplotlib.axes import Axes

STILL_S = 3.0
JOINED_FPS = 25
ORDERS = 3  # in which the clips are joined


class Timed(NamedTuple):
    """A video whose actions are known, and what a model said of it."""

    truth: Sequence[Span]
    predictions: Sequence[Prediction]


class Seen(NamedTuple):
    """Everything that the model was shown."""

    negatives: Watched
    clips: Watched
    joined: Sequence[Timed]
    joined_with_stills: Sequence[Timed]
    rendered: Sequence[Timed]


def figures(labels: Sequence[str], seen: Seen) -> Result:
    """Return the figures of each threshold, ready for JSON."""
    found = alarm_curve(labels, seen.negatives, seen.clips)
    for point in found["curve"]:
        smoothing = Smoothing(enter=point["enter"], leave=min(point["enter"], Smoothing.leave))
        for name in ("joined", "joined_with_stills", "rendered"):
            point[f"f1_{name}"] = segment_f1(getattr(seen, name), labels, smoothing)
        point.update(time_to_decision(seen.rendered, labels, smoothing))
    return {"smoothing": vars(Smoothing()), "min_iou": MIN_IOU, **found}


def segment_f1(videos: Sequence[Timed], labels: Sequence[str], smoothing: Smoothing) -> float:
    """Return the F1 of segments at an overlap of a half; all that rests is of one kind."""
    matched = found = true = 0
    for truth, predictions in videos:
        ours = _resting_as_one(segments(predictions, labels, smoothing))
        matched += matches(ours, truth)
        found += len(ours)
        true += len(truth)
    return round(f1(matched, found, true), 4)


def _resting_as_one(found: Iterable[Segment]) -> list[Segment]:
    """Return segments in which what is unknown is idle, joined where they touch."""
    out: list[Segment] = []
    for segment in found:
        label = "idle" if segment.label in RESTING else segment.label
        if out and out[-1].label == label == "idle" and out[-1].end_s == segment.start_s:
            out[-1] = replace(out[-1], end_s=segment.end_s)
        else:
            out.append(replace(segment, label=label))
    return out


def time_to_decision(
    videos: Sequence[Timed], labels: Sequence[str], smoothing: Smoothing
) -> dict[str, Any]:
    """Return how long after the true start the first event of each action comes."""
    late_s: list[float] = []
    missed = 0
    for truth, predictions in videos:
        starts = [e for e in _events(predictions, labels, smoothing) if e.kind == "start"]
        for span in truth:
            if span.label in RESTING:
                continue
            told = [
                e.now_s
                for e in starts
                if e.label == span.label and e.now_s > span.start_s and e.start_s < span.end_s
            ]
            missed += not told
            late_s += told[:1] and [told[0] - span.start_s]
    ms = [round(float(1000 * np.percentile(late_s, q))) if late_s else None for q in (50, 90)]
    return {
        "time_to_decision_ms": {"median": ms[0], "p90": ms[1]},
        "actions": len(late_s) + missed,
        "missed": missed,
    }


def _events(
    predictions: Sequence[Prediction], labels: Sequence[str], smoothing: Smoothing
) -> Iterator[Event]:
    segmenter, maker = Segmenter(labels, smoothing), EventMaker()
    for prediction in predictions:
        ended = segmenter.push(prediction)
        open_ = segmenter.open_segment()
        yield from maker.make(ended, [open_] if open_ else [], prediction.end_s)
    yield from maker.make(segmenter.finish(), [], predictions[-1].end_s)


def join(
    videos: Sequence[LabelledVideo], *, still: bool, seed: int
) -> tuple[list[Image], list[Span]]:
    """Return the frames of clips one after the other, and what they show from when to when.

    Args:
        videos: the clips.
        still: whether the first picture of each stands still before it; that is idle.
        seed: of their order.
    """
    images: list[Image] = []
    truth: list[Span] = []
    for n in np.random.default_rng(seed).permutation(len(videos)):
        with closing(open_source(videos[n].path)) as source:
            clip = [frame.image for frame in source.frames()]
        for label, part in (
            ("idle", [clip[0]] * round(STILL_S * JOINED_FPS) * still),
            (videos[n].label, clip),
        ):
            if part:
                begin_s = len(images) / JOINED_FPS
                images += part
                span = Span(begin_s, len(images) / JOINED_FPS, label)
                if truth and truth[-1].label == label:  # the same action goes on
                    span = span._replace(start_s=truth.pop().start_s)
                truth.append(span)
    return images, truth


@dataclass(frozen=True)
class Share:
    """What one model is shown.

    Attributes:
        model: the file; the bundled one if it is `None`.
        clips: with labels.
        negatives: videos, folders and lists of scenes that show none of the actions.
        seeds: of rendered videos.
    """

    model: Path | None
    clips: Sequence[LabelledVideo]
    negatives: Sequence[Path]
    seeds: Sequence[int]


def look(recognizer: Recognizer, share: Share) -> Seen:
    """Run a model on its share."""
    positives = Watched(truth=[video.label for video in share.clips])
    positives.predictions = [list(recognizer.stream(video.path)) for video in share.clips]

    def joined(still: bool) -> list[Timed]:
        out = []
        for seed in range(ORDERS):
            images, truth = join(share.clips, still=still, seed=seed)
            out.append(Timed(truth, list(recognizer.stream(images, fps=JOINED_FPS))))
        return out

    rendered = []
    for seed in share.seeds:
        truth = random_timeline(seed, 2.0)
        timeline = [(span.label, span.end_s - span.start_s) for span in truth]
        frames = render_video(timeline, seed=seed, fps=FPS, size=SIZE)
        rendered.append(Timed(truth, list(recognizer.stream(frames, fps=FPS))))
    watched = watch_negatives(recognizer, share.negatives, progress=sys.stderr.isatty())
    return Seen(watched, positives, joined(False), joined(True), rendered)


def shares_of(args: argparse.Namespace) -> list[Share]:
    """Return what each model is shown, by the command line.

    Raises:
        RecipeError: if there are no such clips or runs, or what a run held out cannot be found.
    """
    seeds = range(FIRST_SEED, FIRST_SEED + args.videos)
    if args.runs is None:
        return [Share(args.model, find_labelled(args.clips).videos, args.negatives, seeds)]
    recipes = sorted(args.runs.glob("*/recipe.json"))
    if not recipes:
        raise RecipeError(f"--runs {args.runs}: no folder in it has a recipe.json")
    others = [path for place in args.negatives for path in _each(place)]
    shares = []
    for number, path in enumerate(recipes):
        held_out = held_out_of(path)
        clips = [video for video in held_out if video.label not in RESTING]
        negatives = [video.path for video in held_out if video.label in RESTING]
        negatives += others[number :: len(recipes)]
        mine = seeds[number :: len(recipes)]
        shares.append(Share(path.with_name("model.onnx"), clips, negatives, mine))
    return shares


def _each(place: Path) -> list[Path]:
    return list(videos_below(place)) if place.is_dir() else [place]


def look_at_all(shares: Sequence[Share]) -> tuple[Result, Seen]:
    """Run each model on its share; return what they are, and all that they said."""
    parts: list[Seen] = []
    for share in shares:
        with Recognizer(share.model) as recognizer:
            parts.append(look(recognizer, share))
            info, labels = recognizer.info, recognizer.labels
        log.info("%d of %d models have seen their share", len(parts), len(shares))
    about = {
        "model": info.name,
        "models": len(shares),
        "engine": f"{info.engine} {info.versions[info.engine]}",
        "labels": labels,
    }
    return about, Seen(
        reduce(Watched.__add__, [part.negatives for part in parts]),
        reduce(Watched.__add__, [part.clips for part in parts]),
        [video for part in parts for video in part.joined],
        [video for part in parts for video in part.joined_with_stills],
        [video for part in parts for video in part.rendered],
    )


def measure(args: argparse.Namespace) -> Result:
    """Run the model on everything once; return the figures, ready for JSON, and draw them."""
    about, seen = look_at_all(shares_of(args))
    found = {
        "what": "false alarms, actions found, segments and time to decision over the threshold",
        **about,
        "clips": args.clips.parent.name if args.clips else "held out of training, by run",
        "negatives": [place.name for place in args.negatives],
        **figures(about["labels"], seen),
    }
    if args.plot is not None:
        draw(found, args.plot)
    return found


def draw(found: Result, path: Path) -> None:
    """Draw what a threshold costs against the false alarms that it leaves."""
    title = f"{found['model']}, {found['hours']:.2f} h of negatives"
    with replacing(path) as part:
        save_panels([_quality, _lateness], found["curve"], {"board": title}, part)


def _quality(axes: Axes, curve: Sequence[dict[str, Any]]) -> None:
    rates = [point["per_hour"] for point in curve]
    names = {
        "recall": "clips whose action is found",
        "f1_joined": "F1, joined clips",
        "f1_joined_with_stills": "F1, stills between",
        "f1_rendered": "F1, rendered",
    }
    for name, label in names.items():
        axes.plot(rates, [point[name] for point in curve], marker="o", markersize=3, label=label)
    for point in curve:
        axes.annotate(f"{point['enter']:g}", (point["per_hour"], point["recall"]), (0, 5),
                      textcoords="offset points", fontsize=7)  # fmt: skip
    axes.set(xlabel="false alarms per hour", ylabel="share, or F1", ylim=(-0.03, 1.1))
    axes.set_title("what is found, by the threshold at the points", fontsize=10)
    log_axis(axes, "x")


def _lateness(axes: Axes, curve: Sequence[dict[str, Any]]) -> None:
    rates = [point["per_hour"] for point in curve]
    for name in ("median", "p90"):
        late = [point["time_to_decision_ms"][name] for point in curve]
        values = [np.nan if ms is None else ms / 1000 for ms in late]
        axes.plot(rates, values, marker="o", markersize=3, label=f"{name}, s")
    missed = [point["missed"] / max(point["actions"], 1) for point in curve]
    axes.plot(rates, missed, marker="x", markersize=4, label="share of missed actions")
    axes.set(xlabel="false alarms per hour", ylabel="s, or share")
    axes.set_title("time to decision, rendered videos", fontsize=10)
    log_axis(axes, "x")


def watching_parser(name: str, doc: str | None) -> Parser:
    """Return the parser of a comparison that watches actions and other videos."""
    parser = comparison_parser(name, doc or "")
    parser.add_argument("model", type=Path, nargs="?", help="the bundled model by default")
    given = parser.add_mutually_exclusive_group(required=True)
    given.add_argument("--clips", type=Path, help="folder per class, or an index")
    given.add_argument("--runs", type=Path, help="of a cross-validation, with a model.onnx in each")
    parser.add_argument("--negatives", type=Path, nargs="+", default=[], help="videos, folders")
    parser.add_argument("--videos", type=int, default=20, help="rendered ones; default: 20")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    parser = watching_parser("alarms", __doc__)
    parser.add_argument("--plot", type=Path, help="draw the curves here")
    args = parser.parse_args(argv)
    return run_comparison(args, partial(measure, args), threads=0)  # the engine has its own number


if __name__ == "__main__":
    sys.exit(main())
