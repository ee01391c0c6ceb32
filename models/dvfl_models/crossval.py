"""Leave-one-group-out: trains a recipe once per group and seed, each time without that group.

python -m dvfl_models.crossval actions5 --set-name weizmann4 --group person --seeds 0 1 2
"""

from __future__ import annotations

import argparse
import csv
import json
import logging
import platform
import sys
from collections.abc import Sequence
from datetime import datetime, timezone
from functools import reduce
from operator import add
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch

from dvfl_models.evaluate import Confusion
from dvfl_models.recipe import Recipe, SyntheticPart, VideosPart, read_recipe
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


def fold(recipe: Recipe, name: str, column: str, value: str, seed: int) -> Recipe:
    """The recipe with one group of one data set held out of training and made the only test."""
    train: list[SyntheticPart | VideosPart] = []
    test: list[VideosPart] = []
    for part in recipe.train:
        if isinstance(part, VideosPart) and part.name == name:
            test.append(part.model_copy(update={"only": {**part.only, column: [value]}}))
            train.append(part.model_copy(update={"exclude": {**part.exclude, column: [value]}}))
        else:
            train.append(part)
    if not test:
        raise RecipeError(f"recipe {recipe.name} trains on no videos named {name!r}")
    return recipe.model_copy(
        update={"train": tuple(train), "test": tuple(test), "seed": seed, "test_every": 10**9}
    )


def cross_validate(
    recipe: Recipe, name: str, column: str, seeds: Sequence[int], folder: Path, workers: int = 1
) -> dict[str, Any]:
    """Trains all folds, skipping those that an earlier call has finished.

    Returns:
        JSON-ready accuracies per fold and seed, their means, and the summed confusion counts.
    """
    part = next((p for p in recipe.train if isinstance(p, VideosPart) and p.name == name), None)
    if part is None:
        raise RecipeError(f"recipe {recipe.name} trains on no videos named {name!r}")
    values = groups_of(part, column)
    confusions: dict[tuple[int, str], Confusion] = {}
    for seed in seeds:
        for value in values:
            where = folder / f"seed{seed}_{column}{value}"
            trainer = Trainer(fold(recipe, name, column, value, seed), where, resume=True)
            confusion = trainer.run(workers=workers, progress=sys.stderr.isatty())[name]
            log.info("seed %d, %s %s: %.1f %%", seed, column, value, 100 * confusion.accuracy)
            confusions[seed, value] = confusion
    total = reduce(add, confusions.values())
    folds = {
        str(seed): {value: round(confusions[seed, value].accuracy, 4) for value in values}
        for seed in seeds
    }
    means = [mean(folds[str(seed)].values()) for seed in seeds]
    total.save_png(
        folder / "confusion.png",
        f"{name}, leave one {column} out, {len(seeds)} seeds: {mean(means):.1%}",
    )
    return {
        "recipe": recipe.name,
        "data": name,
        "protocol": f"leave one {column} out, mean over {column}s, then over seeds",
        "steps": recipe.optim.steps,
        "seeds": list(seeds),
        "accuracy_mean": round(mean(means), 4),
        "accuracy_stdev_over_seeds": round(stdev(means), 4) if len(means) > 1 else None,
        "accuracy_per_seed": {str(seed): round(m, 4) for seed, m in zip(seeds, means, strict=True)},
        "folds": folds,
        "labels": list(total.labels),
        "confusion_counts": total.counts.tolist(),
        "machine": f"{platform.machine()}, {torch.backends.cpu.get_cpu_capability()}, "
        f"{torch.get_num_threads()} threads",
        "torch": torch.__version__,
        "date": datetime.now(timezone.utc).date().isoformat(),
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m dvfl_models.crossval", description=__doc__)
    parser.add_argument("recipe")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--set-name", required=True, help="name of a `videos` table of the recipe")
    parser.add_argument("--group", required=True, help="column of its index to leave out by")
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
        results = cross_validate(recipe, args.set_name, args.group, args.seeds, folder)
        with replacing(args.json or folder / "results.json") as part:
            part.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    except DvflError as err:
        log.error("error: %s", err)
        return 2
    log.info("mean %.1f %%", 100 * results["accuracy_mean"])
    return 0


if __name__ == "__main__":
    sys.exit(main())
