"""What is to be recognised: a folder of videos, a list of paths, or a table with them."""

from __future__ import annotations

import csv
import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.csv as pv
import pyarrow.parquet as pq
from numpy.typing import NDArray

from dvfl_runtime.archive.tables import RESULT
from dvfl_runtime.errors import ArgumentError, SourceError
from dvfl_runtime.errors.addresses import printable
from dvfl_runtime.sources.folders import is_video, videos_below

PATH, ID, RAW = "path", "id", "raw"
ID_BYTES = 16
CARRIED = "listed_"  # in front of a carried column whose name is one of ours
CHUNK = 50_000  # rows that are held at the same time

Ids: TypeAlias = NDArray[np.uint64]  # (N, 2): the bytes of N ids


@dataclass(frozen=True)
class Manifest:
    """The videos of a list; only their ids are held, and the list is read again when it is kept.

    Attributes:
        ids: (N, 2) of all paths, in their order, as often as they are listed.
        root: the folder that relative paths are in.
        relative: whether there are any.
        name: of the list.
        read: reads its rows from the beginning, table by table.
    """

    ids: Ids
    root: str
    relative: bool
    name: str
    read: Callable[[], Iterator[pa.Table]]

    def new(self, known: Ids) -> NDArray[np.bool_]:
        """Return (N,) which paths are listed for the first time, given the ids that are known."""
        ids = np.concatenate([known, self.ids])
        order = np.lexsort((ids[:, 1], ids[:, 0]))  # equal ones stay in their order
        same = np.ones(len(ids) - 1, np.bool_)
        for column in ids.T:
            ordered = column[order]
            same &= ordered[1:] == ordered[:-1]
        again = np.zeros(len(ids), np.bool_)
        again[order[1:]] = same
        return ~again[len(known) :]

    def tables(self, chosen: NDArray[np.bool_]) -> Iterator[pa.Table]:
        """Yield the chosen (N,) rows: `id`, `path`, `raw` and the other columns of the list.

        `raw` has the bytes of a path that is not text.

        Raises:
            SourceError: if the list cannot be read, or has changed.
        """
        begin = 0
        for table in self.read():
            ids = ids_of(_paths(table, self.name))
            end = begin + len(ids)
            if not np.array_equal(ids, self.ids[begin:end]):
                break
            if (some := chosen[begin:end]).any():
                yield _listed(table.filter(pa.array(some)), _hex(ids[some]), self.name)
            begin = end
        if begin != len(self.ids):
            raise SourceError(f"the list {self.name} has changed meanwhile; run the command again")


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
    read: Callable[[], Iterator[pa.Table]] = partial(_checked, source, _rows)
    if source.is_dir():
        root = source
        read = partial(iter, list(_checked(source, _below)))  # two walks could differ
    ids, relative = [], False
    for table in read():
        paths = _paths(table, name)
        ids.append(ids_of(paths))
        relative |= any("://" not in path and not os.path.isabs(path) for path in paths)
    if not sum(map(len, ids)):
        what = "holds no videos" if source.is_dir() else "lists no videos"
        raise SourceError(f"{name} {what}; pass a folder of videos or a list of their paths")
    return Manifest(np.concatenate(ids), os.path.abspath(root), relative, name, read)


def ids_of(paths: Sequence[str]) -> Ids:
    """Return (N, 2) the ids of videos: hashes of their paths as they are listed."""
    digests = (hashlib.blake2b(os.fsencode(p), digest_size=ID_BYTES).digest() for p in paths)
    return _ids(b"".join(digests))


def ids_in(column: pa.Array) -> Ids:
    """Return (N, 2) the ids in a column of a list that is kept."""
    return _ids(bytes.fromhex("".join(column.to_pylist())))


def _ids(data: bytes) -> Ids:
    return np.frombuffer(data, np.uint64).reshape(-1, 2)


def _hex(ids: Ids) -> list[str]:
    text, size = ids.tobytes().hex(), 2 * ID_BYTES
    return [text[begin : begin + size] for begin in range(0, len(text), size)]


def _paths(table: pa.Table, name: str) -> list[str]:
    if PATH not in table.column_names:
        raise ArgumentError(
            f"the list {name} has no column 'path', only {', '.join(table.column_names)}; name the "
            "column with the paths of the videos 'path'"
        )
    if (kind := table.schema.field(PATH).type) not in (pa.string(), pa.large_string(), pa.binary()):
        raise ArgumentError(f"the column 'path' of {name} must be text, got {kind}")
    return [os.fsdecode(path or "") for path in table.column(PATH).to_pylist()]


def _listed(table: pa.Table, ids: list[str], name: str) -> pa.Table:
    paths = _paths(table, name)
    columns = {
        ID: pa.array(ids, pa.string()),
        PATH: pa.array(map(_text, paths), pa.string()),
        RAW: pa.array((None if _is_text(p) else os.fsencode(p) for p in paths), pa.binary()),
    }
    for other in table.column_names:
        if other != PATH:
            ours = other in RESULT.names or other == RAW
            columns[CARRIED + other if ours else other] = table.column(other)
    return pa.table(columns)


def _checked(source: Path, read: Callable[[Path], Iterator[pa.Table]]) -> Iterator[pa.Table]:
    """Yield the tables of a list; what is wrong with it is an error of dvfl."""
    name = printable(str(source))
    try:
        yield from read(source)
    except OSError as err:
        reason = err.strerror or " ".join(str(err).split())
        raise SourceError(f"cannot read the list {name}: {reason}; check the path") from err
    except (pa.ArrowException, UnicodeDecodeError) as err:
        raise ArgumentError(
            f"cannot read the list {name}: {' '.join(str(err).split())}; it must be a table in "
            f"{source.suffix[1:].upper()}"
        ) from err


def _below(folder: Path) -> Iterator[pa.Table]:
    return _of_paths(str(path.relative_to(folder)) for path in videos_below(folder))


def _rows(source: Path) -> Iterator[pa.Table]:
    suffix = source.suffix.lower()
    if is_video(source):
        source.stat()
        yield from _of_paths(iter([source.name]))
    elif suffix == ".parquet":
        with pq.ParquetFile(source) as file:
            for batch in file.iter_batches(CHUNK):
                yield pa.Table.from_batches([batch])
    elif suffix == ".csv":
        with _open_csv(source) as batches:
            for batch in batches:
                yield pa.Table.from_batches([batch])
    else:
        yield from _of_paths(_read_lines(source))


def _of_paths(paths: Iterator[str]) -> Iterator[pa.Table]:
    while some := [os.fsencode(path) for path in islice(paths, CHUNK)]:
        yield pa.table({PATH: pa.array(some, pa.binary())})


def _read_lines(source: Path) -> Iterator[str]:
    """Yield the paths of a text file; empty lines and those that begin with # are none."""
    with source.open("rb") as file:
        for line in file:
            text = os.fsdecode(line.removeprefix(b"\xef\xbb\xbf").rstrip(b"\r\n"))
            if "\0" in text:
                raise ArgumentError(
                    f"{printable(str(source))} is not a text; pass a folder of videos, a text file "
                    "with a path on each line, or a .csv or .parquet file with a column 'path'"
                )
            if text.strip() and not text.startswith("#"):
                yield text


def _open_csv(source: Path) -> pv.CSVStreamingReader:
    """Open a table whose values stay as they are written: 007 is not 7."""
    with source.open(encoding="utf-8-sig", newline="") as file:
        names = next(csv.reader(file), [])
    kinds = pv.ConvertOptions(column_types=dict.fromkeys(names, pa.string()))
    lines = pv.ParseOptions(newlines_in_values=True)
    return pv.open_csv(source, convert_options=kinds, parse_options=lines)


def _is_text(path: str) -> bool:
    try:
        path.encode()
    except UnicodeEncodeError:  # it holds bytes that are not UTF-8
        return False
    return True


def _text(path: str) -> str:
    return path if _is_text(path) else printable(path)
