"""The folder for everything that dvfl can compute again."""

from __future__ import annotations

import os
from pathlib import Path

from dvfl_runtime.errors import OutputError


def cache_folder() -> Path:
    """Return the cache folder, which need not exist.

    It is `DVFL_CACHE_DIR`, else `dvfl` in `XDG_CACHE_HOME`, else `~/.cache/dvfl`. A relative
    `XDG_CACHE_HOME` is ignored, as the XDG base directory specification demands.

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
