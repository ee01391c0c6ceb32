"""The recipes of the command `dvfl-train`, whose other part is in `dvfl_export.train_cli`.

PyTorch is loaded after the command line has been read and OpenMP has been set up.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from dvfl_models.training.command import (
    load_torch,
    new_recipe_parser,
    run_interruptible,
)
from dvfl_runtime.arguments import Parser, workers

EPILOG = """\
examples:
  dvfl-train actions5_first
        train a bundled recipe; everything lands in runs/actions5_first
  dvfl-train actions5_first --resume
        go on after a stop: the result is the one of an uninterrupted run
  dvfl-train my.toml --set optim.steps=100 --set optim.lr=5e-4 --out /tmp/try
        a recipe of your own, with changes
  torchrun --nproc_per_node 4 -m dvfl_models.training.cli ucf101_student
        on four GPUs; the batch of the recipe is divided among them
"""


def parser() -> Parser:
    """Return the parser of `dvfl-train`."""
    out = new_recipe_parser("dvfl-train", "Train a Video-FocalNet from a TOML recipe.", EPILOG)
    out.add_argument("recipe", help="name of a bundled recipe, or a .toml file")
    out.add_argument("--resume", action="store_true", help="go on from the folder's last.pth")
    out.add_argument("--out", type=Path, help="folder of the run (default: runs/<recipe's name>)")
    out.add_argument(
        "--strict-split",
        action="store_true",
        help="refuse test sets that share sources with training, instead of warning",
    )
    out.add_argument("--cpu", action="store_true", help="stay on the CPU where there is a GPU")
    out.add_argument(
        "--tensorboard", action="store_true", help="write event files into the folder too"
    )
    out.add_argument(
        "--workers",
        type=workers,
        help="processes that read clips (default: one for each core that this one may use)",
    )
    return out


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    command = parser()
    args = command.parse_args(argv)
    for package in ("dvfl_models", "dvfl_runtime"):  # PyTorch's messages are for its developers
        logging.getLogger(package).setLevel(logging.INFO)

    def work() -> int:
        load_torch(command, args.threads)
        _train(args)
        return 0

    nothing = "stopped before the first step; there is nothing to keep"
    return run_interruptible(command, work, nothing)


def _train(args: argparse.Namespace) -> None:
    from dvfl_models.data.leaks import leak_in_words
    from dvfl_models.data.loader import default_workers
    from dvfl_models.recipe.recipe import read_recipe
    from dvfl_models.training.launch import TrainOptions
    from dvfl_models.training.trainer import Trainer

    recipe = read_recipe(args.recipe, args.set)
    folder = args.out or Path("runs") / recipe.name
    options = TrainOptions(args.resume, args.strict_split, args.cpu, args.tensorboard)
    trainer = Trainer(recipe, folder, options)
    try:
        workers = default_workers() if args.workers is None else args.workers
        confusions = trainer.run(workers=workers, progress=sys.stderr.isatty())
    except KeyboardInterrupt:
        trainer.accelerator.end_training()
        raise
    trainer.accelerator.end_training()  # leaves the group of processes, if there is one
    if not trainer.main:
        return
    leaks = [leak.report() for leak in trainer.leaks]
    for name, confusion in confusions.items():
        low, high = confusion.report()["top1"]["ci95"]
        print(
            f"{name}: {confusion.accuracy:.1%} of {confusion.clips} clips"
            f"{leak_in_words(leaks, name)} (95 % interval {low:.1%} to {high:.1%})"
        )
    print(f"wrote {folder / 'final.pth'}")


if __name__ == "__main__":
    sys.exit(main())
