"""Videos of one source in training and in a test: they make a result look better than it is."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from dvfl_models.data.datasets import GROUP_COLUMNS, Entry
from dvfl_runtime.errors import RecipeError

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Leak:
    """How many videos of a test set share their source with training.

    Attributes:
        test: name of the test set.
        videos: number of its videos.
        leaked: number of those that are also in training, or share their group with a video there.
        unknown: number of those whose group is not known.
        groups: the groups on both sides, sorted.
    """

    test: str
    videos: int
    leaked: int
    unknown: int
    groups: tuple[str, ...]

    def report(self) -> dict[str, Any]:
        """Return the numbers and the first ten groups, ready for JSON."""
        return dataclasses.asdict(self) | {"groups": list(self.groups[:10])}


def find_leak(train: Sequence[Entry], test: Sequence[Entry], name: str) -> Leak:
    """Compare the groups and the files of training with those of the test set `name`."""
    groups = {entry.group for entry in train} - {""}
    paths = {entry.path for entry in train}
    leaked = [entry for entry in test if entry.group in groups or entry.path in paths]
    shared = {entry.group or entry.path for entry in leaked}
    unknown = sum(not entry.group for entry in test)
    return Leak(name, len(test), len(leaked), unknown, tuple(sorted(shared)))


def leaked_videos(reports: Iterable[Mapping[str, Any]], test: str) -> int:
    """Return how many videos of a test set leak, by the reports of a run."""
    return sum(report["leaked"] for report in reports if report["test"] == test)


def leak_in_words(reports: Iterable[Mapping[str, Any]], test: str) -> str:
    """Return the words after the number of clips on a test set that leaks, or else ""."""
    leaked = leaked_videos(reports, test)
    return f", {leaked} of them share their source with training" if leaked else ""


def check_leaks(leaks: Iterable[Leak], *, strict: bool) -> None:
    """Warn of each leak.

    Raises:
        RecipeError: at the first leak, if `strict`.
    """
    for leak in leaks:
        if leak.unknown:
            log.info(
                "test set %r: nothing says which recording %d of its %d videos are from, so it is "
                "not checked whether training sees the same people and places; add a column %s to "
                "its index, or name another column with group",
                *(leak.test, leak.unknown, leak.videos, " or ".join(GROUP_COLUMNS)),
            )
        if not leak.leaked:
            continue
        message = (
            f"test set {leak.test!r}: {leak.leaked} of {leak.videos} videos share their source "
            f"with training videos ({len(leak.groups)} sources, the first is {leak.groups[0]})"
        )
        if strict:
            raise RecipeError(f"{message}; split by source, or leave out --strict-split")
        log.warning("%s; its accuracy is too high for that reason", message)
