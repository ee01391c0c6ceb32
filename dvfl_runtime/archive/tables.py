"""Rows as Parquet: the columns of an archive, and parts that are whole or not there at all."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from dvfl_runtime.archive.videos import Row
from dvfl_runtime.errors import OutputError
from dvfl_runtime.files import replacing

SCHEMA = 1  # goes up when a column changes its meaning
COUNTS = b"dvfl"  # in the metadata of a part: what is in it, for those who only count

SPANS = pa.list_(
    pa.struct(
        [
            ("start_s", pa.float64()),
            ("end_s", pa.float64()),
            ("label", pa.string()),
            ("confidence", pa.float64()),
        ]
    )
)
RESULT = pa.schema(
    [
        ("id", pa.string()),
        ("path", pa.string()),
        ("status", pa.string()),
        ("error_class", pa.string()),
        ("error", pa.string()),
        ("duration_s", pa.float64()),
        ("size_bytes", pa.int64()),
        ("modified", pa.timestamp("us", "UTC")),
        ("segments", SPANS),
        ("windows", SPANS),
        ("seconds", pa.float64()),
        ("model", pa.string()),
        ("dvfl", pa.string()),
    ]
)
STATUSES = ("ok", "damaged", "failed", "quarantined")


def write_part(path: Path, rows: Sequence[Row], carried: pa.Table) -> None:
    """Write a part, whole and on the disk, or leave what is there.

    Args:
        path: of the part.
        rows: one for each of its videos.
        carried: the further columns of the list, with a row for each of `rows`.

    Raises:
        OutputError: if it cannot be written.
    """
    table = pa.Table.from_pylist(list(rows), schema=RESULT)
    for name in carried.column_names:
        table = table.append_column(carried.schema.field(name), carried.column(name))
    counts = {"schema": SCHEMA, **summary(rows)}
    table = table.replace_schema_metadata({COUNTS: json.dumps(counts).encode()})
    write_groups(path, [table])


def write_groups(path: Path, groups: Iterable[pa.Table]) -> None:
    """Write a Parquet file with a row group for each table, of which there is at least one.

    It is written under a temporary name, synced, and renamed into place.

    Raises:
        OutputError: if it cannot be written.
    """
    with replacing(path) as part:
        tables = iter(groups)
        first = next(tables)
        with pq.ParquetWriter(part, first.schema) as writer:
            for table in chain([first], tables):
                writer.write_table(table)
        with part.open("rb") as file:
            os.fsync(file.fileno())
    with suppress(OSError):  # not every file system syncs folders
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def read_rows(path: Path) -> list[Row]:
    """Return the rows of a part as they were written; none if it is not there.

    Raises:
        OutputError: if it cannot be read.
    """
    if not path.exists():
        return []
    table = open_parquet(path).read([field.name for field in RESULT])
    changed = table.schema.get_field_index("modified")
    table = table.set_column(changed, "modified", table.column("modified").cast(pa.int64()))
    rows: list[Row] = table.to_pylist()
    return rows


def open_parquet(path: Path) -> pq.ParquetFile:
    """Open a Parquet file.

    Raises:
        OutputError: if it is none, or cannot be read.
    """
    try:
        return pq.ParquetFile(path)
    except (OSError, pa.ArrowException) as err:
        raise OutputError(
            f"cannot read {path}: {' '.join(str(err).split())}; remove it, and its videos are "
            "done again"
        ) from err


def summary(rows: Sequence[Row]) -> dict[str, Any]:
    """Return how many rows there are by status and by class of errors, and the seconds."""
    return {
        "statuses": dict(Counter(row["status"] for row in rows)),
        "failures": dict(Counter(row["error_class"] for row in rows if row["error_class"])),
        "seconds": round(sum(row["seconds"] or 0.0 for row in rows), 3),
        "videos_s": round(sum(row["duration_s"] or 0.0 for row in rows), 3),
    }
