"""The options of dvfl-archive."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import get_args

from dvfl_runtime.arguments import Parser, at_least, threads, whole
from dvfl_runtime.clips.spec import Focus
from dvfl_runtime.clips.windows import MIN_HOP_S
from dvfl_runtime.engines import DEVICES, ENGINES, PRECISIONS
from dvfl_runtime.errors.packages import MEDIA
from dvfl_runtime.version import __version__

PROG = "dvfl-archive"
_SECONDS = at_least(MIN_HOP_S)

DESCRIPTION = """\
Recognise the actions in many videos: one row for each, in a folder of Parquet files. It can be
stopped or killed at any time; the same command goes on, and does nothing once all is done.
"""
EXAMPLES = """\
examples:
  dvfl-archive videos/ -o rows/                  all videos below a folder
  dvfl-archive list.csv -o rows/                 those in the column `path`; .parquet, or .txt lines
  dvfl-archive videos/ -o rows/                  again: goes on, and adds what is new
  dvfl-archive videos/ -o rows/ --again          redoes what has failed or changed
  dvfl-archive status rows/                      how far it is, how fast, what failed and why
  dvfl-archive export rows/ out.csv              a row for each action; .jsonl, .parquet
  dvfl-archive list.parquet -o /shared/rows/ --ray auto       on the Ray cluster of this host

a video that cannot be read is a row that says why:
  ok           read to its end
  damaged      read in part; it has rows
  failed       not read: error_class and error say why
  quarantined  its process hung or died with it, --tries times

exit status: 0 when every video has a row, 2 on bad input or when rows cannot be written, 128 + N
after signal N (rows so far are kept)
"""


def make_parser() -> Parser:
    """Return the parser of the command that recognises."""
    parser = _parser(PROG, DESCRIPTION, EXAMPLES)
    add = parser.add_argument
    add(
        "manifest",
        metavar="MANIFEST|FOLDER",
        type=Path,
        help="a folder of videos; a .csv or .parquet file with a column `path`, whose other "
        "columns are carried along; or a text file with a path on each line. Paths are relative "
        "to it; addresses such as s3://BUCKET/KEY are opened by fsspec",
    )
    add("-o", "--output", metavar="FOLDER", type=Path, required=True, help="of the rows, on a disk")
    add("--again", action="store_true", help="redo the videos that have failed or changed")
    add("--windows", action="store_true", help="rows have the windows of the video, too")
    _add_model(parser)
    _add_work(parser)
    parser.add_argument("--version", action="version", version=f"{PROG} {__version__}")
    return parser


def make_status_parser() -> Parser:
    """Return the parser of `dvfl-archive status`."""
    parser = _parser(f"{PROG} status", "How far an archive is; others may be at work on it.")
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="of the rows")
    parser.add_argument("--json", action="store_true", help="the same for programs")
    return parser


def make_export_parser() -> Parser:
    """Return the parser of `dvfl-archive export`."""
    parser = _parser(f"{PROG} export", "Write the rows of an archive into one file.")
    add = parser.add_argument
    add("folder", metavar="FOLDER", type=Path, help="of the rows")
    add(
        "out",
        metavar="FILE",
        type=Path,
        help=".csv: a row for each segment, and one for a video without any; .jsonl or .parquet: a "
        "row for each video",
    )
    add("--windows", action="store_true", help="in .csv a row for each window instead")
    return parser


def _parser(prog: str, description: str, epilog: str = "") -> Parser:
    parser = Parser(
        prog=prog,
        description=description,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.packages = ("pyarrow", "fsspec", *MEDIA)
    return parser


def _address(text: str) -> str:
    """Read an address, for argparse; an empty one, of a variable that is not set, is not one."""
    if not text.strip():
        raise argparse.ArgumentTypeError("is empty; give auto, local or HOST:PORT")
    return text


def _add_model(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("model").add_argument
    add("--model", metavar="M", help="a file written by dvfl-export; default: the bundled model")
    add("--engine", metavar="E", default="auto", help=f"auto (default), {', '.join(ENGINES)}")
    add("--device", metavar="D", default="auto", help=f"{', '.join(DEVICES)}")
    add("--precision", choices=PRECISIONS, default="file", help="as in dvfl-recognize")
    add("--focus", choices=get_args(Focus), help="as in dvfl-recognize")
    add("--window-s", metavar="S", type=_SECONDS, help="length of a window; default: the model's")
    add("--hop-s", metavar="S", type=_SECONDS, help="from window to window; default: a quarter")


def _add_work(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("work").add_argument
    add(
        "--processes",
        metavar="N",
        type=threads,
        help="videos at the same time; default: one for each CPU, on Ray as many as there is room "
        "for",
    )
    add(
        "--threads",
        metavar="N",
        type=threads,
        help="of each process; default: the CPUs divided by the processes, on Ray 1",
    )
    add(
        "--timeout-s",
        metavar="S",
        type=at_least(1),
        default=300.0,
        help="a video that brings nothing new for so long is ended; default: 300",
    )
    add(
        "--tries",
        metavar="N",
        type=whole,
        default=3,
        help="how often a process may hang or die with a video; default: 3",
    )
    add(
        "--ray",
        metavar="ADDRESS",
        type=_address,
        help="work on a Ray cluster: auto for that of this host, HOST:PORT, or local to start one. "
        "All nodes must see the videos, the model and the output at the same paths",
    )
    add(
        "--gpus",
        metavar="G",
        type=at_least(0),
        default=0.0,
        help="on Ray: GPUs of each process, such as 0.5; default: 0",
    )
