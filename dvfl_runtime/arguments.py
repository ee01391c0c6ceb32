"""Parts of every command: one-line errors, exit statuses and types of arguments."""

from __future__ import annotations

import argparse
import contextlib
import logging
import math
import os
import re
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from dvfl_runtime.errors import DvflError
from dvfl_runtime.errors.addresses import printable, without_secrets
from dvfl_runtime.errors.checks import MAX_THREADS
from dvfl_runtime.errors.outputs import DISK_ERRORS, cannot_write
from dvfl_runtime.errors.packages import import_problem
from dvfl_runtime.interrupts import Interrupted, Requests, interruptible

BAD_INPUT = 2  # exit status
SIGNALLED = 128  # plus the signal's number, as shells report it


class Parser(argparse.ArgumentParser):
    """The parser of a command, whose errors are one line, without the usage.

    Attributes:
        packages: all that the command needs, by the names that Python imports.
    """

    packages: tuple[str, ...] = ()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        open_missing_streams()  # before anything is written to them
        super().__init__(*args, **kwargs)
        self.register("type", Path, _path)

    def error(self, message: str) -> NoReturn:
        """End the process with status 2."""
        self.exit(BAD_INPUT, f"{self.prog}: error: {printable(without_secrets(message))}\n")

    def fail(self, err: Exception) -> int:
        """Write one line about an error to standard error and return the exit status."""
        message = str(err)
        if isinstance(err, ImportError):
            if (err.name or "").startswith("dvfl_"):  # a bug in this package
                raise err
            message = import_problem(err, self.prog, *self.packages)
        message = self.in_options(" ".join(message.split()))
        say(f"{self.prog}: error: {printable(message)}\n")
        return BAD_INPUT

    def in_options(self, message: str) -> str:
        """Return a message of the API with this command's options in place of arguments.

        `pass engine='x'` becomes `pass --engine x`, and `hop_s must be` becomes `--hop-s must be`.
        A last way out, as in `..., or pass fps=F`, is left out where the command has no such
        option. All other arguments without an option of that name stay unchanged.
        """
        for action in self._actions:
            if action.option_strings and action.nargs != 0:
                option, name = action.option_strings[-1], re.escape(action.dest)
                message = re.sub(rf"^{name}(?= must be )", option, message)
                message = re.sub(rf"^{name}\['(.+?)'\](?= must be )", rf"{option} \1", message)
                message = re.sub(rf"(?<![^\s(]){name}=('?)([\w.+-]+)\1", rf"{option} \2", message)
        return re.sub(r",? or pass [a-z_]+=('?)[\w.+-]+\1$", "", message)


def run_command(parser: Parser, work: Callable[[Requests], int]) -> int:
    """Run the work of a command and return its exit status.

    An error is one line on standard error, with the command's options in place of arguments, and
    status 2. After a request to end (Ctrl-C, SIGTERM, SIGHUP) the status is 128 plus the signal's
    number, also if the work was already at its end.
    """
    log_lines(parser)
    try:
        with interruptible() as requests:
            status = work(requests)
        return status if requests.number is None else SIGNALLED + requests.number
    except (DvflError, ImportError) as err:
        return parser.fail(err)
    except OSError as err:
        if err.errno not in DISK_ERRORS:
            raise
        what = os.fsdecode(err.filename) if err.filename else "a file"
        return parser.fail(cannot_write(what, err))
    except Interrupted as request:
        return SIGNALLED + request.number


def say(text: str) -> None:
    """Write to standard error; once nobody can read it any more, send everything to /dev/null."""
    try:
        sys.stderr.write(text)
        sys.stderr.flush()
    except OSError:  # libraries, and Python at its end, write there too
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())


def log_lines(parser: Parser) -> None:
    """Write each logged message as a line to standard error, with options in place of arguments.

    The level is left out of messages up to INFO. A log that is set up already stays unchanged.
    """

    class Lines(logging.Formatter):
        def format(self, record: logging.LogRecord) -> str:
            level = f"{record.levelname}: " if record.levelno > logging.INFO else ""
            return f"{parser.prog}: {level}{parser.in_options(super().format(record))}"

    handler = logging.StreamHandler()
    handler.setFormatter(Lines())
    logging.basicConfig(handlers=[handler])


def open_missing_streams() -> None:
    """Open the null device in place of the standard streams that were closed at the start.

    Otherwise the next file that is opened would get their number, and the output of libraries.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "r+", encoding="utf-8"))  # noqa: SIM115


def _path(text: str) -> Path:
    """Read a path, for argparse; refuse an empty text, which would be the current folder."""
    if not text:
        raise argparse.ArgumentTypeError("is empty; give a path")
    if "://" in text:
        raise argparse.ArgumentTypeError(f"must be a path on a disk, not an address, got {text!r}")
    return Path(text)


def whole(text: str, *, least: int = 1, most: int = sys.maxsize) -> int:
    """Read a whole number from `least` to `most`, for argparse."""
    value = int(text) if re.fullmatch(r"[0-9]{1,99}", text) else -1
    if not least <= value <= most:
        limits = f"from {least} to {most}" if value > most or most < sys.maxsize else f">= {least}"
        raise argparse.ArgumentTypeError(f"must be a whole number {limits}, got {text!r}")
    return value


natural = partial(whole, least=0)
threads = partial(whole, most=MAX_THREADS)
workers = partial(whole, least=0, most=MAX_THREADS)  # further processes


def at_least(least: float) -> Callable[[str], float]:
    """Return a type for argparse that reads a finite number >= `least`."""

    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not least <= value < math.inf:
            raise argparse.ArgumentTypeError(f"must be a number >= {least:g}, got {text!r}")
        return value

    return read
