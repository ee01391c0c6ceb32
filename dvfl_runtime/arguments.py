"""What the commands' parsers share: one-line errors and numbers with a range."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from typing import NoReturn

from dvfl_runtime.addresses import without_secrets


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line, without the usage."""

    def error(self, message: str) -> NoReturn:
        """Ends the process with status 2."""
        self.exit(2, f"{self.prog}: error: {without_secrets(message)}\n")


def whole(text: str, least: int = 1) -> int:
    """Reads a whole number >= 1, for argparse."""
    value = int(text) if text.isascii() and text.isdigit() else -1
    if value < least:
        raise argparse.ArgumentTypeError(f"must be a whole number >= {least}, got {text!r}")
    return value


def natural(text: str) -> int:
    """Reads a whole number >= 0, for argparse."""
    return whole(text, 0)


def at_least(least: float) -> Callable[[str], float]:
    """Returns what reads a finite number that is not smaller, for argparse."""

    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not least <= value < math.inf:
            raise argparse.ArgumentTypeError(f"must be a number >= {least:g}, got {text!r}")
        return value

    return read
