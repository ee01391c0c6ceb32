"""Where results are kept: whole files that are replaced, files of rows in place, and caches."""

from dvfl_runtime.files.whole_files import (
    PathLike,
    Replacement,
    RowFile,
    cache_folder,
    cannot_write,
    check_places,
    read_text,
    replacing,
)

__all__ = [
    "PathLike",
    "Replacement",
    "RowFile",
    "cache_folder",
    "cannot_write",
    "check_places",
    "read_text",
    "replacing",
]
