"""What can be told of a video without looking at its pictures: size, shape, length, frame rate.

A data set whose classes can be told that way gives them away; its other results are to be read
against this one. The classifier is a multinomial logistic regression.

python -m dvfl_models.studies.baselines uti_teacher --set-name ut_interaction --group sequence \
    --table ut_interaction --row "metadata only" --json models/results/uti_1_metadata.json
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import sys
from collections.abc import Sequence
from contextlib import closing
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from dvfl_models.data.datasets import Entry, list_videos
from dvfl_models.recipe.parts import VideosPart
from dvfl_models.recipe.recipe import Recipe, read_recipe
from dvfl_models.studies.folds import Folds
from dvfl_models.studies.result_files import machine
from dvfl_models.training.evaluate import wilson
from dvfl_runtime.errors import DvflError
from dvfl_runtime.files import check_places, replacing
from dvfl_runtime.sources import open_source

log = logging.getLogger(__name__)


def metadata(path: str) -> list[float]:
    """Logarithms of width, height, aspect, frames and seconds, and their squares."""
    times, shape = [], (1, 1)
    with closing(open_source(path)) as source:
        for frame in source.frames():
            times.append(frame.time_s)
            shape = frame.image.shape[:2]
    height, width = shape
    values = [width, height, width / height, len(times), max(times[-1] - times[0], 1e-3)]
    logs = [math.log(value) for value in values]
    return [*logs, *(value * value for value in logs)]


def fit_predict(
    train: NDArray[np.float64], classes: Sequence[int], test: NDArray[np.float64], num_classes: int
) -> NDArray[np.int64]:
    """Classes (M,) of the rows of `test` (M, D), learnt from `train` (N, D)."""
    mean, std = train.mean(0), train.std(0) + 1e-9
    x = torch.from_numpy((train - mean) / std)
    y = torch.tensor(list(classes))
    layer = torch.nn.Linear(x.shape[1], num_classes, dtype=torch.float64)
    torch.nn.init.zeros_(layer.weight)
    torch.nn.init.zeros_(layer.bias)
    optimizer = torch.optim.LBFGS(layer.parameters(), max_iter=200)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(layer(x), y) + 1e-2 * layer.weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    with torch.no_grad():
        found: NDArray[np.int64] = layer(torch.from_numpy((test - mean) / std)).argmax(1).numpy()
    return found


def cross_validate_metadata(recipe: Recipe, folds: Folds) -> dict[str, Any]:
    """Leaves the groups of one data set out in turn, as `dvfl_models.studies.crossval` does."""
    known: dict[str, list[float]] = {}

    def features(entries: Sequence[Entry]) -> NDArray[np.float64]:
        for entry in entries:
            if entry.path not in known:
                known[entry.path] = metadata(entry.path)
        return np.array([known[entry.path] for entry in entries])

    shares, right, clips = {}, 0, 0
    for values in folds.parts(recipe):
        held = folds.recipe(recipe, values, 0)
        videos = (part for part in held.train if isinstance(part, VideosPart))
        rest = next(part for part in videos if part.name == folds.name)
        (out,) = (p for p in held.test if isinstance(p, VideosPart))
        train, test = list_videos(rest, recipe.labels), list_videos(out, recipe.labels)
        kinds = [entry.class_id for entry in train]
        found = fit_predict(features(train), kinds, features(test), len(recipe.labels))
        hits = int((found == np.array([entry.class_id for entry in test])).sum())
        shares["+".join(values)] = round(hits / len(test), 4)
        right, clips = right + hits, clips + len(test)
    mean = float(np.mean(list(shares.values())))
    return {
        "recipe": recipe.name,
        "data": folds.name,
        "protocol": f"{folds.protocol}, mean over folds",
        "clips": clips,
        "accuracy_mean": round(mean, 4),
        "accuracy_ci95": [round(x, 4) for x in wilson(right, clips)],
        "accuracy_per_seed": {"0": round(mean, 4)},
        "folds": shares,
        "labels": list(recipe.labels),
        "machine": machine(),
        "date": datetime.now(timezone.utc).date().isoformat(),
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m dvfl_models.studies.baselines", description="Accuracy from metadata alone."
    )
    parser.add_argument("recipe")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--set-name", required=True, help="name of a `videos` table of the recipe")
    parser.add_argument("--group", required=True, help="column of its index to leave out by")
    parser.add_argument("--folds", type=int, default=0)
    parser.add_argument("--table", default="")
    parser.add_argument("--row", default="metadata only")
    parser.add_argument("--json", type=Path, required=True)
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="baselines: %(message)s")
    try:
        check_places([("--json", args.json)])
        recipe = read_recipe(args.recipe, args.set)
        folds = Folds(args.set_name, args.group, args.folds)
        results = cross_validate_metadata(recipe, folds)
        results |= {"table": args.table, "row": args.row, "settings": args.set}
        with replacing(args.json) as part:
            part.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    except DvflError as err:
        log.error("error: %s", err)
        return 2
    log.info("%.1f %% of %d clips", 100 * results["accuracy_mean"], results["clips"])
    return 0


if __name__ == "__main__":
    sys.exit(main())
