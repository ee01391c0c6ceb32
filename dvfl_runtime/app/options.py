"""The options of dvfl-recognize."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import NamedTuple, get_args

from dvfl_runtime.arguments import Parser, at_least, threads, whole
from dvfl_runtime.clips.spec import Focus
from dvfl_runtime.clips.windows import MIN_HOP_S
from dvfl_runtime.engines import DEVICES, ENGINES, PRECISIONS
from dvfl_runtime.errors.packages import MEDIA
from dvfl_runtime.serve.address import TOKEN_VARIABLE, address_argument
from dvfl_runtime.streams.smoothing import Smoothing
from dvfl_runtime.version import __version__

PROG = "dvfl-recognize"
_SECONDS = at_least(MIN_HOP_S)

DESCRIPTION = "Recognise human actions in videos. Without --model the bundled model is used."
EXAMPLES = """\
examples:
  dvfl-recognize --demo                              the bundled model on the bundled clip
  dvfl-recognize video.mp4                           what happens from when to when
  dvfl-recognize video.mp4 --format table            one row per window of time, as in a pipe
  dvfl-recognize video.mp4 --segments actions.csv    the same as a file
  dvfl-recognize video.mp4 --segments actions.srt    the same as subtitles for a player
  dvfl-recognize video.mp4 --overlay seen.mp4        the same below the picture
  dvfl-recognize a.mp4 b.mp4 --overlay seen/         a file of each in a folder; --segments too
  dvfl-recognize a.mp4 b.mp4 --format jsonl -o out.jsonl
  dvfl-recognize rtsp://camera/live -o rows.jsonl --append     as a service that is started again
  dvfl-recognize 0 --events events.jsonl             each action when it starts, goes on and ends
  dvfl-recognize 0 --on-event "python alarm.py"      a program that gets each start and end
  dvfl-recognize --whole --views windows --model mine.onnx *.avi     one answer per video
  dvfl-recognize 0 --focus motion --serve 8000       people who are small in the picture
  dvfl-recognize 0 --roi door=0.1,0.2,0.3,0.5 --roi desk=0.6,0,0.4,1    parts of the picture
  dvfl-recognize frames/ --fps 10                    a folder of images, 10 per second
  dvfl-recognize 0 rtsp://camera/live                both at once, a row per window of each
  dvfl-recognize 0 video.mp4 --serve 8000            a page with both at http://127.0.0.1:8000/

exit status: 0 on success, 1 if some of several sources failed, 2 on bad input or if no source could
be read, 130 after Ctrl-C and 143 or 129 after a request to terminate (outputs so far are completed
and kept)
"""


def make_parser() -> Parser:
    """Return the parser of the command."""
    parser = Parser(
        prog=PROG,
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.packages = MEDIA
    add = parser.add_argument
    add(
        "sources",
        nargs="*",
        metavar="SOURCE",
        help="a video file, a folder of videos or of images, a camera (0, /dev/video0), rtsp://, "
        "http://, csi://, gst:PIPELINE",
    )
    add("--demo", action="store_true", help="show what the bundled model sees in the bundled clip")
    add("--whole", action="store_true", help="one answer per video, for trimmed videos")
    add(
        "--views",
        metavar="V",
        help="what --whole averages: 1, one clip with pictures from all of the video (default); "
        "4x3, 4 such clips in 3 crops; windows, up to 16 windows all over it, for models of "
        "dvfl-teach and dvfl-train FOLDER",
    )
    _add_model(parser)
    timing = parser.add_argument_group("time")
    add = timing.add_argument
    add("--window-s", metavar="S", type=_SECONDS, help="length of a window; default: the model's")
    add("--hop-s", metavar="S", type=_SECONDS, help="from window to window; default: a quarter")
    add("--fps", metavar="F", type=_SECONDS, help="frames per second of a folder (25) or .h264")
    _add_outputs(parser)
    _add_events(parser)
    page = parser.add_argument_group("page", "all sources together, files at their own speed")
    add = page.add_argument
    add(
        "--serve",
        metavar="HOST:PORT",
        type=address_argument,
        help="show it in a browser; PORT is enough",
    )
    add(
        "--linger",
        metavar="S",
        type=at_least(0),
        help="how long it stays when all sources have ended, seconds; default: 0, on a terminal "
        "until Ctrl-C",
    )
    add(
        "--token",
        metavar="T",
        help="asked of each browser; needed where HOST is not loopback; "
        f"default: ${TOKEN_VARIABLE}, which the list of processes does not show",
    )
    parser.add_argument("--version", action="version", version=f"{PROG} {__version__}")
    return parser


def _add_model(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("model").add_argument
    add("--model", metavar="M", help="a file written by dvfl-export")
    add("--engine", metavar="E", default="auto", help=f"auto (default), {', '.join(ENGINES)}")
    add("--device", metavar="D", default="auto", help=f"{', '.join(DEVICES)}")
    add(
        "--threads",
        metavar="N",
        type=threads,
        help="CPU threads; default: all this process may use",
    )
    add(
        "--precision",
        choices=PRECISIONS,
        default="file",
        help="file (default), or bf16: a file in fp32 in as little as half of the time, on a "
        "CPU with AVX512_BF16 or AMX, by openvino; scores move a little",
    )
    add(
        "--focus",
        choices=get_args(Focus),
        help="what the model is shown: the whole picture, or what moves in it, for people who are "
        "small in the picture; default: as it was trained",
    )
    add(
        "--max-regions",
        metavar="N",
        type=whole,
        help="answers for each of up to N bodies that move apart from each other, by numbers; by "
        "default one, for the body that moves most, if the model looks at what moves",
    )
    add(
        "--roi",
        dest="regions",
        metavar="NAME[@SOURCE]=BOX",
        action="append",
        type=_roi,
        help="recognise what happens in a part of the picture: its left, top, width and height, "
        "from 0 to 1, like door=0.1,0.2,0.3,0.5; again for further parts, each with answers of "
        "its own. Of every source, or with @SOURCE of one, written as among the sources",
    )


def _add_outputs(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("output").add_argument
    add(
        "--format",
        choices=("table", "jsonl"),
        help="a row for each window; default: jsonl for -o FILE.jsonl, else table; for files on a "
        "terminal it is one row for each action instead",
    )
    add("--top-k", metavar="K", type=whole, default=3, help="labels listed; default: 3")
    add("-o", "--output", metavar="FILE", help="instead of standard output")
    add(
        "--segments",
        metavar="FILE",
        help="actions from start to end: .csv .json .srt, or a folder for an .srt of each source",
    )
    add(
        "--overlay",
        metavar="FILE",
        help="the video with label, bars and timeline below it, or a folder for one of each source",
    )
    add(
        "--append",
        action="store_true",
        help="continue -o FILE, --segments FILE.csv and --events FILE, as a service that is "
        "started again does",
    )


def _add_events(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("events", "actions while they happen").add_argument
    add("--events", metavar="FILE", help="a row of jsonl for each start, update and end")
    add(
        "--on-event",
        metavar="COMMAND",
        help="run this at each start and end, without a shell; one JSON object comes on its "
        "standard input. It may take 30 s, and recognition never waits for it",
    )
    add(
        "--record-events",
        metavar="FOLDER",
        type=Path,
        help="the video of each, and the event as JSON beside it; RTSP and files without encoding",
    )
    add(
        "--pre-roll",
        metavar="S",
        type=at_least(0),
        help="so long before its event a recording begins, seconds; default: 3",
    )
    add(
        "--keep-gb",
        metavar="GB",
        type=at_least(0.001),
        help="the oldest recordings are deleted when all take more; default: 10",
    )
    add(
        "--enter",
        metavar="SCORE",
        type=_score,
        default=Smoothing.enter,
        help="how certain an action has to be at one moment, 0 to 1, for segments and events; "
        f"default: {Smoothing.enter}. More gives fewer false alarms, and misses more",
    )


class Roi(NamedTuple):
    """A part of the picture to recognise.

    Attributes:
        name: of the part.
        source: whose pictures; `None` for all sources.
        box: left, top, width and height, relative.
    """

    name: str
    source: str | None
    box: tuple[float, ...]


def _score(text: str) -> float:
    score = at_least(0)(text)
    if score > 1:
        raise argparse.ArgumentTypeError(f"must be from 0 to 1, got {text}")
    return score


def _roi(text: str) -> Roi:
    where, _, box = text.rpartition("=")  # an address may contain further ones
    name, at, source = (part.strip() for part in where.partition("@"))
    try:
        values = tuple(map(float, box.split(",")))
    except ValueError:
        values = ()
    if not name or bool(at) > bool(source) or len(values) != 4:
        raise argparse.ArgumentTypeError(
            "must be NAME=LEFT,TOP,WIDTH,HEIGHT, like door=0.1,0.2,0.3,0.5, or NAME@SOURCE=... "
            f"for one of the sources, got {text!r}"
        )
    return Roi(name, source or None, values)
