"""The common part of dvfl-train, dvfl-export and dvfl-eval: options, threads, interrupts.

Nothing here loads PyTorch before a command line has been read.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable

from dvfl_models.recipe.bundled import recipe_names
from dvfl_runtime.arguments import Parser, run_command, say, threads
from dvfl_runtime.errors.packages import MEDIA, check_installed
from dvfl_runtime.interrupts import Requests
from dvfl_runtime.version import __version__

# the command looks for all of them first, so that none is missing after hours of training
PACKAGES = ("torch", "accelerate", "kornia", "pydantic", "tqdm", "matplotlib", *MEDIA)


def new_parser(prog: str, description: str, epilog: str) -> Parser:
    """Return the parser of a command that needs the packages of training, with `--version`."""
    parser = Parser(
        prog=prog,
        description=description,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.packages = PACKAGES
    parser.add_argument("--version", action="version", version=f"dvfl {__version__}")
    return parser


def new_recipe_parser(prog: str, description: str, epilog: str) -> Parser:
    """Return the parser of a command that reads recipes, with `--set` and `--threads` too."""
    epilog += f"\nbundled recipes: {', '.join(recipe_names())}"
    parser = new_parser(prog, description, epilog)
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="change a recipe's value"
    )
    parser.add_argument("--threads", type=threads, help="threads of PyTorch (default: its own)")
    return parser


def run_interruptible(parser: Parser, work: Callable[[], int], stopped: str) -> int:
    """Run a command of PyTorch, whose threads wait passively, and return its exit status.

    After an interrupt it prints where it stopped.

    Args:
        parser: of the command.
        work: returns the exit status.
        stopped: the line to print if the interrupt does not carry one of its own.
    """
    wait_passively()

    def with_last_words(requests: Requests) -> int:
        try:
            return work()
        except KeyboardInterrupt as err:
            requests.hold()
            if words := getattr(err, "words", stopped):
                say(f"{parser.prog}: {words}\n")
            raise

    return run_command(parser, with_last_words)


def wait_passively() -> None:
    """Let threads of PyTorch that wait for each other give the core away, unless the user decides.

    By default they spin, which on a busy machine costs most of the time. OpenMP reads the variable
    once, when PyTorch is loaded.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")


def load_torch(parser: Parser, num_threads: int | None) -> None:
    """Load PyTorch, which takes seconds, and limit its threads.

    Raises:
        DvflError: if a package that the command needs is not installed.
    """
    check_installed(parser.prog, *parser.packages)
    import torch

    if num_threads:
        torch.set_num_threads(num_threads)
