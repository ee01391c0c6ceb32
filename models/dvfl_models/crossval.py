"""Leave-one-group-out: trains a recipe once per group and seed, each time without that group.

python -m dvfl_models.crossval actions5 --set-name weizmann4 --group person --seeds 0 1 2
"""

from __future__ import annotations

import argparse
import csv
import json
import logging
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from functools import reduce
from operator import add
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
import torch

from dvfl_models.evaluate import Confusion, wilson
from dvfl_models.machine import machine
from dvfl_models.recipe import Recipe, read_recipe
from dvfl_models.recipe_parts import DataPart, VideosPart
from dvfl_models.starting import TrainOptions
from dvfl_models.train import Trainer
from dvfl_runtime.errors import DvflError, RecipeError
from dvfl_runtime.files import replacing

log = logging.getLogger(__name__)


def groups_of(part: VideosPart, column: str) -> list[str]:
    """The values of a column of a data set's index, sorted.

    Raises:
        RecipeError: if the index cannot be read or has no such column.
    """
    try:
        with open(part.index, newline="", encoding="utf-8") as file:
            return sorted({row[column] for row in csv.DictReader(file)})
    except (OSError, KeyError) as err:
        raise RecipeError(f"no column {column!r} in {part.index}") from err


def fold(recipe: Recipe, name: str, column: str, values: Sequence[str], seed: int) -> Recipe:
    """The recipe with some groups of one data set held out of training and made the only test.

    `{fold}` in the paths of the checkpoint to start from and of the teacher becomes the name of the
    fold's folder, so that a student gets the teacher that has not seen its test clips.
    """
    train: list[DataPart] = []
    test: list[VideosPart] = []
    for part in recipe.train:
        if isinstance(part, VideosPart) and part.name == name:
            only = {key: kept for key, kept in part.only.items() if key != column}
            exclude = {key: left for key, left in part.exclude.items() if key != column}
            held, rest = {**only, column: list(values)}, {**exclude, column: list(values)}
            test.append(part.model_copy(update={"only": held, "exclude": exclude}))
            train.append(part.model_copy(update={"only": only, "exclude": rest}))
        else:
            train.append(part)
    if not test:
        raise RecipeError(f"recipe {recipe.name} trains on no videos named {name!r}")
    where = fold_name(column, values, seed)
    start = recipe.model.start.replace("{fold}", where)
    changes: dict[str, Any] = {
        "train": tuple(train),
        "test": tuple(test),
        "seed": seed,
        "test_every": 10**9,
        "model": recipe.model.model_copy(update={"start": start}),
    }
    if recipe.distill is not None:
        teacher = recipe.distill.teacher.replace("{fold}", where)
        changes["distill"] = recipe.distill.model_copy(update={"teacher": teacher})
    return recipe.model_copy(update=changes)


def fold_name(column: str, values: Sequence[str], seed: int) -> str:
    """Name of a fold's folder."""
    return f"seed{seed}_{column}{'+'.join(values)}"


def cross_validate(
    recipe: Recipe,
    name: str,
    column: str,
    seeds: Sequence[int],
    folder: Path,
    *,
    folds: int = 0,
    workers: int = 1,
) -> dict[str, Any]:
    """Trains all folds, skipping those that an earlier call has finished.

    Args:
        recipe: what to train.
        name: the data set to leave groups out of.
        column: what tells its groups apart.
        seeds: of the runs.
        folder: gets a folder per fold and seed.
        folds: how many parts the groups are dealt out to; 0 leaves out one group at a time.
        workers: processes that make clips.

    Returns:
        JSON-ready accuracies per fold and seed, their means, and the summed confusion counts.
    """
    part = next((p for p in recipe.train if isinstance(p, VideosPart) and p.name == name), None)
    if part is None:
        raise RecipeError(f"recipe {recipe.name} trains on no videos named {name!r}")
    groups = groups_of(part, column)
    parts = [groups[k::folds] for k in range(folds)] if folds else [[group] for group in groups]
    confusions: dict[tuple[int, str], Confusion] = {}
    for seed in seeds:
        for values in parts:
            options = TrainOptions(resume=True)
            where = folder / fold_name(column, values, seed)
            trainer = Trainer(fold(recipe, name, column, values, seed), where, options)
            confusion = trainer.run(workers=workers, progress=sys.stderr.isatty())[name]
            log.info("seed %d, %s %s: %.1f %%", seed, column, values, 100 * confusion.accuracy)
            confusions[seed, "+".join(values)] = confusion
    left_out = f"{folds} parts of the {column}s" if folds else f"one {column}"
    return _report(recipe, name, f"leave {left_out} out", confusions, folder)


def _report(
    recipe: Recipe,
    name: str,
    protocol: str,
    confusions: Mapping[tuple[int, str], Confusion],
    folder: Path,
) -> dict[str, Any]:
    """Means over folds, then over seeds; the interval is that of the clips of one seed."""
    total = reduce(add, confusions.values())
    seeds = sorted({seed for seed, _ in confusions})
    found = {
        str(seed): {key: round(c.accuracy, 4) for (s, key), c in confusions.items() if s == seed}
        for seed in seeds
    }
    means = {seed: mean(folds.values()) for seed, folds in found.items()}
    overall, clips = mean(means.values()), total.clips // len(seeds)
    title = f"{name}, {protocol}, {len(seeds)} seeds: {overall:.1%}"
    total.save_png(folder / "confusion.png", title)
    right = int(np.trace(total.counts))
    return {
        "recipe": recipe.name,
        "data": name,
        "protocol": f"{protocol}, mean over folds, then over seeds",
        "steps": recipe.optim.steps,
        "seeds": seeds,
        "clips": clips,
        "accuracy_mean": round(overall, 4),
        "accuracy_ci95": [round(x, 4) for x in wilson(round(right / len(seeds)), clips)],
        "accuracy_stdev_over_seeds": round(stdev(means.values()), 4) if len(means) > 1 else None,
        "accuracy_per_seed": {seed: round(m, 4) for seed, m in means.items()},
        "folds": found,
        "labels": list(total.labels),
        "confusion_counts": total.counts.tolist(),
        "machine": machine(),
        "date": datetime.now(timezone.utc).date().isoformat(),
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m dvfl_models.crossval", description=__doc__)
    parser.add_argument("recipe")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--set-name", required=True, help="name of a `videos` table of the recipe")
    parser.add_argument("--group", required=True, help="column of its index to leave out by")
    parser.add_argument("--folds", type=int, default=0, help="parts to deal the groups out to")
    parser.add_argument("--table", default="", help="of models/RESULTS.md that the result is for")
    parser.add_argument("--row", default="", help="what the result is called there")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--out", type=Path, help="default: runs/<recipe's name>_<group>s")
    parser.add_argument("--json", type=Path, help="default: results.json in the folder")
    parser.add_argument("--threads", type=int)
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="crossval: %(message)s")
    if args.threads:
        torch.set_num_threads(args.threads)
    try:
        recipe = read_recipe(args.recipe, args.set)
        folder = args.out or Path("runs") / f"{recipe.name}_{args.group}s"
        results = cross_validate(
            recipe, args.set_name, args.group, args.seeds, folder, folds=args.folds
        )
        results |= {"table": args.table, "row": args.row, "settings": args.set}
        with replacing(args.json or folder / "results.json") as part:
            part.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    except DvflError as err:
        log.error("error: %s", err)
        return 2
    log.info("mean %.1f %%", 100 * results["accuracy_mean"])
    return 0


if __name__ == "__main__":
    sys.exit(main())
