"""False alarms per hour: how often a model calls something an action in videos that show none.

The same predictions are smoothed once for each threshold (`Smoothing.enter`), so that a curve costs
no more than a point. Beside it stands the recall: the share of the clips of a test set whose action
is among their segments.
"""

from __future__ import annotations

import csv
import io
import logging
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from dvfl_runtime import Frame, Prediction, Recognizer, Smoothing
from dvfl_runtime.errors import RecipeError, SourceError
from dvfl_runtime.files import read_text, replacing
from dvfl_runtime.results import RESTING
from dvfl_runtime.sources import open_source
from dvfl_runtime.sources.folders import videos_below
from dvfl_runtime.streams.smoothing import segments

if TYPE_CHECKING:
    from dvfl_models.data.video_clips import VideoClips

log = logging.getLogger(__name__)

ENTERS = (0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.97, 0.98, 0.99)
MIN_S = 5.0  # a shorter video is one segment, and measures nothing
CONFIDENCE = 0.95


@dataclass
class Watched:
    """What a model said of videos.

    Attributes:
        predictions: of each video.
        truth: the label of each, "" where none of the labels is right.
        left_out: names of videos that were too short or could not be read.
    """

    predictions: list[list[Prediction]] = field(default_factory=list)
    truth: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)

    def __add__(self, other: Watched) -> Watched:
        """Return what was said of both."""
        return Watched(
            self.predictions + other.predictions,
            self.truth + other.truth,
            self.left_out + other.left_out,
        )

    @property
    def hours(self) -> float:
        """The time that the model has seen."""
        return sum(found[-1].end_s - found[0].start_s for found in self.predictions) / 3600


def watch_negatives(
    recognizer: Recognizer, places: Sequence[Path], *, progress: bool = False
) -> Watched:
    """Recognise videos that show none of the actions.

    Args:
        recognizer: of the model.
        places: videos, folders of them, and CSV files with the columns file and scene, whose clips
            of one scene are joined to one video. Videos of less than 5 s do not count.
        progress: whether to show a bar.

    Raises:
        RecipeError: if there is no video of at least 5 s.
        SourceError: if a folder cannot be listed.
    """
    watched = Watched()
    for files in tqdm(_sources(places), unit="video", disable=not progress):
        try:
            found = list(recognizer.stream(_joined(files) if len(files) > 1 else files[0]))
        except SourceError as err:
            log.warning("left out: %s", err)
            watched.left_out.append(str(files[0]))
            continue
        if found[-1].end_s - found[0].start_s < MIN_S:
            watched.left_out.append(str(files[0]))
        else:
            watched.predictions.append(found)
            watched.truth.append("")
    if not watched.predictions:
        raise RecipeError(
            f"--negatives: none of the {len(watched.left_out)} videos has {MIN_S:g} s or more; "
            f"give longer ones, or a CSV with the columns file and scene, whose clips are joined"
        )
    return watched


def watch_clips(recognizer: Recognizer, clips: VideoClips, *, progress: bool = False) -> Watched:
    """Recognise the clips of a test set as streams."""
    watched = Watched()
    for entry in tqdm(clips.entries, unit="clip", disable=not progress):
        try:
            watched.predictions.append(list(recognizer.stream(entry.path)))
        except SourceError as err:
            log.warning("left out: %s", err)
            watched.left_out.append(str(entry.path))
            continue
        watched.truth.append(recognizer.labels[entry.class_id])
    return watched


def alarm_curve(
    labels: Sequence[str],
    negatives: Watched,
    positives: Watched,
    enters: Sequence[float] = ENTERS,
) -> dict[str, Any]:
    """Count false alarms and actions that were found at each threshold, ready for JSON."""
    default = Smoothing.enter
    points = [_point(labels, negatives, positives, e) for e in sorted({*enters, default})]
    return {
        "hours": round(negatives.hours, 4),
        "videos": len(negatives.predictions),
        "left_out": len(negatives.left_out),
        "clips_of_actions": sum(label not in RESTING for label in positives.truth),
        "default": next(point for point in points if point["enter"] == default),
        "curve": points,
    }


def in_words(found: dict[str, Any]) -> str:
    """Return the curve as a table for people."""
    left_out = f", {found['left_out']} left out" if found["left_out"] else ""
    lines = [
        f"false alarms: {found['hours']:.2f} h of {found['videos']} videos without the "
        f"actions{left_out}",
        "  enter  alarms  per hour  (95 % interval)   actions found",
    ]
    for point in found["curve"]:
        low, high = point["per_hour_ci95"]
        span = f"({low:.1f} to {high:.1f})"
        recall = "-" if point["recall"] is None else f"{point['recall']:.1%}"
        mark = "  default" if point is found["default"] else ""
        lines.append(
            f"  {point['enter']:5.2f}  {point['alarms']:6}  {point['per_hour']:8.1f}  {span:16}  "
            f"{recall:>13}{mark}"
        )
    return "\n".join(lines)


def save_png(found: dict[str, Any], path: Path, title: str) -> None:
    """Draw recall against false alarms per hour, a point for each threshold.

    Raises:
        OutputError: if the file cannot be written.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.4), dpi=110, layout="constrained")
    axes = figure.subplots()
    curve = found["curve"]
    rates = [point["per_hour"] for point in curve]
    ends = [[rate - point["per_hour_ci95"][0] for rate, point in zip(rates, curve, strict=True)]]
    ends += [[point["per_hour_ci95"][1] - rate for rate, point in zip(rates, curve, strict=True)]]
    recalls = [math.nan if point["recall"] is None else point["recall"] for point in curve]
    axes.errorbar(rates, recalls, xerr=ends, marker="o", color="#4477aa", ecolor="#bbbbbb")
    for rate, recall, point in zip(rates, recalls, curve, strict=True):
        axes.annotate(f"{point['enter']:g}", (rate, recall), (4, -11), textcoords="offset points")
    axes.set(xscale="symlog", ylim=(-0.03, 1.05), title=title)
    axes.set_xlabel(f"false alarms per hour, over {found['hours']:.2f} h")
    axes.set_ylabel("clips whose action is found")
    axes.grid(alpha=0.3)
    with replacing(path) as part:
        figure.savefig(part, format="png")


def poisson_interval(count: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Return the exact interval of an expected count of which `count` was seen (Garwood, 1936)."""
    tail = (1 - confidence) / 2
    low = 0.0 if count == 0 else _solve(lambda mean: 1 - _at_most(count - 1, mean), tail, count)
    return low, _solve(lambda mean: -_at_most(count, mean), -tail, count)


def _at_most(count: int, mean: float) -> float:
    """Return the probability that a Poisson variable is `count` or less."""
    if mean == 0:
        return 1.0
    logs = [k * math.log(mean) - mean - math.lgamma(k + 1) for k in range(count + 1)]
    return math.fsum(map(math.exp, logs))


def _solve(rising: Callable[[float], float], value: float, count: int) -> float:
    """Return where a function of the mean that rises takes a value."""
    low, high = 0.0, 10.0 + 3 * count
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if rising(middle) < value else (low, middle)
    return (low + high) / 2


def _point(
    labels: Sequence[str], negatives: Watched, positives: Watched, enter: float
) -> dict[str, Any]:
    smoothing = Smoothing(enter=enter, leave=min(enter, Smoothing.leave))
    alarms = sum(
        segment.label not in RESTING
        for found in negatives.predictions
        for segment in segments(found, labels, smoothing)
    )
    seen = [
        any(segment.label == label for segment in segments(found, labels, smoothing))
        for found, label in zip(positives.predictions, positives.truth, strict=True)
        if label not in RESTING
    ]
    low, high = poisson_interval(alarms)
    return {
        "enter": enter,
        "alarms": alarms,
        "per_hour": round(alarms / negatives.hours, 2),
        "per_hour_ci95": [round(low / negatives.hours, 2), round(high / negatives.hours, 2)],
        "found": sum(seen),
        "recall": round(sum(seen) / len(seen), 4) if seen else None,
    }


def _sources(places: Sequence[Path]) -> list[list[Path]]:
    """Return the files of each video; several are joined."""
    sources: list[list[Path]] = []
    for place in places:
        if place.suffix.lower() == ".csv":
            sources += _scenes(place)
        elif place.is_dir():
            sources += [[path] for path in videos_below(place)]
        else:
            sources.append([place])
    return sources


def _scenes(index: Path) -> list[list[Path]]:
    try:
        rows = list(csv.DictReader(io.StringIO(read_text(index))))
    except (OSError, csv.Error) as err:
        raise RecipeError(f"--negatives: cannot read {index}: {err}") from err
    if not rows or not {"file", "scene"} <= {*rows[0]}:
        raise RecipeError(f"--negatives: {index} needs rows with the columns file and scene")
    scenes: dict[str, list[Path]] = {}
    for row in rows:
        scenes.setdefault(row["scene"], []).append(index.parent / row["file"])
    return list(scenes.values())


def _joined(files: Sequence[Path]) -> Iterator[Frame]:
    """Yield the frames of all files as those of one video."""
    begin_s, count = 0.0, 0
    for path in files:
        last_s, step_s = 0.0, 0.04
        with closing(open_source(path)) as source:
            for frame in source.frames():
                step_s = frame.time_s - last_s if frame.time_s > last_s else step_s
                last_s = frame.time_s
                yield Frame(frame.image, begin_s + frame.time_s, count)
                count += 1
        begin_s += last_s + step_s
