"""Videos of one source on both sides of a split: what makes a result look better than it is."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from dvfl_runtime.errors import RecipeError

if TYPE_CHECKING:
    from dvfl_models.data.datasets import Entry

log = logging.getLogger(__name__)

GROUP_COLUMNS = ("sequence", "person", "cluster")
_UCF = re.compile(r"v_(\w+?_g\d+)_c\d+$")
# source and action, then: body part, camera motion, people, direction, quality, number
_HMDB = re.compile(r"(.+)_[hulf]_(?:cm|nm)_np\d_(?:fr|ba|le|ri)_(?:bad|med|goo)_\d+$")


def group_of(row: Mapping[str, str], column: str, root: str) -> str:
    """What a video has in common with others of its source; "" if nothing tells.

    Args:
        row: of the list: `file` and any columns.
        column: the one that names the source; "" looks for `sequence`, `person` or `cluster`, then
            at the names that UCF (v_Action_g01_c01) and HMDB (source_action_f_nm_np1_fr_goo_0) use.
        root: the data set; a column's values mean something within it only.
    """
    names = [column] if column else [name for name in GROUP_COLUMNS if name in row]
    if names:
        return f"{root}: {names[0]} {row[names[0]]}"
    stem = PurePath(row["file"]).stem
    for pattern in (_UCF, _HMDB):
        if found := pattern.match(stem):
            return found[1]
    return ""


@dataclass(frozen=True)
class Leak:
    """How many videos of a test set have a relative in training.

    Attributes:
        test: name of the test set.
        videos: how many it has.
        leaked: how many share their group, or are the very file, with a training video.
        unknown: how many have a name and columns that tell no group.
        groups: the groups on both sides, sorted.
    """

    test: str
    videos: int
    leaked: int
    unknown: int
    groups: tuple[str, ...]

    def report(self) -> dict[str, Any]:
        """Ready for JSON, with the first ten groups."""
        names = ("test", "videos", "leaked", "unknown")
        return {name: getattr(self, name) for name in names} | {"groups": list(self.groups[:10])}


def find_leak(train: Iterable[Entry], test: Iterable[Entry], name: str) -> Leak:
    """Compares the groups and the files of both sides."""
    train, test = list(train), list(test)
    groups = {entry.group for entry in train} - {""}
    paths = {entry.path for entry in train}
    leaked = [entry for entry in test if entry.group in groups or entry.path in paths]
    shared = {entry.group or entry.path for entry in leaked}
    unknown = sum(not entry.group for entry in test)
    return Leak(name, len(test), len(leaked), unknown, tuple(sorted(shared)))


def check_leaks(leaks: Iterable[Leak], *, strict: bool) -> None:
    """Warns of each leak.

    Raises:
        RecipeError: with `strict`, at the first leak.
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
        log.warning("%s; its accuracy is too high by what that gives away", message)
