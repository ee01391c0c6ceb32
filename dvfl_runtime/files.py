"""Outputs that are either complete or absent, and where caches lie."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

from dvfl_runtime.errors import OutputError


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
