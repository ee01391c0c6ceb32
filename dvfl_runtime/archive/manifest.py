"""What is to be recognised: a folder of videos, a list of paths, or a table with them."""

from __future__ import annotations

import csv
import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.csv as pv
import pyarrow.parquet as pq

from dvfl_runtime.archive.tables import RESULT
from dvfl_runtime.errors import ArgumentError, SourceError
from dvfl_runtime.errors.addresses import printable
from dvfl_runtime.sources.folders import is_video, videos_below

PATH, ID, RAW = "path", "id", "raw"
ID_BYTES = 16
CARRIED = "listed_"  # in front of a carried column whose name is one of ours


@dataclass(frozen=True)
class Manifest:
    """The videos of a list, each once.

    Attributes:
        table: `id`, `path`, `raw` (the bytes of a path that is not text), and the other columns of
            the list.
        root: the folder that relative paths are in.
        relative: whether there are any.
    """

    table: pa.Table
    root: str
    relative: bool


def read_manifest(source: Path) -> Manifest:
    """Read a list of videos.

    Args:
        source: a folder, whose videos are found below it; a video; a .csv or .parquet file with a
            column `path`; or a text file with a path on each line.

    Raises:
        SourceError: if it is missing or cannot be read, or is a folder without videos.
        ArgumentError: if it is not such a table.
    """
    name = printable(str(source))
    root = source.parent
    try:
        if source.is_dir():
            root = source
            table = _of_paths([str(path.relative_to(source)) for path in videos_below(source)])
        elif is_video(source):
            source.stat()
            table = _of_paths([source.name])
        elif source.suffix.lower() == ".parquet":
            table = pq.read_table(source)
        elif source.suffix.lower() == ".csv":
            table = _read_csv(source)
        else:
            table = _of_paths(_read_lines(source))
    except OSError as err:
        reason = err.strerror or " ".join(str(err).split())
        raise SourceError(f"cannot read the list {name}: {reason}; check the path") from err
    except (pa.ArrowException, UnicodeDecodeError) as err:
        raise ArgumentError(
            f"cannot read the list {name}: {' '.join(str(err).split())}; it must be a table in "
            f"{source.suffix[1:].upper()}"
        ) from err
    if not table.num_rows:
        what = "holds no videos" if source.is_dir() else "lists no videos"
        raise SourceError(f"{name} {what}; pass a folder of videos or a list of their paths")
    return _manifest(table, name, root)


def id_of(path: str) -> str:
    """Return the id of a video: a hash of its path as it is listed."""
    return hashlib.blake2b(os.fsencode(path), digest_size=ID_BYTES).hexdigest()


def _manifest(table: pa.Table, name: str, root: Path) -> Manifest:
    if PATH not in table.column_names:
        raise ArgumentError(
            f"the list {name} has no column 'path', only {', '.join(table.column_names)}; name the "
            "column with the paths of the videos 'path'"
        )
    if (kind := table.schema.field(PATH).type) not in (pa.string(), pa.large_string(), pa.binary()):
        raise ArgumentError(f"the column 'path' of {name} must be text, got {kind}")
    paths = [os.fsdecode(path or "") for path in table.column(PATH).to_pylist()]
    ids = [id_of(path) for path in paths]
    columns = {
        ID: pa.array(ids, pa.string()),
        PATH: pa.array(map(_text, paths), pa.string()),
        RAW: pa.array((None if _is_text(p) else os.fsencode(p) for p in paths), pa.binary()),
    }
    for other in table.column_names:
        if other != PATH:
            ours = other in RESULT.names or other == RAW
            columns[CARRIED + other if ours else other] = table.column(other)
    listed = pa.table(columns)
    firsts = dict(reversed(list(zip(ids, range(len(ids)), strict=True))))
    if len(firsts) < len(ids):
        listed = listed.take(pa.array(sorted(firsts.values())))
    relative = any("://" not in path and not os.path.isabs(path) for path in paths)
    return Manifest(listed, os.path.abspath(root), relative)


def _of_paths(paths: list[str]) -> pa.Table:
    return pa.table({PATH: pa.array(map(os.fsencode, paths), pa.binary())})


def _read_lines(source: Path) -> list[str]:
    """Read the paths of a text file; empty lines and those that begin with # are none."""
    with source.open("rb") as file:
        lines = [os.fsdecode(line.removeprefix(b"\xef\xbb\xbf").rstrip(b"\r\n")) for line in file]
    if any("\0" in line for line in lines):
        raise ArgumentError(
            f"{printable(str(source))} is not a text; pass a folder of videos, a text file with a "
            "path on each line, or a .csv or .parquet file with a column 'path'"
        )
    return [line for line in lines if line.strip() and not line.startswith("#")]


def _read_csv(source: Path) -> pa.Table:
    """Read a table whose values stay as they are written: 007 is not 7."""
    with source.open(encoding="utf-8-sig", newline="") as file:
        names = next(csv.reader(file), [])
    kinds = pv.ConvertOptions(column_types=dict.fromkeys(names, pa.string()))
    lines = pv.ParseOptions(newlines_in_values=True)
    return pv.read_csv(source, convert_options=kinds, parse_options=lines)


def _is_text(path: str) -> bool:
    try:
        path.encode()
    except UnicodeEncodeError:  # it holds bytes that are not UTF-8
        return False
    return True


def _text(path: str) -> str:
    return path if _is_text(path) else printable(path)
