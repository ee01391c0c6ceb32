"""Files of one piece: written under a temporary name, then put in their place."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import secrets
import stat
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from dvfl_runtime.errors import OutputError
from dvfl_runtime.errors.outputs import cannot_write
from dvfl_runtime.files.places import PathLike, Place, file_identity
from dvfl_runtime.files.row_files import Descriptor

MAX_STEM, MAX_SUFFIX = 24, 10  # of a temporary name, which must fit where the real one does


class Replacement:
    """A file of one piece: written under another name, then put in its place.

    Args:
        path: of the file.

    Attributes:
        part: the temporary file; it has the suffix of `path`, by which encoders choose the format.
        failed: whether it could not be written.

    Raises:
        OutputError: if nothing can be written at the place.
    """

    def __init__(self, path: PathLike) -> None:
        self._place = place = Place(path)
        self.failed = False
        target = place.target
        # a file can be writable where its folder is not, and it can have other names (hard links)
        self._beside = place.regular and (
            place.found is None
            or (place.found.st_nlink == 1 and os.access(target.parent, os.W_OK | os.X_OK))
        )
        suffix = target.suffix if len(os.fsencode(target.suffix)) <= MAX_SUFFIX else ""
        name = f".{target.stem[:MAX_STEM]}.{secrets.token_hex(4)}{suffix}"
        try:
            folder = target.parent if self._beside else Path(tempfile.gettempdir())
            self.part = folder / name
            os.close(os.open(self.part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
        except OSError as err:
            raise cannot_write(path, err) from err

    @contextlib.contextmanager
    def explaining(self) -> Iterator[None]:
        """Turn an OSError of the block into one line about this file.

        Raises:
            OutputError: for an OSError that names this file, or none.
        """
        try:
            yield
        except OSError as err:
            named = None if err.filename is None else Path(os.fsdecode(err.filename))
            if named not in (None, self.part, self._place.path, self._place.target):
                raise
            self.failed = True
            raise cannot_write(self._place.path, err) from err

    def put_in_place(self) -> None:
        """Give the file its name, and the mode and owner of the file that it replaces.

        Raises:
            OutputError: if that fails.
        """
        with self.explaining():
            found = self._place.found
            if self._beside and found is not None:
                with contextlib.suppress(OSError, AttributeError):  # for root alone; no Windows
                    os.chown(self.part, found.st_uid, found.st_gid)
                os.chmod(self.part, stat.S_IMODE(found.st_mode))
            try:
                if self._beside:
                    self.part.replace(self._place.target)
                    return
            except OSError:
                if found is None:  # a file that is mounted cannot be replaced, but written into
                    raise
            self._copy()
            self.discard()

    def discard(self) -> None:
        """Remove the temporary file, if it is still there; the file at the place stays."""
        with contextlib.suppress(OSError):
            self.part.unlink(missing_ok=True)

    def _copy(self) -> None:
        number = self._place.open(os.O_TRUNC)
        try:
            out = Descriptor(number)
            with self.part.open("rb") as file:
                while chunk := file.read(1 << 16):
                    if not out.write(chunk):
                        raise BrokenPipeError(errno.EPIPE, "its reader stopped reading")
        finally:
            os.close(number)


@contextlib.contextmanager
def replacing(path: PathLike) -> Iterator[Path]:
    """Yield a temporary path, whose file takes the place of `path` when the block succeeds.

    When the block raises, the temporary file is removed and the file at `path` stays.

    Raises:
        OutputError: if the folder is missing or not writable, or the disk is full.
    """
    file = Replacement(path)
    try:
        with file.explaining():
            yield file.part
        file.put_in_place()
    finally:
        file.discard()


def write_json(path: PathLike, content: object) -> None:
    """Write a file of JSON, complete or not at all.

    Raises:
        OutputError: if it cannot be written.
    """
    with replacing(path) as part:
        part.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def check_places(
    outputs: Iterable[tuple[str, PathLike | None]], inputs: Iterable[tuple[str, PathLike]] = ()
) -> None:
    """Raise OutputError unless each output can be written and is no other output and no input.

    Args:
        outputs: (what an error calls it, path); those with the path `None` are left out.
        inputs: the same of the files that are read.

    Raises:
        OutputError: that names the first output with a problem.
    """
    taken = {file_identity(path): name for name, path in inputs}
    for name, path in outputs:
        if path is None or not Place(path).regular:
            continue
        identity = file_identity(path)
        if other := taken.get(identity):
            raise OutputError(f"{other} and {name} both name {path}; choose two files")
        taken[identity] = name
        Replacement(path).discard()  # its folder is writable
