"""Options, progress lines, error lines and exit statuses that the commands of the studies share."""

from __future__ import annotations

import logging
from collections.abc import Callable

from dvfl_runtime.arguments import BAD_INPUT, Parser, natural
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
