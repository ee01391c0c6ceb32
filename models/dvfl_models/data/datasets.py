"""The labelled videos of a data set: found in its list, filtered, and grouped by their source."""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

from dvfl_models.data.list_formats import Row, read_rows
from dvfl_models.recipe.tables import VideosTable
from dvfl_runtime.errors import RecipeError

log = logging.getLogger(__name__)

UNLABELLED = -1  # class of a video whose label is not known
GROUP_COLUMNS = ("sequence", "person", "cluster")
_UCF = re.compile(r"v_(\w+?_g\d+)_c\d+$")
# source and action, then: body table, camera motion, people, direction, quality, number
_HMDB = re.compile(r"(.+)_[hulf]_(?:cm|nm)_np\d_(?:fr|ba|le|ri)_(?:bad|med|goo)_\d+$")


@dataclass(frozen=True)
class Entry:
    """One labelled video.

    Attributes:
        path: the file.
        class_id: its class, or UNLABELLED.
        group: the same for all videos of one source; "" if the source is not known.
    """

    path: str
    class_id: int
    group: str = ""


def list_videos(table: VideosTable, labels: Sequence[str]) -> list[Entry]:
    """Return the videos that pass the filters of a table and whose label is one of `labels`.

    Raises:
        RecipeError: if the list cannot be read, nothing passes the filters, or files are missing.
    """
    rows, root = read_rows(table, labels), _root(table)
    for column in (*table.only, *table.exclude, *filter(None, [table.group])):
        if rows and column not in rows[0]:
            raise RecipeError(
                f"data set {table.name!r}: no column {column!r} in {table.index}; "
                f"it has {list(rows[0])}"
            )
    labelled = list(_labelled(rows, table, labels))
    known = {row["label"] for row, _ in labelled}
    others = [row["label"] for row in rows if row["label"] not in known]
    if others and not table.rename:  # otherwise nobody would notice a misspelt folder
        log.info(
            "data set %r: %d of %d videos are left out, they have other labels: %s",
            *(table.name, len(others), len(rows), _shown(sorted(set(others)))),
        )
    entries = [
        Entry(_located(root, row), class_id, group_of(row, table.group, str(root)))
        for row, class_id in labelled
        if all(row[column] in values for column, values in table.only.items())
        and not any(row[column] in values for column, values in table.exclude.items())
    ]
    if not entries:
        if not rows:
            problem = f"there is no video in {table.index}"
            if table.format == "folders":
                problem += "; it needs a folder of videos for each label"
            raise RecipeError(f"data set {table.name!r}: {problem}")
        problem = f"no video of {table.index} has a label of {_shown(labels)}"
        if labelled:
            columns = (*table.only, *table.exclude)
            has = [f"{c} has {_shown(sorted({row[c] for row, _ in labelled}))}" for c in columns]
            problem += f" and passes its filters: {', '.join(has)}"
        else:
            problem += f"; theirs are {_shown(sorted(set(others)))}"
        raise RecipeError(f"data set {table.name!r}: {problem}")
    return _existing(entries, table)


def group_of(row: Mapping[str, str], column: str, root: str) -> str:
    """Return a name for the source of a video, or "" if it is not known.

    Args:
        row: of the list: `file` and any columns.
        column: the one that names the source. With "" it is `sequence`, `person` or `cluster`, or
            else a part of the file's name as UCF (v_Action_g01_c01) and HMDB
            (source_action_f_nm_np1_fr_goo_0) write it.
        root: folder of the data set; a column has its own values in each of them.
    """
    names = [column] if column else [name for name in GROUP_COLUMNS if name in row]
    if names:
        return f"{root}: {names[0]} {row[names[0]]}"
    stem = PurePath(row["file"]).stem
    for pattern in (_UCF, _HMDB):
        if found := pattern.match(stem):
            return found[1]
    return ""


def fingerprint(entries: Iterable[Entry]) -> str:
    """Return the SHA-256 of names, sizes and classes, to notice that videos have changed."""
    digest = hashlib.sha256()
    for entry in entries:
        path = Path(entry.path)
        size = path.stat().st_size if path.is_file() else -1
        digest.update(f"{path.parent.name}/{path.name} {size} {entry.class_id}\n".encode())
    return digest.hexdigest()


def _labelled(
    rows: Iterable[Row], table: VideosTable, labels: Sequence[str]
) -> Iterable[tuple[Row, int]]:
    """Yield the rows whose label, after `rename`, is one of `labels`, and its number.

    All rows of a table without labels are yielded.

    Published lists spell names in several ways (HandStandPushups, brush_hair, [something]), so
    labels are compared by their words, without case and punctuation; those of an index exactly.
    """
    if not table.labelled:
        yield from ((row, UNLABELLED) for row in rows)
        return
    spell: Callable[[str], str] = str if table.format == "index" else _words
    numbers = {spell(label): number for number, label in enumerate(labels)}
    for row in rows:
        name = table.rename.get(row["label"], row["label"] if not table.rename else "")
        if (class_id := numbers.get(spell(name))) is not None:
            yield row, class_id


def _words(name: str) -> str:
    return " ".join(re.findall(r"[0-9a-z]+", name.lower()))


def _existing(entries: list[Entry], table: VideosTable) -> list[Entry]:
    """Return the entries whose file exists; only of Kinetics may some be missing."""
    existing = [entry for entry in entries if Path(entry.path).is_file()]
    if len(existing) == len(entries):
        return entries
    first = next(entry.path for entry in entries if not Path(entry.path).is_file())
    counts = f"{len(entries) - len(existing)} of {len(entries)}"
    if table.format == "kinetics" and existing:  # videos disappear from YouTube: nobody has all
        log.warning(
            "data set %r: %s listed videos are not there and are left out, the first is %s",
            *(table.name, counts, first),
        )
        return existing
    raise RecipeError(
        f"data set {table.name!r}: {counts} files listed in {table.index} do not exist, the first "
        f"is {first}; put the videos beside the list, or set root"
    )


def _root(table: VideosTable) -> Path:
    if table.root:
        return Path(table.root)
    index = Path(table.index)
    return index if index.is_dir() else index.parent


def _located(root: Path, row: Row) -> str:
    """Return the path of a row's video, in one or the other place that it may have."""
    if "elsewhere" in row and not (root / row["file"]).is_file():
        return str(root / row["elsewhere"])
    return str(root / row["file"])


def _shown(labels: Sequence[str]) -> str:
    return str(list(labels)) if len(labels) <= 10 else f"{list(labels[:10])} and more"
