"""The error of a file that cannot be written."""

from __future__ import annotations

import errno
import os

from dvfl_runtime.errors import OutputError

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
DISK_ERRORS = (*FULL, errno.EROFS)  # of the disk, whatever is written there


def cannot_write(path: str | os.PathLike[str], err: Exception) -> OutputError:
    """Return the error that tells which file could not be written, why, and what to do."""
    if isinstance(err, FileExistsError):  # a folder was to be made
        return OutputError(f"cannot write into {path}: it is no folder; choose another name")
    reason = getattr(err, "strerror", None) or str(err)
    mend = "choose a path in an existing, writable folder"
    if getattr(err, "errno", None) in FULL:
        mend = "make room for it"
    return OutputError(f"cannot write {os.fspath(path) or repr('')}: {reason}; {mend}")
