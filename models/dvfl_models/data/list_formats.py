"""The formats that lists of labelled videos come in.

- index: a CSV with a header, columns `file`, `label` and any others; or a folder without labels.
- list: lines `path,label` or `path label`; a label is a name or its number. A video that is not
  there is looked for without the first folder of its path.
- paths: the same lines, but the label is the folder of the video, whatever the line says.
- folders: a folder with a folder of videos per class.
- ucf: UCF101's `trainlist01.txt` and `testlist01.txt`, lines `Class/v_Class_g01_c01.avi [number]`.
- hmdb: HMDB51's folder of `<class>_test_split<n>.txt`; videos are `<class>/<name>.avi`.
- kinetics: a CSV with `label`, `youtube_id`, `time_start` and `time_end`; videos are
  `<id>_<start>_<end>.mp4`, flat or in folders by label.
- ssv2: a JSON list with `id` and `template` or `label`; videos are `<id>.webm`.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from dvfl_models.recipe.tables import VideosTable
from dvfl_runtime.errors import RecipeError
from dvfl_runtime.files import read_text
from dvfl_runtime.sources.folders import is_video

Row = dict[str, str]


def read_rows(table: VideosTable, labels: Sequence[str]) -> list[Row]:
    """Return the rows of a list of any format: `file`, `label` and the columns that it has.

    `elsewhere` is where other copies of the data set have the file.

    Raises:
        RecipeError: if it cannot be read.
    """
    readers: dict[str, Callable[[], list[Row]]] = {
        "index": lambda: _index_rows(Path(table.index), labelled=table.labelled),
        "list": lambda: _list_rows(Path(table.index), labels),
        "paths": lambda: _path_rows(Path(table.index)),
        "folders": lambda: _folder_rows(Path(table.index)),
        "ucf": lambda: _ucf_rows(Path(table.index)),
        "hmdb": lambda: _hmdb_rows(table),
        "kinetics": lambda: _kinetics_rows(Path(table.index)),
        "ssv2": lambda: _ssv2_rows(Path(table.index)),
    }
    try:
        return readers[table.format]()
    except OSError as err:
        raise RecipeError(
            f"data set {table.name!r}: cannot read {table.index}: {err.strerror}; "
            f"check the path (of a recipe: --set train.N.index=... or test.N.index=...)"
        ) from err
    except (KeyError, IndexError, ValueError, TypeError) as err:
        reason = f"{err} is missing" if isinstance(err, KeyError) else err
        raise RecipeError(
            f"data set {table.name!r}: {table.index} is not a list of format {table.format!r}: "
            f"{reason}"
        ) from err


def _index_rows(index: Path, *, labelled: bool) -> list[Row]:
    if index.is_dir():
        names = sorted(path.name for path in index.iterdir() if is_video(path))
        return [{"file": name, "label": ""} for name in names]
    rows = list(csv.DictReader(io.StringIO(read_text(index))))
    needed = ["file", "label"] if labelled else ["file"]
    if rows and not {*needed} <= rows[0].keys():
        raise ValueError(
            f"its columns are {list(rows[0])}, {' and '.join(needed)} "
            f"{'are' if labelled else 'is'} needed"
        )
    return [{"label": "", **row} for row in rows]


def _list_rows(index: Path, labels: Sequence[str]) -> list[Row]:
    def row(line: str) -> Row:
        path, label = _path_and_label(line)
        return _listed(path, labels[int(label)] if label.isdigit() else label)

    return _rows_of(index, row, f"FILE LABEL, or FILE NUMBER up to {len(labels) - 1}")


def _path_rows(index: Path) -> list[Row]:
    def row(line: str) -> Row:
        path, _ = _path_and_label(line)
        return _listed(path, path.split("/")[-2])

    return _rows_of(index, row, "FOLDER/FILE LABEL")


def _path_and_label(line: str) -> list[str]:
    path, label = line.rsplit("," if "," in line else None, 1)
    return [path.strip(), label.strip()]


def _listed(path: str, label: str) -> Row:
    # the authors of DVFL-Net list train/Class/video.avi, official copies have Class/video.avi
    return {"file": path, "label": label, "elsewhere": path.partition("/")[2] or path}


def _rows_of(index: Path, row: Callable[[str], Row], form: str) -> list[Row]:
    """Return the rows of a text file with one a line; `form` describes a line in the error."""
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
    """Add the column `group`, the number after _g in the name, for filters."""
    found = re.search(r"_g(\d+)_c\d+", row["file"])
    return {**row, "group": found[1] if found else ""}


def _hmdb_rows(table: VideosTable) -> list[Row]:
    suffix, wanted = f"_test_split{table.split}.txt", {"train": "1", "test": "2"}[table.subset]
    lists = sorted(
        path
        for path in Path(table.index).iterdir()
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
        rows.append({"file": name, "label": line["label"], "elsewhere": in_folder})
    return rows


def _ssv2_rows(index: Path) -> list[Row]:
    items = json.loads(read_text(index))
    return [{"file": f"{i['id']}.webm", "label": i.get("template") or i["label"]} for i in items]
