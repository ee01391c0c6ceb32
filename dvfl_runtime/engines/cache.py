"""What this machine keeps for its user from one start to the next: measurements and plans.

All of it is in `dvfl_runtime.files.cache_folder`, in files that nobody else may write: a TensorRT
plan is code, so whoever writes it, runs it. A measurement is a small JSON file. If the folder is
missing or cannot be written, or if another user has written the file, it is measured again.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import secrets
import stat
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeAlias

from dvfl_runtime.errors import OutputError
from dvfl_runtime.files import cache_folder

logger = logging.getLogger(__name__)

MY_FOLDER, MY_FILE = 0o700, 0o600

Key: TypeAlias = Mapping[str, object]


def recall(kind: str, key: Key) -> dict[str, Any]:
    """Return what was remembered of this kind under exactly this key, {} if nothing was."""
    with suppress(OSError, ValueError, KeyError, TypeError, OutputError):
        about: dict[str, Any] = json.loads(read_private(_memory_file(kind, key)))
        if about["key"] == key:
            return about
    return {}


def remember(kind: str, key: Key, facts: Mapping[str, object]) -> None:
    """Write facts down, in place of those before them.

    Args:
        kind: what they are about; the file's name begins with it.
        key: all that they depend on, as JSON has it.
        facts: JSON-ready.
    """
    try:
        file = _memory_file(kind, key)
        file.parent.mkdir(MY_FOLDER, parents=True, exist_ok=True)
        write_private(file, (json.dumps({**facts, "key": key}, indent=1) + "\n").encode())
    except (OSError, OutputError) as err:
        logger.info("the %s is not remembered: %s", kind, err)


def private_folder(name: str) -> Path:
    """Return a folder of this user in the cache; it is made if it is not there.

    Raises:
        OutputError: if it cannot be made, is a link, another user owns or may write it, or every
            user could put another one in its place.
    """
    folder = cache_folder() / name
    try:
        for level in (folder.parent, folder):  # `parents` would make the outer one for all to read
            level.mkdir(MY_FOLDER, parents=True, exist_ok=True)
        about, above = folder.lstat(), folder.parent.stat()
    except OSError as err:
        raise OutputError(
            f"cannot make {folder}: {err.strerror}; set DVFL_CACHE_DIR to a folder that can be "
            f"written"
        ) from err
    if problem := "it is a link" if stat.S_ISLNK(about.st_mode) else _problem(about):
        raise OutputError(
            f"{folder} is not trusted: {problem}; remove it, or set DVFL_CACHE_DIR to a folder of "
            f"your own"
        )
    if _anybody_may_rename_in(above):
        raise OutputError(
            f"{folder.parent} is not trusted: any user may write it; run: chmod o-w {folder.parent}"
            f", or set DVFL_CACHE_DIR to a folder of your own"
        )
    return folder


def read_private(path: Path) -> bytes:
    """Return the content of a file; a link is not followed.

    Raises:
        OSError: if it cannot be read, or is a link.
        OutputError: if another user owns or may write it.
    """
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
    flags |= getattr(os, "O_NONBLOCK", 0)  # or a pipe would block until it has a writer
    with open(os.open(path, flags), "rb") as stream:
        about = os.fstat(stream.fileno())
        if problem := _problem(about):
            raise OutputError(f"{path} is not trusted: {problem}")
        return stream.read()


def write_private(path: Path, content: bytes) -> None:
    """Write a file that this user alone may read, complete or not at all, in place of any other.

    Raises:
        OutputError: if it cannot be written.
    """
    part = path.with_name(f".{path.stem}.{secrets.token_hex(4)}")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    try:
        try:
            with open(os.open(part, flags, MY_FILE), "wb") as stream:
                stream.write(content)
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
    except OSError as err:
        raise OutputError(f"cannot write {path}: {err.strerror}") from err


def slug(name: str) -> str:
    """Return a name as a part of a file's name."""
    return re.sub(r"[^A-Za-z0-9.]+", "_", name).strip("_.") or "unnamed"


def _anybody_may_rename_in(about: os.stat_result) -> bool:
    """Return whether any user may rename what others have in this folder.

    In a sticky folder, as /tmp is, only its owner may.
    """
    if not hasattr(os, "geteuid") or not about.st_mode & stat.S_IWOTH:
        return False
    return not (about.st_mode & stat.S_ISVTX and about.st_uid in (os.geteuid(), 0))


def _problem(about: os.stat_result) -> str:
    """Return why others could have written something, "" if only this user and root could."""
    if not hasattr(os, "geteuid"):  # Windows, where the folders of a user are the user's alone
        return ""
    if about.st_uid not in (os.geteuid(), 0):
        return "another user owns it"
    return "other users may write it" if about.st_mode & 0o022 else ""


def _memory_file(kind: str, key: Key) -> Path:
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
    return cache_folder() / f"{kind}-{digest[:16]}.json"
