"""The folder of an archive: what was listed, which parts it has, and what is left to do.

    part-0001-000017.parquet        rows of the videos in row group 17 of the first list
    _archive.json                   with what they are recognised
    _listed/0001.parquet            the first list, 0002 what a later run found new
    _work/part-0001-000017.jsonl    the journal of a part that is not complete
    _lock                           held by the command that runs

A part is complete if its file is there and its journal is not. Names with an underscore are left
out by whatever reads a folder of Parquet files as one table.
"""

from __future__ import annotations

import json
import os
import re
import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from dvfl_runtime.archive.manifest import ID, PATH, RAW, Ids, Manifest, ids_in
from dvfl_runtime.archive.tables import SCHEMA, open_parquet, write_groups
from dvfl_runtime.errors import OutputError
from dvfl_runtime.errors.outputs import cannot_write
from dvfl_runtime.files import write_json

ABOUT, LISTED, WORK, LOCK = "_archive.json", "_listed", "_work", "_lock"
PART = re.compile(r"part-(\d{4,})-(\d{6})")
LISTING = re.compile(r"(\d{4,})\.parquet")
MAX_PART = 64  # videos, while that gives at most MAX_PARTS parts
MAX_PARTS = 10_000
NO_IDS: Ids = np.empty((0, 2), np.uint64)
PARTS_PER_PROCESS = 8  # so that no process has much to do when the others are done


@dataclass(frozen=True, order=True)
class Part:
    """A part of an archive.

    Attributes:
        listing: number of its list, from 1 on.
        group: number of its row group there.
    """

    listing: int
    group: int

    @property
    def name(self) -> str:
        """The name of its files, without a suffix."""
        return f"part-{self.listing:04}-{self.group:06}"

    @classmethod
    def parse(cls, name: str) -> Part | None:
        """Return the part of a file's name; `None` if it is not the name of one."""
        found = PART.fullmatch(name.partition(".")[0])
        return cls(int(found[1]), int(found[2])) if found else None


class Folder:
    """The folder of an archive.

    Args:
        path: of the folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def part(self, part: Part) -> Path:
        """Return the file of a part."""
        return self.path / f"{part.name}.parquet"

    def journal(self, part: Part) -> Path:
        """Return the journal of a part."""
        return self.path / WORK / f"{part.name}.jsonl"

    def about(self) -> dict[str, Any]:
        """Return what `_archive.json` says.

        Raises:
            OutputError: if the folder is no archive, or one of a newer dvfl.
        """
        try:
            about = json.loads((self.path / ABOUT).read_bytes())
        except FileNotFoundError as err:
            raise OutputError(
                f"{self.path} is no archive of dvfl-archive, it has no {ABOUT}; check the path"
            ) from err
        except (OSError, ValueError) as err:
            raise OutputError(f"cannot read {self.path / ABOUT}: {err}; check the path") from err
        if not isinstance(about, dict) or about.get("schema") != SCHEMA:
            raise OutputError(
                f"{self.path} was made by another version of dvfl, whose rows are different; use "
                "that one, or another folder"
            )
        return about

    def prepare(self, made_with: dict[str, Any]) -> str:
        """Make the folder, or check that it is made with the same model and options.

        Returns:
            The token by which others know that they see the same folder.

        Raises:
            OutputError: if it cannot be made, holds something else, or is made with another model.
        """
        try:
            self.path.mkdir(exist_ok=True)
            if not (self.path / ABOUT).exists() and set(os.listdir(self.path)) - {LISTED, WORK}:
                raise OutputError(
                    f"{self.path} holds other things than an archive; choose a new folder for the "
                    "rows"
                )
            (self.path / LISTED).mkdir(exist_ok=True)
            (self.path / WORK).mkdir(exist_ok=True)
        except OSError as err:
            raise cannot_write(self.path, err) from err
        if not (self.path / ABOUT).exists():
            token = secrets.token_hex(8)
            write_json(self.path / ABOUT, {"schema": SCHEMA, "token": token, **made_with})
            return token
        about = self.about()
        for name, value in made_with.items():
            if about.get(name) != value:
                raise OutputError(
                    f"the rows of {self.path} are made with {name} {about.get(name)}, not with "
                    f"{value}; pass the same again, or another folder"
                )
        return str(about["token"])

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other commands from writing into the folder during the block.

        Raises:
            OutputError: if another one does already.
        """
        try:
            import fcntl
        except ImportError:  # Windows has other locks
            yield
            return
        try:
            file = os.open(self.path / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as err:
            raise cannot_write(self.path / LOCK, err) from err
        try:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as err:
                raise OutputError(
                    f"another dvfl-archive is writing into {self.path}; wait for its end, or "
                    "choose another folder"
                ) from err
            except OSError:  # a file system without locks
                pass
            yield
        finally:
            os.close(file)

    def add_new(self, manifest: Manifest, processes: int) -> int:
        """Keep the videos of a list that no earlier one has, and return how many these are.

        Raises:
            OutputError: if they cannot be kept, or relative paths belong to another place.
        """
        self._check_root(manifest)
        listings = self._listings()
        new = manifest.new(np.concatenate([NO_IDS, *map(_ids, listings.values())]))
        count = int(new.sum())
        if count:
            number = max(listings, default=0) + 1
            groups = in_groups(manifest.tables(new), part_size(count, processes))
            write_groups(self.path / LISTED / f"{number:04}.parquet", groups)
        return count

    def _check_root(self, manifest: Manifest) -> None:
        """Remember where relative paths are, and refuse those of another place."""
        if not manifest.relative:
            return
        about = self.about()
        root = about.get("root")
        if root is None:
            write_json(self.path / ABOUT, {**about, "root": manifest.root})
        elif root != manifest.root:
            raise OutputError(
                f"the relative paths in {self.path} are those below {root}, not {manifest.root}; "
                "choose another folder for other videos. If the same ones have moved, change "
                f'"root" in {self.path / ABOUT}'
            )

    def parts(self) -> dict[Part, int]:
        """Return all parts, in order, with the number of their videos."""
        found = {}
        for number, path in self._listings().items():
            about = open_parquet(path).metadata
            for group in range(about.num_row_groups):
                found[Part(number, group)] = about.row_group(group).num_rows
        return found

    def complete(self) -> set[Part]:
        """Return the parts that have all of their rows."""
        return self.written() - self.in_progress()

    def written(self) -> set[Part]:
        """Return the parts that have rows."""
        return {part for entry in _names(self.path) if (part := Part.parse(entry))}

    def in_progress(self) -> set[Part]:
        """Return the parts that have a journal."""
        return {part for entry in _names(self.path / WORK) if (part := Part.parse(entry))}

    def listed(self, part: Part) -> pa.Table:
        """Return the videos of a part as they are listed.

        Raises:
            OutputError: if the list cannot be read.
        """
        return open_parquet(self._listings()[part.listing]).read_row_group(part.group)

    def clean(self) -> None:
        """Remove what a death has left of files that were being written."""
        for folder in (self.path, self.path / LISTED):
            for entry in _names(folder):
                if re.fullmatch(r"\.(part-|\d{4}|_archive).*\.[0-9a-f]{8}\.\w+", entry):
                    with suppress(OSError):
                        (folder / entry).unlink()

    def _listings(self) -> dict[int, Path]:
        folder = self.path / LISTED
        found = ((LISTING.fullmatch(name), folder / name) for name in _names(folder))
        return dict(sorted((int(name[1]), path) for name, path in found if name))


def part_size(videos: int, processes: int) -> int:
    """Return how many videos the parts of a list have."""
    return max(1, min(MAX_PART, videos // (PARTS_PER_PROCESS * processes)), -(-videos // MAX_PARTS))


def in_groups(tables: Iterable[pa.Table], size: int) -> Iterator[pa.Table]:
    """Yield the rows of tables as tables of `size` rows; the last one has what is left."""
    rest: list[pa.Table] = []
    for table in tables:
        rows = pa.concat_tables([*rest, table])
        whole = rows.num_rows // size * size
        for begin in range(0, whole, size):
            yield rows.slice(begin, size)
        rest = [rows.slice(whole)]
    if rest and rest[0].num_rows:
        yield rest[0]


def paths_of(listed: pa.Table, root: str) -> dict[str, str]:
    """Return by id what to open for the videos of a list."""
    columns = (listed.column(name).to_pylist() for name in (ID, PATH, RAW))
    return {
        one: _place(path if raw is None else os.fsdecode(raw), root)
        for one, path, raw in zip(*columns, strict=True)
    }


def carried(listed: pa.Table) -> pa.Table:
    """Return the columns of a list that are carried along."""
    return listed.drop_columns([ID, PATH, RAW])


def _ids(listing: Path) -> Ids:
    batches = open_parquet(listing).iter_batches(columns=[ID])
    return np.concatenate([ids_in(batch.column(ID)) for batch in batches])


def _place(path: str, root: str) -> str:
    return path if not path.strip() or "://" in path else os.path.join(root, path)


def _names(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError as err:
        raise OutputError(f"cannot read {folder}: {err.strerror}; check the path") from err
