"""Accuracy from the metadata of videos alone: their size, shape, length and frame rate.

Where that is high, the data set gives its classes away without a look at the pictures, and its
other results have to be compared with this one. The classifier is a multinomial logistic
regression.

python -m dvfl_models.studies.baselines uti_teacher --set-name ut_interaction --group sequence \
    --table ut_interaction --row "metadata only" --json models/results/uti_1_metadata.json
"""

from __future__ import annotations

import logging
import math
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from dvfl_models.data.datasets import Entry, list_videos
from dvfl_models.recipe.recipe import Recipe, read_recipe
from dvfl_models.studies.command import add_fold_options, add_row_options, run_study
from dvfl_models.studies.folds import Folds
from dvfl_models.studies.result_files import accuracy_over_seeds, machine_and_date
from dvfl_runtime.arguments import Parser
from dvfl_runtime.files import check_places, write_json
from dvfl_runtime.sources import open_source

log = logging.getLogger(__name__)


def metadata(path: str) -> list[float]:
    """Return the logarithms of width, height, aspect, frames and seconds, and their squares."""
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
    """Return the classes (M,) of the rows of `test` (M, D), learnt from `train` (N, D)."""
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
    """Leave the groups of one data set out in turn, as `dvfl_models.studies.crossval` does."""
    known: dict[str, list[float]] = {}

    def features(entries: Sequence[Entry]) -> NDArray[np.float64]:
        for entry in entries:
            if entry.path not in known:
                known[entry.path] = metadata(entry.path)
        return np.array([known[entry.path] for entry in entries])

    shares, right, clips = {}, 0, 0
    for groups in folds.groups(recipe):
        rest, held_out = folds.split(folds.videos(recipe), groups)
        train, test = list_videos(rest, recipe.labels), list_videos(held_out, recipe.labels)
        classes = [entry.class_id for entry in train]
        found = fit_predict(features(train), classes, features(test), len(recipe.labels))
        hits = int((found == np.array([entry.class_id for entry in test])).sum())
        shares["+".join(groups)] = round(hits / len(test), 4)
        right, clips = right + hits, clips + len(test)
    return {
        "recipe": recipe.name,
        "data": folds.name,
        "protocol": f"{folds.protocol}, mean over folds",
        **accuracy_over_seeds({0: float(np.mean(list(shares.values())))}, right, clips),
        "folds": shares,
        "labels": list(recipe.labels),
        **machine_and_date(),
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return the exit status."""
    parser = Parser(
        prog="python -m dvfl_models.studies.baselines", description="Accuracy from metadata alone."
    )
    add_fold_options(parser)
    add_row_options(parser, "metadata only")
    parser.add_argument("--json", type=Path, required=True)
    args = parser.parse_args(argv)

    def study() -> None:
        check_places([("--json", args.json)])
        recipe = read_recipe(args.recipe, args.set)
        folds = Folds(args.set_name, args.group, args.folds)
        found = cross_validate_metadata(recipe, folds)
        found |= {"table": args.table, "row": args.row, "settings": args.set}
        write_json(args.json, found)
        log.info("%.1f %% of %d clips", 100 * found["accuracy_mean"], found["clips"])

    return run_study("baselines", study)


if __name__ == "__main__":
    sys.exit(main())
