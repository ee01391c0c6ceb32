"""Leave-one-group-out: train a recipe once per group and seed, each time without that group.

python -m dvfl_models.studies.crossval actions5 --set-name weizmann4 --group person --seeds 0 1 2

`--also SET COLUMN` holds out a part of another set with each group, as when one model is to be
shown persons and scenes that it has not seen:

python -m dvfl_models.studies.crossval bundled_last --set-name weizmann4 --group person \
    --also ucf10_as_idle group
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial, reduce
from multiprocessing import get_context
from operator import add
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import torch

from dvfl_models.recipe.recipe import Recipe, read_recipe
from dvfl_models.studies.command import add_fold_options, add_row_options, run_study
from dvfl_models.studies.folds import Folds
from dvfl_models.studies.result_files import accuracy_over_seeds, machine_and_date
from dvfl_models.training.confusion import Confusion
from dvfl_models.training.launch import TrainOptions
from dvfl_models.training.trainer import Trainer
from dvfl_runtime.arguments import SIGNALLED, Parser, natural, whole
from dvfl_runtime.errors import DvflError
from dvfl_runtime.files import check_places, write_json

log = logging.getLogger(__name__)

NAME = "crossval"  # begins each line of progress

_asked_to_end = threading.Event()  # set in a process of the pool by the first request to end


def cross_validate(
    recipe: Recipe,
    folds: Folds,
    seeds: Sequence[int],
    folder: Path,
    *,
    workers: int = 1,
    jobs: int = 1,
) -> dict[str, Any]:
    """Train all folds, except those that an earlier call has finished.

    Args:
        recipe: to train.
        folds: the groups that are held out of training in turn.
        seeds: of the runs.
        folder: gets a folder per fold and seed.
        workers: processes that make the clips of each training.
        jobs: trainings at once, each in a process of its own with its share of the threads.

    Returns:
        JSON-ready accuracies per fold and seed, their means, and the summed confusion counts.

    Raises:
        DvflError: as `Folds.groups` and `Trainer` do, or if the process of a training is killed.
    """
    held_out = folds.groups(recipe)
    todo = [(seed, groups) for seed in seeds for groups in held_out]
    train = partial(_train_fold, recipe, folds, folder, workers)
    if jobs == 1:
        found = [train(seed, groups) for seed, groups in todo]
    else:
        threads = max(1, torch.get_num_threads() // jobs)
        spawn = get_context("spawn")  # PyTorch's threads do not survive a fork
        with ProcessPoolExecutor(jobs, spawn, initializer=_prepare, initargs=(threads,)) as pool:
            try:
                found = list(pool.map(partial(_in_pool, train), *zip(*todo, strict=True)))
            except BrokenProcessPool as err:
                raise DvflError(
                    f"a training was ended from outside, perhaps for lack of memory; give fewer "
                    f"--jobs and run it again: folds that are done in {folder} are kept"
                ) from err
    keys = [(seed, "+".join(groups)) for seed, groups in todo]
    return _report(recipe, folds, dict(zip(keys, found, strict=True)), folder)


def _train_fold(
    recipe: Recipe, folds: Folds, folder: Path, workers: int, seed: int, groups: Sequence[str]
) -> Confusion:
    where = folder / folds.folder(groups, seed)
    options = TrainOptions(resume=(where / "last.pth").exists())
    trainer = Trainer(folds.recipe(recipe, groups, seed), where, options)
    confusion = trainer.run(workers=workers, progress=sys.stderr.isatty())[folds.name]
    log.info("seed %d, %s %s: %.1f %%", seed, folds.column, groups, 100 * confusion.accuracy)
    return confusion


def _in_pool(train: Callable[..., Confusion], seed: int, groups: Sequence[str]) -> Confusion:
    """Call `train`, unless this process was asked to end while the fold waited in its queue."""
    if _asked_to_end.is_set():
        raise KeyboardInterrupt
    try:
        return train(seed, groups)
    except KeyboardInterrupt:
        _asked_to_end.set()
        raise


def _prepare(threads: int) -> None:
    """Set up the logging and the threads of a process of the pool."""
    logging.basicConfig(level=logging.INFO, format=f"{NAME}: %(message)s")
    torch.set_num_threads(threads)


def _report(
    recipe: Recipe,
    folds: Folds,
    confusions: Mapping[tuple[int, str], Confusion],
    folder: Path,
) -> dict[str, Any]:
    """Return means over folds, then over seeds; the interval is that of the clips of one seed."""
    total = reduce(add, confusions.values())
    seeds = sorted({seed for seed, _ in confusions})
    found = {
        seed: {key: round(c.accuracy, 4) for (s, key), c in confusions.items() if s == seed}
        for seed in seeds
    }
    means = {seed: mean(shares.values()) for seed, shares in found.items()}
    title = f"{folds.name}, {folds.protocol}, {len(seeds)} seeds: {mean(means.values()):.1%}"
    total.save_png(folder / "confusion.png", title)
    right = round(int(np.trace(total.counts)) / len(seeds))
    return {
        "recipe": recipe.name,
        "data": folds.name,
        "protocol": f"{folds.protocol}, mean over folds, then over seeds",
        "steps": recipe.optim.steps,
        "seeds": seeds,
        **accuracy_over_seeds(means, right, total.clips // len(seeds)),
        "folds": {str(seed): shares for seed, shares in found.items()},
        "labels": list(total.labels),
        "confusion_counts": total.counts.tolist(),
        **machine_and_date(),
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return the exit status."""
    parser = Parser(prog="python -m dvfl_models.studies.crossval", description=__doc__)
    add_fold_options(parser)
    add_row_options(parser)
    parser.add_argument(
        "--also",
        nargs=2,
        action="append",
        default=[],
        metavar=("SET_NAME", "GROUP"),
        help="another set, of which a part is held out together with each group",
    )
    parser.add_argument("--seeds", type=natural, nargs="+", default=[0])
    parser.add_argument("--out", type=Path, help="default: runs/<recipe's name>_<group>s")
    parser.add_argument("--json", type=Path, help="default: results.json in the folder")
    parser.add_argument("--threads", type=whole, help="of all trainings together")
    parser.add_argument("--jobs", type=whole, default=1, help="trainings at once")
    args = parser.parse_args(argv)
    # as dvfl-train does; it comes too late for this process, but not for those of --jobs
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    if args.threads:
        torch.set_num_threads(args.threads)

    def study() -> None:
        check_places([("--json", args.json)])
        recipe = read_recipe(args.recipe, args.set)
        folder = args.out or Path("runs") / f"{recipe.name}_{args.group}s"
        also = tuple(Folds(name, group) for name, group in args.also)
        folds = Folds(args.set_name, args.group, args.folds, also)
        found = cross_validate(recipe, folds, args.seeds, folder, jobs=args.jobs)
        found |= {"table": args.table, "row": args.row, "settings": args.set}
        write_json(args.json or folder / "results.json", found)
        log.info("mean %.1f %%", 100 * found["accuracy_mean"])

    try:
        return run_study(NAME, study)
    except KeyboardInterrupt as err:
        log.error("stopped; run it again to go on: what is done is kept")
        return SIGNALLED + getattr(err, "number", signal.SIGINT)


if __name__ == "__main__":
    sys.exit(main())
