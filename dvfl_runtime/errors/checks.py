"""Checks of the arguments of the API; each error names the argument and the value it got."""

from __future__ import annotations

import math
import sys
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from numbers import Integral, Real
from reprlib import repr as shortened

from dvfl_runtime.errors import ArgumentError
from dvfl_runtime.errors.addresses import UNPRINTABLE, without_secrets

LARGEST = sys.float_info.max
MAX_THREADS = 1024  # libraries start as many as they are told to, and then fail or crash


def check_whole(name: str, value: object, least: int = 1, most: float = math.inf) -> None:
    """Raise ArgumentError unless `value` is a whole number from `least` to `most`."""
    whole = isinstance(value, Integral) and not isinstance(value, bool)
    if not (whole and least <= value <= most):  # type: ignore[operator]
        limits = f"from {least} to {most}" if most < math.inf else f">= {least}"
        raise wrong(name, f"a whole number {limits}", value)


def check_number(
    name: str,
    value: object,
    *,
    above: float = -math.inf,
    least: float = -LARGEST,
    most: float = LARGEST,
) -> None:
    """Raise ArgumentError unless `value` is finite, > `above`, and from `least` to `most`."""
    number = math.nan  # outside of every range
    if isinstance(value, Real) and not isinstance(value, bool):
        with suppress(OverflowError):
            number = float(value)
    if above < number and least <= number <= most:
        return
    limits = [(">", above), (">=", least), ("<=", most)]
    wanted = " and ".join(f"{sign} {limit:g}" for sign, limit in limits if abs(limit) < LARGEST)
    raise wrong(name, f"a finite number {wanted}".rstrip(), value)


def check_choice(name: str, value: object, choices: Iterable[object]) -> None:
    """Raise ArgumentError unless `value` is one of the choices."""
    known = list(choices)
    if not any(isinstance(value, type(choice)) and value == choice for choice in known):
        raise wrong(name, f"one of {', '.join(map(repr, known))}", value)


def check_type(name: str, value: object, kind: type | tuple[type, ...], wanted: str) -> None:
    """Raise ArgumentError unless `value` is of type `kind`, which the error calls `wanted`."""
    if not isinstance(value, kind):
        raise wrong(name, wanted, value)


def check_line(name: str, text: object) -> None:
    """Raise ArgumentError unless `text` is a string that can be shown within one line."""
    if not isinstance(text, str) or UNPRINTABLE.search(text):
        raise wrong(name, "a string of one line without control characters", text)


def check_labels(labels: object) -> None:
    """Raise ArgumentError unless `labels` is a list of distinct names of classes."""
    if not isinstance(labels, tuple | list) or not labels:
        raise wrong("labels", "a list of one or more names", labels)
    for number, label in enumerate(labels):
        check_line(f"labels[{number}]", label)
        if not label.strip():
            raise wrong(f"labels[{number}]", "a name", label)
    label, times = Counter(labels).most_common(1)[0]
    if times > 1:
        raise wrong("labels", "distinct", [label] * times)


def wrong(name: str, wanted: str, value: object) -> ArgumentError:
    """Return the error that tells what an argument must be, and what it is."""
    try:
        got = without_secrets(shortened(value))
    except Exception:  # the `__repr__` of a user's object may raise anything
        got = f"a {type(value).__name__}"
    return ArgumentError(f"{name} must be {wanted}, got {got}")
