"""What are the clips held back worth? Both weights of a run, on groups that neither has seen.

python -m dvfl_export.own_actions.worth ../shared/data/ut_interaction/index.csv \
    --labels handshake hug kick point push --fold 3 7 13 17 --fold 1 5 11 15 --seeds 0 1 \
    --runs runs/worth --json models/results/own_actions.json
"""

from __future__ import annotations

import argparse
import csv
import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dvfl_export.evaluation import evaluate_on, open_candidate
from dvfl_export.own_actions.making import OwnActions, make
from dvfl_models.data.loader import default_workers
from dvfl_models.data.video_clips import VideoClips
from dvfl_models.recipe.tables import VideosTable
from dvfl_models.studies.command import run_study
from dvfl_models.studies.result_files import machine_and_date
from dvfl_models.training.command import wait_passively
from dvfl_models.training.confusion import Confusion
from dvfl_models.training.launch import TrainOptions
from dvfl_runtime.arguments import Parser, natural, threads
from dvfl_runtime.clips.accuracy import wilson
from dvfl_runtime.clips.evaluation import Views
from dvfl_runtime.clips.labelled import LabelledVideo, find_labelled
from dvfl_runtime.files import check_places, replacing, write_json
from dvfl_runtime.recognizer import BUNDLED_MODEL

log = logging.getLogger(__name__)

WEIGHTS = ("measured", "all")  # without the clips held back, and with them


def write_fold(
    videos: Sequence[LabelledVideo], test: Sequence[str], folder: Path
) -> tuple[Path, Path]:
    """Write the indexes of the clips to train on and of those whose groups are left out."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = folder / "train.csv", folder / "test.csv"
    for path, tested in zip(paths, (False, True), strict=True):
        rows = [
            [v.path.absolute(), v.label, v.group] for v in videos if (v.group in test) == tested
        ]
        with replacing(path) as part, part.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([["file", "label", "group"], *rows])
    return paths


def test_weights(checkpoint: Path, index: Path) -> Confusion:
    """Return the result of a checkpoint on an index, one clip of each video."""
    table = VideosTable.model_validate({"kind": "videos", "name": "left_out", "index": str(index)})
    with open_candidate(checkpoint) as candidate:
        clips = VideoClips(table, candidate.labels, candidate.spec)
        return evaluate_on(candidate, clips, Views())[0]


def run_fold(train: Path, test: Path, run: Path, seed: int, workers: int) -> dict[str, Any]:
    """Train, unless that is done, and return the accuracies, ready for JSON."""
    ends = [run / name / "final.pth" for name in WEIGHTS]
    if not all(end.exists() for end in ends):
        wanted = OwnActions(
            place=train,
            output=run.with_suffix(".onnx"),
            model=BUNDLED_MODEL,
            negatives=(),
            folder=run,
            settings=(f"seed={seed}",),
            workers=workers,
            options=TrainOptions(resume=(run / "recipe.toml").exists()),
        )
        make(wanted)
    held = json.loads((ends[0].parent / "results.json").read_text(encoding="utf-8"))
    found = {name: test_weights(end, test) for name, end in zip(WEIGHTS, ends, strict=True)}
    log.info("%s: %s", run, {name: confusion.accuracy for name, confusion in found.items()})
    return {
        "seed": seed,
        "held_back": held["tests"]["held_back"]["top1"],
        **{name: confusion.report()["top1"] for name, confusion in found.items()},
    }


def summary(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the mean accuracies of all runs, with the interval of the clips of one seed."""
    out: dict[str, Any] = {}
    seeds = len({run["seed"] for run in runs})
    for name in ("held_back", *WEIGHTS):
        clips = sum(run[name]["clips"] for run in runs)
        right = sum(run[name]["value"] * run[name]["clips"] for run in runs)
        low, high = wilson(round(right / seeds), clips // seeds)
        out[name] = {
            "accuracy": round(right / clips, 4),
            "ci95": [round(low, 4), round(high, 4)],
            "clips": clips // seeds,
        }
    return out


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return the exit status."""
    parser = Parser(
        prog="python -m dvfl_export.own_actions.worth",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("index", type=Path, help="with a column group, sequence or person")
    parser.add_argument("--labels", nargs="+", help="the classes to take (default: all)")
    parser.add_argument("--fold", nargs="+", action="append", required=True, metavar="GROUP")
    parser.add_argument("--seeds", type=natural, nargs="+", default=[0])
    parser.add_argument("--runs", type=Path, required=True, help="folder; what is there goes on")
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--threads", type=threads)
    args = parser.parse_args(argv)

    def study() -> None:
        check_places([("--json", args.json)], [("the index", args.index)])
        if args.threads:
            import torch

            torch.set_num_threads(args.threads)
        labels = args.labels or find_labelled(args.index).labels
        videos = [v for v in find_labelled(args.index).videos if v.label in labels]
        runs = []
        for number, test in enumerate(args.fold):
            fold = args.runs / f"fold{number}"
            paths = write_fold(videos, test, fold)
            for seed in args.seeds:
                result = run_fold(*paths, fold / f"seed{seed}", seed, default_workers())
                runs.append({"fold": sorted(test), **result})
        result = {**machine_and_date(), "labels": sorted(labels), "runs": runs, **summary(runs)}
        write_json(args.json, result)
        for name in ("held_back", *WEIGHTS):
            found = result[name]
            log.info("%s: %.1f %% of %d clips", name, 100 * found["accuracy"], found["clips"])

    wait_passively()
    return run_study("worth", study)


if __name__ == "__main__":
    sys.exit(main())
