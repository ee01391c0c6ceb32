"""What `dvfl-train FOLDER` makes of few clips, beside `dvfl-teach fit` on the same clips.

For each set a quarter is held back by whole groups (persons, sequences, scenes), as in
`own_actions`. Both learn the same clips of each class from the same start, and both are asked about
the same windows of what is held back. A draw gives one file, which is kept in --runs, and so is its
row: the same command goes on where it was ended.

python -m dvfl_bench.comparisons.own_training ../shared/data/yoga/index.csv ... --runs runs/own \
    --json models/results/own_actions/training_yoga.json
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from dvfl_bench.comparisons.command import Result, comparison_parser, log, run_comparison
from dvfl_bench.comparisons.own_actions import TAUGHT as KINDS
from dvfl_bench.comparisons.own_actions import draw_videos, interval, taught_answers
from dvfl_export.own_actions.making import OwnActions, make
from dvfl_models.studies.paired import Outcome, difference
from dvfl_models.training.command import wait_passively
from dvfl_models.training.launch import TrainOptions
from dvfl_runtime.arguments import whole
from dvfl_runtime.artifact import ModelFile
from dvfl_runtime.clips.labelled import LabelledVideo, LabelledVideos, find_labelled
from dvfl_runtime.files import replacing, write_json
from dvfl_runtime.recognizer import BUNDLED_MODEL
from dvfl_runtime.teach.features import (
    EngineChoice,
    FeatureReader,
    cut_windows,
    read_by_all,
)
from dvfl_runtime.teach.head import Examples, Numbers
from dvfl_runtime.teach.teaching import open_readers

TAUGHT, TRAINED = "dvfl-teach fit", "dvfl-train FOLDER"


Kinds: TypeAlias = dict[str, Examples]  # of features


class Draw(NamedTuple):
    """How many clips of each class are learnt, and which."""

    clips: int
    seed: int


def train(found: LabelledVideos, learnt: list[int], model: Path, folder: Path) -> Path:
    """Train on some videos, unless that is done; return the file."""
    output = folder / "mine.onnx"
    if output.exists():
        return output
    folder.mkdir(parents=True, exist_ok=True)
    index = folder / "learnt.csv"
    with replacing(index) as part, part.open("w", newline="", encoding="utf-8") as file:
        # of one group: nothing is held back once more
        rows = [[found.videos[v].path.absolute(), found.videos[v].label, "all"] for v in learnt]
        csv.writer(file).writerows([["file", "label", "group"], *rows])
    run = folder / "run"
    options = TrainOptions(resume=(run / "recipe.toml").exists())
    made = make(OwnActions(index, output, model, (), run, options=options))
    if made.stopped is not None:  # the next time it goes on
        output.unlink()
        raise made.stopped
    return output


def answers(path: Path, videos: Sequence[LabelledVideo], threads: int) -> Iterator[str]:
    """Yield what a file makes of each video: the best of the mean logits of its windows."""
    file = ModelFile(path)
    with closing(EngineChoice("onnxruntime", "cpu", threads).open(file)) as engine:
        for video in videos:
            clips, _ = cut_windows(video.path, file.artifact.spec)
            logits = [engine.run(clip[None])[0] for clip in clips]
            yield file.artifact.labels[int(np.mean(logits, axis=0).argmax())]


def measure_draw(
    name: str, found: LabelledVideos, kinds: Kinds, draw: Draw, args: argparse.Namespace
) -> Result:
    """Return whether each video that is held back is recognised, after both ways of learning."""
    learnt, tested = draw_videos(found, draw.clips, draw.seed)
    folder = args.runs / f"{name}_{draw.clips}_clips_draw{draw.seed}"
    row_path: Path = folder / "row.json"
    if row_path.exists():
        kept: Result = json.loads(row_path.read_text(encoding="utf-8"))
        return kept
    taught = [bool(hit) for hit in taught_answers(kinds, learnt, tested)[TAUGHT]]
    videos = [found.videos[v] for v in tested]
    file = train(found, learnt.tolist(), args.model, folder)
    trained = [
        answer == video.label
        for answer, video in zip(answers(file, videos, args.threads), videos, strict=True)
    ]
    row = {**draw._asdict(), "tested": tested.tolist(), TAUGHT: taught, TRAINED: trained}
    write_json(row_path, row)
    log.info("%s: %d and %d of %d", folder.name, sum(taught), sum(trained), len(videos))
    return row


def summary(found: LabelledVideos, groups: Numbers, rows: list[Result]) -> Result:
    """Return the accuracies of all draws of a number of clips, and their difference."""
    out: dict[str, Any] = {}
    for way in (TAUGHT, TRAINED):
        right: dict[int, list[bool]] = {}
        for row in rows:
            for video, hit in zip(row["tested"], row[way], strict=True):
                right.setdefault(video, []).append(hit)
        every = [hit for hits in right.values() for hit in hits]
        low, high = interval(right, groups)
        out[way] = {"accuracy": round(sum(every) / len(every), 4), "answers": len(every),
                    "ci95": [round(low, 4), round(high, 4)]}  # fmt: skip
    taught, trained = (
        {
            f"{row['seed']} {video}": Outcome(found.videos[video].group, hit)
            for row in rows
            for video, hit in zip(row["tested"], row[way], strict=True)
        }
        for way in (TAUGHT, TRAINED)
    )
    return {**out, "difference": difference(trained, taught)}


def measure_set(place: Path, readers: list[FeatureReader], args: argparse.Namespace) -> Result:
    """Return both accuracies of a set for each number of clips."""
    found = find_labelled(place)
    each = [read_by_all(readers, video.path) for video in found.videos]
    features = {name: [its[number] for its in each] for number, name in enumerate(KINDS)}
    kinds = {name: Examples.of(found, its) for name, its in features.items()}
    groups = kinds[KINDS[0]].group_of
    out = {}
    for count in args.counts:
        draws = [Draw(count, seed) for seed in range(args.draws)]
        rows = [measure_draw(place.parent.name, found, kinds, draw, args) for draw in draws]
        out[str(count)] = {**summary(found, groups, rows), "rows": rows}
    return {"classes": len(found.labels), "clips": len(found.videos), "learnt": out}


def measure(args: argparse.Namespace) -> Result:
    """Return the results of all sets."""
    file, sets = ModelFile(args.model), {}
    choice = EngineChoice("onnxruntime", "cpu", args.threads)
    with open_readers(file, file.artifact.spec, choice) as readers:
        for place in args.sets:
            sets[place.parent.name] = measure_set(place, readers, args)
    return {"model": {"name": file.artifact.name, "graph_sha256": file.graph_sha256},
            "draws": args.draws, "sets": sets}  # fmt: skip


def main(argv: list[str] | None = None) -> int:
    """Run the command; return the exit status."""
    parser = comparison_parser("own_training", __doc__ or "")
    parser.add_argument("sets", type=Path, nargs="+", help="index.csv of each set")
    parser.add_argument("--model", type=Path, default=BUNDLED_MODEL, help="the start of both")
    parser.add_argument("--counts", type=whole, nargs="+", default=[5, 12], help="clips of a class")
    parser.add_argument("--draws", type=whole, default=1, help="of what is held back; default: 1")
    parser.add_argument("--threads", type=whole, default=2, help="of the engine; default: 2")
    parser.add_argument("--runs", type=Path, required=True, help="folder of the trainings")
    args = parser.parse_args(argv)
    wait_passively()
    return run_comparison(args, lambda: measure(args), threads=args.threads)


if __name__ == "__main__":
    sys.exit(main())
