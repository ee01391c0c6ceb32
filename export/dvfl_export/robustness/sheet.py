"""The robustness sheet: a model's accuracy on the same videos under each corruption."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import closing
from functools import reduce
from operator import add
from typing import Any

from tqdm import tqdm

from dvfl_export.evaluation import Candidate
from dvfl_export.robustness.corruptions import CORRUPTIONS, CorruptedSource
from dvfl_models.data.video_clips import VideoClips
from dvfl_models.training.confusion import Confusion, count
from dvfl_runtime.clips.accuracy import wilson
from dvfl_runtime.clips.evaluation import Views, sample_video
from dvfl_runtime.files import replacing
from dvfl_runtime.sources import open_source

CLEAN = "as they are"


def measure(
    candidate: Candidate, clips: VideoClips, views: Views, *, progress: bool = False
) -> dict[str, Confusion]:
    """Run all videos of a test set as they are, and under each corruption.

    Args:
        candidate: the model; the videos must have been opened with its labels and its spec.
        clips: the test set.
        views: as in `evaluate_on`.
        progress: whether to show a bar.

    Returns:
        The confusions by the names of the corruptions, first that of the videos as they are.

    Raises:
        SourceError: if a video cannot be decoded.
    """
    found: dict[str, list[Confusion]] = {}
    for number, entry in enumerate(tqdm(clips.entries, unit="video", disable=not progress)):
        for corruption in (None, *CORRUPTIONS):
            source = open_source(entry.path)
            if corruption is not None:
                source = CorruptedSource(source, corruption, number)
            with closing(source):
                cut = sample_video(source, candidate.spec, views)[0]
            scores = candidate.scores(cut)[None]
            name = CLEAN if corruption is None else corruption.name
            found.setdefault(name, []).append(count(candidate.labels, scores, [entry.class_id]))
    return {name: reduce(add, parts) for name, parts in found.items()}


def report(confusions: Mapping[str, Confusion]) -> list[dict[str, Any]]:
    """Return a row for each corruption, ready for JSON."""
    rows = []
    for name, confusion in confusions.items():
        right = int(confusion.counts.trace())
        low, high = wilson(right, confusion.clips)
        rows.append(
            {
                "corruption": name,
                "right": right,
                "clips": confusion.clips,
                "top1": round(right / confusion.clips, 4),
                "ci95": [round(low, 4), round(high, 4)],
            }
        )
    return rows


def table(name: str, confusions: Mapping[str, Confusion]) -> str:
    """Return the rows in the terminal."""
    width = max(map(len, confusions))
    lines = [f"{name} under what cameras do:"]
    for row in report(confusions):
        low, high = row["ci95"]
        lines.append(
            f"  {row['corruption']:{width}}  {row['right']:4d} of {row['clips']}  "
            f"{row['top1']:6.1%}  ({low:.1%} to {high:.1%})"
        )
    return "\n".join(lines)


def save_png(confusions: Mapping[str, Confusion], path: str | os.PathLike[str], title: str) -> None:
    """Draw the accuracies as bars with their 95 % intervals.

    Raises:
        OutputError: if the file cannot be written.
    """
    from matplotlib.figure import Figure

    rows = report(confusions)
    figure = Figure(figsize=(7, 0.6 + 0.26 * len(rows)), dpi=110, layout="constrained")
    axes = figure.subplots()
    places, shares = range(len(rows)), [row["top1"] for row in rows]
    below = [row["top1"] - row["ci95"][0] for row in rows]
    above = [row["ci95"][1] - row["top1"] for row in rows]
    colours = ["#3b6ea5"] + ["#8fb3d9"] * (len(rows) - 1)
    axes.barh(places, shares, color=colours, xerr=[below, above], ecolor="#555555")
    axes.set_yticks(places, [row["corruption"] for row in rows])
    axes.invert_yaxis()
    axes.set_xlim(0, 1)
    axes.set_xlabel("accuracy, with 95 % intervals")
    axes.set_title(title, fontsize=10)
    axes.axvline(shares[0], color="#3b6ea5", linewidth=0.8, linestyle="--")
    with replacing(path) as part:
        figure.savefig(part)
