"""Where results are kept: whole files that are replaced, files of rows in place, and caches.

A file of one piece (mp4, json, onnx, a checkpoint) is written beside its place and takes it when
it is complete: `replacing`. A file of rows (jsonl, csv, a table) is written in place, and each row
is there when `RowFile.write` returns. For both, links are followed, modes and owners stay, and
what is no regular file (a device, a pipe, standard output by another name) is written into.
"""

from __future__ import annotations

import codecs
import contextlib
import errno
import os
import secrets
import stat
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import TypeAlias

from dvfl_runtime.errors import ArgumentError, OutputError
from dvfl_runtime.files.row_files import Descriptor, Rows
from dvfl_runtime.interrupts import asked_to_end

# a mark of UTF-32 begins like one of UTF-16
_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}

PathLike: TypeAlias = "str | os.PathLike[str]"

BINARY: int = getattr(os, "O_BINARY", 0)  # without it Windows writes line ends of its own
LOOK_S = 0.1  # between two looks at whether a pipe has a reader
MAX_STEM, MAX_SUFFIX = 24, 10  # of a temporary name, which must fit where the real one does


class _Place:
    """Where an output goes: a regular file, there or not, or something to write into.

    Raises:
        OutputError: if nothing can be written there.
    """

    def __init__(self, path: PathLike) -> None:
        self.path = Path(path)
        self.found: os.stat_result | None = None
        try:
            with contextlib.suppress(FileNotFoundError):
                self.found = os.stat(path)
            name = os.fspath(path)
            if not name:
                raise FileNotFoundError(errno.ENOENT, "the name is empty")
            if name.endswith(os.sep) or (self.found and stat.S_ISDIR(self.found.st_mode)):
                raise IsADirectoryError(errno.EISDIR, "it is a folder")
            self._standard = self._standard_descriptor()
            if self.found and self._standard is None and not os.access(path, os.W_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        except (OSError, ValueError) as err:  # ValueError: a zero byte in the name
            raise cannot_write(path, err) from err
        self.regular = self._standard is None and (
            self.found is None or stat.S_ISREG(self.found.st_mode)
        )
        self.target = Path(os.path.realpath(path)) if self.regular else self.path
        if self.found is None and os.path.lexists(self.target):
            # `realpath` leaves out "folder/.." without asking whether there is such a folder
            raise cannot_write(path, FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT)))

    def _standard_descriptor(self) -> int | None:
        """Returns 1 or 2 if this is what standard output or error goes to, as /dev/stdout is."""
        for number in (1, 2):
            with contextlib.suppress(OSError):
                if self.found and os.path.samestat(self.found, os.fstat(number)):
                    return number
        return None

    def open(self, flags: int = 0) -> int:
        """Opens it to write into; of a pipe, waits for its reader.

        Raises:
            OSError: if that fails.
        """
        if self._standard is not None:
            return os.dup(self._standard)
        if self.regular:
            flags |= os.O_WRONLY | os.O_CREAT | BINARY
            return os.open(self.target, flags, 0o666)
        assert self.found is not None
        if not stat.S_ISFIFO(self.found.st_mode):
            return os.open(self.target, os.O_WRONLY)
        while True:
            try:
                return os.open(self.target, os.O_WRONLY | os.O_NONBLOCK)
            except OSError as err:
                if err.errno != errno.ENXIO:
                    raise
                if asked_to_end():
                    raise BrokenPipeError(errno.EPIPE, "nobody reads this pipe") from err
            time.sleep(LOOK_S)


class RowFile(Rows):
    """A file of rows, written in place under its own name.

    What stands in an existing file stays until the first row is there. A file that is new and has
    no row when the block fails is removed.

    Args:
        path: of the file.
        append: continue what is there.

    Attributes:
        continues: whether there are rows before the first one.

    Raises:
        OutputError: if it cannot be written.
    """

    def __init__(self, path: PathLike, *, append: bool = False) -> None:
        self._place = place = _Place(path)
        try:
            self._number = place.open(os.O_APPEND)
        except OSError as err:
            raise cannot_write(path, err) from err
        super().__init__(Descriptor(self._number), str(path))
        self.continues = bool(append and place.regular and place.found and place.found.st_size)
        self._begun = False

    def __enter__(self) -> RowFile:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            os.close(self._number)
        except OSError as err:  # where files lie on another machine, errors may come late
            if kind is None:
                raise cannot_write(self._place.path, err) from err
        if kind is not None and not self._begun and self._place.found is None:
            self._place.target.unlink(missing_ok=True)

    def _put(self, data: bytes) -> bool:
        if not self._begun:
            self._begun = True
            if self.continues:
                data = b"\n" + data if self._is_torn() else data
            elif self._place.regular:
                os.ftruncate(self._number, 0)
        return super()._put(data)

    def _is_torn(self) -> bool:
        """Says whether the last row has no end, as after a power cut."""
        with contextlib.suppress(OSError), self._place.target.open("rb") as file:
            file.seek(-1, os.SEEK_END)
            return file.read() != b"\n"
        return False


class Replacement:
    """A file of one piece: written under another name, then put in its place.

    Args:
        path: of the file.

    Attributes:
        part: what to write; it has the suffix of `path`, because encoders choose the format by it.
        failed: whether it could not be written.

    Raises:
        OutputError: if the place cannot be written.
    """

    def __init__(self, path: PathLike) -> None:
        self._place = place = _Place(path)
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
        """Turns an OSError of the block into one line about this file.

        Raises:
            OutputError: for an OSError about no file, or about this one.
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
        """Gives the file its name, and its mode and owner where there was one.

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
                if found is None:  # a file that is mounted cannot be replaced
                    raise
            self._copy()
            self.discard()

    def discard(self) -> None:
        """Removes what was written; what stands at the place stays."""
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
    """Yields a temporary path beside `path`; puts it in place when the block succeeds.

    When the block raises, the temporary file is removed and whatever stood at `path` stays.

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


def check_places(
    outputs: Iterable[tuple[str, PathLike | None]], inputs: Iterable[tuple[str, PathLike]] = ()
) -> None:
    """Makes sure that each output can be written, and that none is another one or an input.

    Args:
        outputs: (what it is called, path); a path of `None` is left out.
        inputs: the same of what is read.

    Raises:
        OutputError: naming what is wrong.
    """
    taken = {_identity(path): name for name, path in inputs}
    for name, path in outputs:
        if path is None:
            continue
        place = _Place(path)
        if place.regular:
            identity = _identity(path)
            if other := taken.get(identity):
                raise OutputError(f"{other} and {name} both name {path}; choose two files")
            taken[identity] = name
            Replacement(path).discard()


def _identity(path: PathLike) -> tuple[int, int] | str:
    """Returns what two names of one file have in common."""
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return os.path.realpath(path)
    return found.st_dev, found.st_ino


def cannot_write(path: PathLike, err: Exception) -> OutputError:
    """Returns the error that says what could not be written, why, and what to do."""
    reason = getattr(err, "strerror", None) or str(err)
    return OutputError(
        f"cannot write {os.fspath(path) or repr('')}: {reason}; choose a path in an existing, "
        "writable folder"
    )


def read_text(path: str | os.PathLike[str]) -> str:
    r"""Returns a text file that a user hands us: UTF-8, or with a byte order mark what it says.

    Editors on Windows write such marks, and PowerShell writes UTF-16. Lines end in `\n`.

    Raises:
        OSError: if it cannot be read.
        ArgumentError: if it is no text in these encodings.
    """
    data = Path(path).read_bytes()
    encoding = next((name for mark, name in _MARKS.items() if data.startswith(mark)), "utf-8")
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as err:
        raise ArgumentError(f"{path} is not a text in UTF-8; save it as UTF-8") from err
    return text.replace("\r\n", "\n").replace("\r", "\n")


def cache_folder() -> Path:
    """Returns where dvfl keeps what it can make again; the folder need not exist.

    `DVFL_CACHE_DIR`, else `dvfl` below `XDG_CACHE_HOME`, else `~/.cache/dvfl`. A relative
    `XDG_CACHE_HOME` is ignored, as the XDG base directory specification has it.

    Raises:
        OutputError: if none of them is set and this user has no home folder.
    """
    if chosen := os.environ.get("DVFL_CACHE_DIR"):
        return Path(chosen)
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    try:
        return (base if base.is_absolute() else Path.home() / ".cache") / "dvfl"
    except RuntimeError as err:  # HOME is not set and the system does not know the user
        raise OutputError(
            "this user has no home folder to keep things in; set DVFL_CACHE_DIR to a folder"
        ) from err
