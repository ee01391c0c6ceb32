"""Options, progress lines, error lines and exit statuses that the commands of the studies share."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable, Sequence
from pathlib import Path

from dvfl_models.network.config import VARIANTS
from dvfl_runtime.arguments import BAD_INPUT, Parser, natural, whole
from dvfl_runtime.errors import DvflError

log = logging.getLogger(__name__)


def add_fold_options(parser: Parser) -> None:
    """Add the options for a recipe and for how one of its data sets is divided into folds."""
    parser.add_argument("recipe")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--set-name", required=True, help="name of a `videos` table of the recipe")
    parser.add_argument("--group", required=True, help="column of its index to leave out by")
    parser.add_argument("--folds", type=natural, default=0, help="parts to deal the groups out to")


def add_row_options(parser: Parser, row: str = "") -> None:
    """Add the options that name the place of a result in models/RESULTS.md."""
    parser.add_argument("--table", default="", help="of models/RESULTS.md that the result is for")
    parser.add_argument("--row", default=row, help="name of the result there")


def parse_variants(parser: Parser, argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line of a study that measures variants; set PyTorch's threads.

    Args:
        parser: with the study's own options.
        argv: its arguments; those of the process by default.

    Returns:
        The arguments, `variants`, `rounds` and `json` among them.
    """
    parser.add_argument("variants", nargs="+", choices=list(VARIANTS))
    parser.add_argument("--rounds", type=whole, default=10)
    parser.add_argument("--threads", type=whole)
    parser.add_argument("--json", type=Path, required=True)
    args = parser.parse_args(argv)
    if args.threads:
        import torch

        torch.set_num_threads(args.threads)
    return args


def run_study(name: str, study: Callable[[], None]) -> int:
    """Run a study, whose progress and errors are lines that begin with its name.

    Returns:
        The exit status: 0, or 2 after an error in the input or the output.
    """
    logging.basicConfig(level=logging.INFO, format=f"{name}: %(message)s")
    try:
        study()
    except (DvflError, OSError) as err:
        log.error("error: %s", err)
        return BAD_INPUT
    return 0
