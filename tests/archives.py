"""Archives for tests: short videos of plain colours, damaged ones, and the rows of a folder."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds
from artifacts import coloured
from videos import damage_packets, write_video

DAMAGE = ("empty", "text", "cut_head", "cut_tail", "zeros", "noise", "packets", "missing")


def write_good(path: Path, colour: str = "red", count: int = 30) -> Path:
    """Writes a video of one colour, 25 pictures a second."""
    return write_video(path, coloured((colour, count)))


def write_damaged(path: Path, good: Path, kind: str) -> Path:
    """Writes a video that is damaged in one of eight ways, `DAMAGE`; a missing one is not there."""
    data = good.read_bytes()
    contents = {
        "empty": b"",
        "text": b"this is no video\n" * 20,
        "cut_head": data[200:],
        "cut_tail": data[:-200],
        "zeros": bytes(len(data)),
        "noise": os.urandom(len(data)),
        "packets": data,
    }
    if kind in contents:
        path.write_bytes(contents[kind])
    if kind == "packets":
        damage_packets(path, range(3, 12))
    return path


def command(*words: str | Path) -> list[str]:
    """Returns the command with onnxruntime, which starts in the least time."""
    return [sys.executable, "-m", "dvfl_runtime.archive.cli", *map(str, words)]


def run(*words: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*words), capture_output=True, text=True, check=False, **options)


def table_of(folder: Path) -> pa.Table:
    """Returns all rows of an archive, read as any tool reads a folder of Parquet files."""
    return ds.dataset(folder, format="parquet").to_table()


def rows_of(folder: Path) -> dict[str, dict[str, Any]]:
    """Returns the rows by path, and checks that no video has two."""
    rows = table_of(folder).to_pylist() if list(folder.glob("part-*.parquet")) else []
    assert len({row["id"] for row in rows}) == len(rows)
    return {row["path"]: row for row in rows}


def recognisers(model: str | Path) -> list[int]:
    """Returns the numbers of the processes that recognise with this model file."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            words = entry.read_bytes().split(b"\0")
            if b"dvfl_runtime.archive.process" in words and str(model).encode() in words[-2]:
                found.append(int(entry.parent.name))
    return found


def parent_of(number: int) -> int:
    """Returns the number of the process that started another one."""
    status = Path(f"/proc/{number}/status").read_text()
    return int(status.partition("PPid:")[2].split()[0])


def check_complete(folder: Path, paths: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Checks that each video has one row and nothing is left behind, and returns the rows."""
    rows = rows_of(folder)
    assert rows.keys() == set(paths)
    assert not list((folder / "_work").iterdir())
    assert not list(folder.glob(".*"))
    return rows
