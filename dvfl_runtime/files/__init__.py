"""Where results are kept: whole files that are replaced, files of rows, and the cache folder.

A file of one piece (mp4, json, onnx, a checkpoint) is written under a temporary name and takes its
place when it is complete: `replacing`. A file of rows (jsonl, csv, a table) is written in place,
and each row is on the disk when `RowFile.write` returns. Both follow links, keep modes and owners,
and write into whatever is no regular file (a device, a pipe, standard output by another name).
"""

from dvfl_runtime.errors.outputs import cannot_write
from dvfl_runtime.files.cache import cache_folder
from dvfl_runtime.files.places import PathLike
from dvfl_runtime.files.row_files import RowFile
from dvfl_runtime.files.text import read_text
from dvfl_runtime.files.whole_files import Replacement, check_places, replacing, write_json

__all__ = [
    "PathLike",
    "Replacement",
    "RowFile",
    "cache_folder",
    "cannot_write",
    "check_places",
    "read_text",
    "replacing",
    "write_json",
]
