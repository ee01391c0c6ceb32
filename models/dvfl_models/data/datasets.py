"""Lists of labelled videos, in the formats that the published data sets come in.

- index: a CSV with a header, columns `file`, `label` and any others; or a folder without labels.
- list: lines `path,label` or `path label`; a label is a name or its number.
- folders: a folder with a folder of videos per class.
- ucf: UCF101's `trainlist01.txt` and `testlist01.txt`, lines `Class/v_Class_g01_c01.avi [number]`.
- hmdb: HMDB51's folder of `<class>_test_split<n>.txt`; videos are `<class>/<name>.avi`.
- kinetics: a CSV with `label`, `youtube_id`, `time_start` and `time_end`; videos are
  `<id>_<start>_<end>.mp4`, flat or in folders by label.
- ssv2: a JSON list with `id` and `template` or `label`; videos are `<id>.webm`.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import logging
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePath

from dvfl_models.recipe.parts import VideosPart
from dvfl_runtime.errors import RecipeError
from dvfl_runtime.files import read_text
from dvfl_runtime.sources.folders import is_video

log = logging.getLogger(__name__)

Row = dict[str, str]

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


def list_videos(part: VideosPart, labels: Sequence[str]) -> list[Entry]:
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
    rows: Iterable[Row], part: VideosPart, labels: Sequence[str]
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


def _existing(entries: list[Entry], part: VideosPart) -> list[Entry]:
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


def _root(part: VideosPart) -> Path:
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


def read_rows(part: VideosPart, labels: Sequence[str]) -> list[Row]:
    """The rows of a list, whatever its format: `file`, `label` and the columns that it has.

    Raises:
        RecipeError: if it cannot be read.
    """
    readers: dict[str, Callable[[], list[Row]]] = {
        "index": lambda: _index_rows(Path(part.index)),
        "list": lambda: _list_rows(Path(part.index), labels),
        "folders": lambda: _folder_rows(Path(part.index)),
        "ucf": lambda: _ucf_rows(Path(part.index)),
        "hmdb": lambda: _hmdb_rows(part),
        "kinetics": lambda: _kinetics_rows(Path(part.index)),
        "ssv2": lambda: _ssv2_rows(Path(part.index)),
    }
    try:
        return readers[part.format]()
    except OSError as err:
        raise RecipeError(
            f"data set {part.name!r}: cannot read {part.index}: {err.strerror}; "
            f"check the path (of a recipe: --set train.N.index=... or test.N.index=...)"
        ) from err
    except (KeyError, IndexError, ValueError, TypeError) as err:
        reason = f"{err} is missing" if isinstance(err, KeyError) else err
        raise RecipeError(
            f"data set {part.name!r}: {part.index} is not a list of format {part.format!r}: "
            f"{reason}"
        ) from err


def _index_rows(index: Path) -> list[Row]:
    if index.is_dir():
        names = sorted(path.name for path in index.iterdir() if is_video(path))
        return [{"file": name, "label": ""} for name in names]
    rows = list(csv.DictReader(io.StringIO(read_text(index))))
    if rows and not {"file", "label"} <= rows[0].keys():
        raise ValueError(f"its columns are {list(rows[0])}, file and label are needed")
    return rows


def _list_rows(index: Path, labels: Sequence[str]) -> list[Row]:
    def row(line: str) -> Row:
        path, label = line.rsplit("," if "," in line else None, 1)
        named = labels[int(label)] if label.strip().isdigit() else label.strip()
        return {"file": path.strip(), "label": named}

    return _rows_of(index, row, f"FILE LABEL, or FILE NUMBER up to {len(labels) - 1}")


def _rows_of(index: Path, row: Callable[[str], Row], form: str) -> list[Row]:
    """The rows of a text file, one a line; `form` says what a line has to be."""
    rows = []
    for number, line in enumerate(read_text(index).splitlines(), 1):
        try:
            rows += [row(line.strip())] if line.strip() else []
        except (IndexError, ValueError) as err:
            raise ValueError(f"line {number} of {index.name} is not {form}: {line[:80]!r}") from err
    return rows


def _folder_rows(index: Path) -> list[Row]:
    return [
        _with_ucf_group({"file": f"{folder.name}/{video.name}", "label": folder.name})
        for folder in sorted(p for p in index.iterdir() if p.is_dir() and p.name[0] != ".")
        for video in sorted(folder.iterdir())
        if is_video(video)
    ]


def _ucf_rows(index: Path) -> list[Row]:
    def row(line: str) -> Row:
        file = line.split(maxsplit=1)[0]
        return _with_ucf_group({"file": file, "label": file.split("/")[-2]})

    return _rows_of(index, row, "NAME/FILE NUMBER")


def _with_ucf_group(row: Row) -> Row:
    """Adds the column `group`, the number after _g, so that it can be filtered by."""
    found = re.search(r"_g(\d+)_c\d+", row["file"])
    return {**row, "group": found[1] if found else ""}


def _hmdb_rows(part: VideosPart) -> list[Row]:
    suffix, wanted = f"_test_split{part.split}.txt", {"train": "1", "test": "2"}[part.subset]
    lists = sorted(
        path
        for path in Path(part.index).iterdir()
        if path.name.endswith(suffix) and path.name[0] != "."
    )
    if not lists:
        raise ValueError(f"no *{suffix} in it")
    rows = []
    for path in lists:
        label = path.name.removesuffix(suffix)
        for row in _rows_of(path, partial(_hmdb_row, label), "FILE 0, FILE 1 or FILE 2"):
            if row.pop("subset") == wanted:
                rows.append(row)
    return rows


def _hmdb_row(label: str, line: str) -> Row:
    file, subset, *_ = line.split()
    return {"file": f"{label}/{file}", "label": label, "subset": subset}


def _kinetics_rows(index: Path) -> list[Row]:
    rows = []
    for line in csv.DictReader(io.StringIO(read_text(index))):
        start_s, end_s = int(float(line["time_start"])), int(float(line["time_end"]))
        name = f"{line['youtube_id']}_{start_s:06d}_{end_s:06d}.mp4"
        in_folder = f"{line['label']}/{name}"
        rows.append({"file": name, "label": line["label"], "in_folder": in_folder})
    return rows


def _ssv2_rows(index: Path) -> list[Row]:
    items = json.loads(read_text(index))
    return [{"file": f"{i['id']}.webm", "label": i.get("template") or i["label"]} for i in items]
