"""The labelled videos of a data set: listed, filtered, told apart by their source."""

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

GROUP_COLUMNS = ("sequence", "person", "cluster")
_UCF = re.compile(r"v_(\w+?_g\d+)_c\d+$")
# source and action, then: body part, camera motion, people, direction, quality, number
_HMDB = re.compile(r"(.+)_[hulf]_(?:cm|nm)_np\d_(?:fr|ba|le|ri)_(?:bad|med|goo)_\d+$")


@dataclass(frozen=True)
class Entry:
    """One labelled video.

    Attributes:
        path: the file.
        class_id: its class.
        group: what it shares with videos of the same source; "" if nothing tells.
    """

    path: str
    class_id: int
    group: str = ""


def list_videos(part: VideosTable, labels: Sequence[str]) -> list[Entry]:
    """The videos of a data set that its filters keep and whose label is one of `labels`.

    Raises:
        RecipeError: if the list cannot be read, nothing passes the filters, or files are missing.
    """
    rows, root = read_rows(part, labels), _root(part)
    for column in (*part.only, *part.exclude, *filter(None, [part.group])):
        if rows and column not in rows[0]:
            raise RecipeError(
                f"data set {part.name!r}: no column {column!r} in {part.index}; "
                f"it has {list(rows[0])}"
            )
    labelled = list(_labelled(rows, part, labels))
    known = {row["label"] for row, _ in labelled}
    others = [row["label"] for row in rows if row["label"] not in known]
    if others and not part.rename:  # a misspelt folder would be missed without a word
        log.info(
            "data set %r: %d of %d videos are left out, they have other labels: %s",
            *(part.name, len(others), len(rows), _shown(sorted(set(others)))),
        )
    entries = [
        Entry(_located(root, row), class_id, group_of(row, part.group, str(root)))
        for row, class_id in labelled
        if all(row[column] in values for column, values in part.only.items())
        and not any(row[column] in values for column, values in part.exclude.items())
    ]
    if not entries:
        if not rows:
            wanted = (
                "; it needs a folder of videos for each label" if part.format == "folders" else ""
            )
            raise RecipeError(f"data set {part.name!r}: there is no video in {part.index}{wanted}")
        problem = f"no video of {part.index} has a label of {_shown(labels)}"
        if labelled:
            columns = (*part.only, *part.exclude)
            has = [f"{c} has {_shown(sorted({row[c] for row, _ in labelled}))}" for c in columns]
            problem += f" and passes its filters: {', '.join(has)}"
        else:
            problem += f"; theirs are {_shown(sorted(set(others)))}"
        raise RecipeError(f"data set {part.name!r}: {problem}")
    return _existing(entries, part)


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


def fingerprint(entries: Iterable[Entry]) -> str:
    """SHA-256 of names, sizes and classes: changes when videos come, go or are replaced."""
    digest = hashlib.sha256()
    for entry in entries:
        path = Path(entry.path)
        size = path.stat().st_size if path.is_file() else -1
        digest.update(f"{path.parent.name}/{path.name} {size} {entry.class_id}\n".encode())
    return digest.hexdigest()


def _labelled(
    rows: Iterable[Row], part: VideosTable, labels: Sequence[str]
) -> Iterable[tuple[Row, int]]:
    """Rows whose label, renamed, is one of `labels`, with its number.

    Published lists spell names in several ways (HandStandPushups, brush_hair, [something]): apart
    from an index of one's own they are compared by words, without case and punctuation.
    """
    spell: Callable[[str], str] = str if part.format == "index" else _words
    numbers = {spell(label): number for number, label in enumerate(labels)}
    for row in rows:
        name = part.rename.get(row["label"], row["label"] if not part.rename else "")
        if (class_id := numbers.get(spell(name))) is not None:
            yield row, class_id


def _words(name: str) -> str:
    return " ".join(re.findall(r"[0-9a-z]+", name.lower()))


def _existing(entries: list[Entry], part: VideosTable) -> list[Entry]:
    there = [entry for entry in entries if Path(entry.path).is_file()]
    missing = len(entries) - len(there)
    if not missing:
        return entries
    first = next(entry.path for entry in entries if not Path(entry.path).is_file())
    if part.format == "kinetics" and there:  # links die: nobody has all of it
        log.warning(
            "data set %r: %d of %d listed videos are not there and are left out, the first is %s",
            *(part.name, missing, len(entries), first),
        )
        return there
    raise RecipeError(
        f"data set {part.name!r}: {missing} of {len(entries)} files listed in {part.index} do not "
        f"exist, the first is {first}; put the videos beside the list, or set root"
    )


def _root(part: VideosTable) -> Path:
    if part.root:
        return Path(part.root)
    index = Path(part.index)
    return index if index.is_dir() else index.parent


def _located(root: Path, row: Row) -> str:
    """The path of a row's video; Kinetics lies flat or in folders by class."""
    if "in_folder" in row and not (root / row["file"]).is_file():
        return str(root / row["in_folder"])
    return str(root / row["file"])


def _shown(labels: Sequence[str]) -> str:
    return str(list(labels)) if len(labels) <= 10 else f"{list(labels[:10])} and more"
