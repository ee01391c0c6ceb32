"""Outputs that are either complete or absent, texts of others, and where caches lie."""

from __future__ import annotations

import codecs
import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

from dvfl_runtime.errors import ArgumentError, OutputError

# a mark of UTF-32 begins like one of UTF-16
_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yields a temporary path beside `path`; renames it to `path` when the block succeeds.

    The temporary name keeps the suffix of `path`, because encoders choose the container by it.
    When the block raises, the temporary file is removed and whatever stood at `path` stays.

    Raises:
        OutputError: if the folder is missing or not writable, or the disk is full.
    """
    target = Path(path)
    part = target.with_name(f".{target.stem}.{secrets.token_hex(4)}{target.suffix}")
    try:
        part.touch(exist_ok=False)  # fails before the work, not after it
        yield part
        part.replace(target)
    except OSError as err:
        if err.filename is not None and Path(os.fsdecode(err.filename)) not in (part, target):
            raise
        reason = err.strerror or str(err)
        raise OutputError(
            f"cannot write {target}: {reason}; choose a path in an existing, writable folder"
        ) from err
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)


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
