"""The rows of an archive as one file."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from dvfl_runtime.archive.folder import Folder
from dvfl_runtime.archive.tables import RESULT, open_parquet
from dvfl_runtime.errors import OutputError
from dvfl_runtime.files import replacing

SUFFIXES = (".csv", ".jsonl", ".parquet")
SPAN = ("start_s", "end_s", "label", "confidence")
NESTED = ("segments", "windows")


def export(folder: Folder, out: Path, *, windows: bool = False) -> int:
    """Write the rows of the parts into one file and return how many videos it has.

    A .csv has a row for each segment, and one without a segment for a video that has none; .jsonl
    and .parquet have a row for each video.

    Args:
        folder: of the archive.
        out: the file; its suffix names the format.
        windows: put the windows of each video in the place of its segments, in .csv.

    Raises:
        OutputError: if the folder is no archive or has no windows, or the file cannot be written.
    """
    check_suffix(out)
    if not folder.about().get("windows") and windows:
        raise OutputError(
            f"the rows of {folder.path} are made without windows; make others with --windows, in "
            "another folder, or leave it out"
        )
    parts = [folder.part(part) for part in sorted(folder.written())]
    schema = _schema(parts)
    videos = 0
    with replacing(out) as part:
        if out.suffix == ".parquet":
            with pq.ParquetWriter(part, schema) as writer:
                for table in _tables(parts, schema):
                    writer.write_table(table)
                    videos += table.num_rows
        else:
            with part.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file:
                spans = "windows" if windows else "segments"
                write = _CsvRows(file, schema, spans) if out.suffix == ".csv" else _JsonRows(file)
                for table in _tables(parts, schema):
                    write(table)
                    videos += table.num_rows
    return videos


def check_suffix(out: Path) -> None:
    """Raise OutputError unless the suffix of a file names a format."""
    if out.suffix not in SUFFIXES:
        raise OutputError(
            f"cannot write {out}: the suffix {out.suffix!r} names no format; use one of "
            f"{', '.join(SUFFIXES)}"
        )


class _CsvRows:
    """One row per segment."""

    def __init__(self, file: IO[str], schema: pa.Schema, spans: str) -> None:
        self._plain = [name for name in schema.names if name not in NESTED]
        self._spans = spans
        self._rows = csv.writer(file, lineterminator="\n")
        self._rows.writerow([*self._plain, *SPAN])

    def __call__(self, table: pa.Table) -> None:
        for row in table.to_pylist():
            plain = [row[name] for name in self._plain]
            for span in row[self._spans] or [{}]:
                self._rows.writerow([*plain, *(span.get(name) for name in SPAN)])


class _JsonRows:
    """One JSON object per video, on a line of its own."""

    def __init__(self, file: IO[str]) -> None:
        self._file = file

    def __call__(self, table: pa.Table) -> None:
        for row in table.to_pylist():
            self._file.write(json.dumps(row, ensure_ascii=False, default=str) + "\n")


def _schema(parts: list[Path]) -> pa.Schema:
    """Return the columns of all parts: lists that came later may carry others."""
    schemas = [RESULT, *(open_parquet(path).schema_arrow.remove_metadata() for path in parts)]
    try:
        return pa.unify_schemas(list(dict.fromkeys(schemas)), promote_options="permissive")
    except pa.ArrowException as err:
        raise OutputError(
            f"the columns of the lists do not fit together: {' '.join(str(err).split())}; read the "
            "parts one by one"
        ) from err


def _tables(parts: list[Path], schema: pa.Schema) -> Iterator[pa.Table]:
    for path in parts:
        table: Any = open_parquet(path).read()
        for field in schema:
            if field.name not in table.column_names:
                table = table.append_column(field, pa.nulls(table.num_rows, field.type))
        yield table.select(schema.names).cast(schema)
