"""Files that nobody else may write. A TensorRT plan is code: whoever writes it, runs it."""

from __future__ import annotations

import os
import re
import secrets
import stat
from pathlib import Path

from dvfl_runtime.errors import OutputError
from dvfl_runtime.files import cache_folder

MINE, MY_FILE = 0o700, 0o600


def private_folder(name: str) -> Path:
    """Returns a folder of this user in the cache; it is made if it is not there.

    Raises:
        OutputError: if it cannot be made, is a link, another user owns or may write it, or every
            user could put another one in its place.
    """
    folder = cache_folder() / name
    try:
        for each in (folder.parent, folder):
            each.mkdir(MINE, parents=True, exist_ok=True)
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
    """Returns the content of a file; a link is not followed.

    Raises:
        OSError: if it cannot be read, or is a link.
        OutputError: if another user owns or may write it.
    """
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
    flags |= getattr(os, "O_NONBLOCK", 0)  # a pipe that somebody put there would be waited for
    with open(os.open(path, flags), "rb") as stream:
        about = os.fstat(stream.fileno())
        if problem := _problem(about):
            raise OutputError(f"{path} is not trusted: {problem}")
        return stream.read()


def write_private(path: Path, content: bytes) -> None:
    """Writes a file that this user alone may read, complete or not at all, in place of any other.

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
    """Returns a name as a part of a file's name."""
    return re.sub(r"[^A-Za-z0-9.]+", "_", name).strip("_.") or "unnamed"


def _anybody_may_rename_in(about: os.stat_result) -> bool:
    """Says whether any user may give another name to what others have in this folder.

    Not so where it is sticky, as /tmp is, unless it belongs to somebody else.
    """
    if not hasattr(os, "geteuid") or not about.st_mode & stat.S_IWOTH:
        return False
    return not (about.st_mode & stat.S_ISVTX and about.st_uid in (os.geteuid(), 0))


def _problem(about: os.stat_result) -> str:
    """Returns why others could have written something, "" if only this user and root could."""
    if not hasattr(os, "geteuid"):  # Windows, where the folders of a user are the user's alone
        return ""
    if about.st_uid not in (os.geteuid(), 0):
        return "another user owns it"
    return "other users may write it" if about.st_mode & 0o022 else ""
