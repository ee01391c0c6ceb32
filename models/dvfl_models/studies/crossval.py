"""Leave-one-group-out: trains a recipe once per group and seed, each time without that group.

python -m dvfl_models.studies.crossval actions5 --set-name weizmann4 --group person --seeds 0 1 2
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from datetime import datetime, timezone
from functools import partial, reduce
from multiprocessing import get_context
from operator import add
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
import torch

from dvfl_models.recipe.recipe import Recipe, read_recipe
from dvfl_models.studies.folds import Folds
from dvfl_models.studies.result_files import machine
from dvfl_models.training.evaluate import Confusion, wilson
from dvfl_models.training.starting import TrainOptions
from dvfl_models.training.train import Trainer
from dvfl_runtime.arguments import Parser, natural, whole
from dvfl_runtime.errors import DvflError
from dvfl_runtime.files import check_places, replacing

log = logging.getLogger(__name__)

_asked_to_end = threading.Event()  # of this process


def cross_validate(
    recipe: Recipe,
    folds: Folds,
    seeds: Sequence[int],
    folder: Path,
    *,
    workers: int = 1,
    jobs: int = 1,
) -> dict[str, Any]:
    """Trains all folds, skipping those that an earlier call has finished.

    Args:
        recipe: what to train.
        folds: what is held out of it in turn.
        seeds: of the runs.
        folder: gets a folder per fold and seed.
        workers: processes that make clips, of each training.
        jobs: trainings at once, each in a process of its own with its share of the threads.

    Returns:
        JSON-ready accuracies per fold and seed, their means, and the summed confusion counts.

    Raises:
        DvflError: as `Folds.parts` and `Trainer` do, or if the process of a training is killed.
    """
    parts = folds.parts(recipe)
    todo = [(seed, values) for seed in seeds for values in parts]
    train = partial(_train_fold, recipe, folds, folder, workers)
    if jobs == 1:
        found = [train(seed, values) for seed, values in todo]
    else:
        threads = max(1, torch.get_num_threads() // jobs)
        spawn = get_context("spawn")  # PyTorch's threads do not survive a fork
        with ProcessPoolExecutor(jobs, spawn, initializer=_begin, initargs=(threads,)) as pool:
            try:
                found = list(pool.map(partial(_in_pool, train), *zip(*todo, strict=True)))
            except BrokenProcessPool as err:
                raise DvflError(
                    f"a training was ended from outside, perhaps for lack of memory; give fewer "
                    f"--jobs and run it again: folds that are done in {folder} are kept"
                ) from err
    keys = [(seed, "+".join(values)) for seed, values in todo]
    return _report(recipe, folds, dict(zip(keys, found, strict=True)), folder)


def _train_fold(
    recipe: Recipe, folds: Folds, folder: Path, workers: int, seed: int, values: Sequence[str]
) -> Confusion:
    where = folder / folds.folder(values, seed)
    options = TrainOptions(resume=(where / "last.pth").exists())
    trainer = Trainer(folds.recipe(recipe, values, seed), where, options)
    confusion = trainer.run(workers=workers, progress=sys.stderr.isatty())[folds.name]
    log.info("seed %d, %s %s: %.1f %%", seed, folds.column, values, 100 * confusion.accuracy)
    return confusion


def _in_pool(train: Callable[..., Confusion], seed: int, values: Sequence[str]) -> Confusion:
    """`train`, but nothing that waits in the queue of a process that was asked to end."""
    if _asked_to_end.is_set():
        raise KeyboardInterrupt
    try:
        return train(seed, values)
    except KeyboardInterrupt:
        _asked_to_end.set()
        raise


def _begin(threads: int | None) -> None:
    """Logging and threads of a process."""
    logging.basicConfig(level=logging.INFO, format="crossval: %(message)s")
    if threads:
        torch.set_num_threads(threads)


def _report(
    recipe: Recipe,
    folds: Folds,
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
    means = {seed: mean(shares.values()) for seed, shares in found.items()}
    overall, clips = mean(means.values()), total.clips // len(seeds)
    title = f"{folds.name}, {folds.protocol}, {len(seeds)} seeds: {overall:.1%}"
    total.save_png(folder / "confusion.png", title)
    right = int(np.trace(total.counts))
    return {
        "recipe": recipe.name,
        "data": folds.name,
        "protocol": f"{folds.protocol}, mean over folds, then over seeds",
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
    parser = Parser(prog="python -m dvfl_models.studies.crossval", description=__doc__)
    parser.add_argument("recipe")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--set-name", required=True, help="name of a `videos` table of the recipe")
    parser.add_argument("--group", required=True, help="column of its index to leave out by")
    parser.add_argument("--folds", type=natural, default=0, help="parts to deal the groups out to")
    parser.add_argument("--table", default="", help="of models/RESULTS.md that the result is for")
    parser.add_argument("--row", default="", help="what the result is called there")
    parser.add_argument("--seeds", type=natural, nargs="+", default=[0])
    parser.add_argument("--out", type=Path, help="default: runs/<recipe's name>_<group>s")
    parser.add_argument("--json", type=Path, help="default: results.json in the folder")
    parser.add_argument("--threads", type=whole, help="of all trainings together")
    parser.add_argument("--jobs", type=whole, default=1, help="trainings at once")
    args = parser.parse_args(argv)
    # as dvfl-train does; it comes too late for this process, but not for those of --jobs
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    _begin(args.threads)
    try:
        check_places([("--json", args.json)])
        recipe = read_recipe(args.recipe, args.set)
        folder = args.out or Path("runs") / f"{recipe.name}_{args.group}s"
        folds = Folds(args.set_name, args.group, args.folds)
        results = cross_validate(recipe, folds, args.seeds, folder, jobs=args.jobs)
        results |= {"table": args.table, "row": args.row, "settings": args.set}
        with replacing(args.json or folder / "results.json") as part:
            part.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    except DvflError as err:
        log.error("error: %s", err)
        return 2
    except KeyboardInterrupt as err:
        log.error("stopped; run it again to go on: what is done is kept")
        return 128 + getattr(err, "number", signal.SIGINT)
    log.info("mean %.1f %%", 100 * results["accuracy_mean"])
    return 0


if __name__ == "__main__":
    sys.exit(main())
