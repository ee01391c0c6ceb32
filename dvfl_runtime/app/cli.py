"""dvfl-recognize: which actions, and when, in a video or in front of a camera."""

from __future__ import annotations

import argparse
import math
import os
import sys
import threading
from collections.abc import Sequence
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from socket import socket
from typing import TYPE_CHECKING, NamedTuple

from dvfl_runtime.app.outputs import (
    Outputs,
    SegmentDocument,
    Task,
    files_in,
    is_folder,
    make_folder,
)
from dvfl_runtime.app.recognition import Job, Reading
from dvfl_runtime.arguments import Parser, at_least, run_command, say, threads, whole
from dvfl_runtime.clips.windows import MIN_HOP_S
from dvfl_runtime.console.output import (
    CsvSegments,
    JsonlWriter,
    JsonSegments,
    TableWriter,
    TimelineWriter,
    WholeTableWriter,
    segment_suffix,
)
from dvfl_runtime.console.terminal import StandardOutput
from dvfl_runtime.draw.overlay import check_overlay_suffix
from dvfl_runtime.engines import DEVICES, ENGINES
from dvfl_runtime.errors import DvflError, OutputError, SourceError
from dvfl_runtime.errors.packages import MEDIA
from dvfl_runtime.files import RowFile, check_places
from dvfl_runtime.files.row_files import RowStream
from dvfl_runtime.interrupts import Interrupted, Requests, uninterrupted
from dvfl_runtime.recognizer import BUNDLED_MODEL, Recognizer
from dvfl_runtime.serve.address import TOKEN_VARIABLE, Address, listen
from dvfl_runtime.sources import is_live
from dvfl_runtime.sources.folders import sources_in
from dvfl_runtime.version import __version__

if TYPE_CHECKING:
    from dvfl_runtime.serve.server import PageServer

PROG = "dvfl-recognize"
DEMO_CLIP = Path(__file__).parents[1] / "data" / "demo.mp4"
_SECONDS = at_least(MIN_HOP_S)

DESCRIPTION = "Recognise human actions in videos. Without --model the bundled model is used."
EXAMPLES = """\
examples:
  dvfl-recognize --demo                              the bundled model on the bundled clip
  dvfl-recognize video.mp4                           what happens from when to when
  dvfl-recognize video.mp4 --format table            one row per window of time, as in a pipe
  dvfl-recognize video.mp4 --segments actions.csv    the same as a file
  dvfl-recognize video.mp4 --segments actions.srt    the same as subtitles for a player
  dvfl-recognize video.mp4 --overlay seen.mp4        the same drawn on the picture
  dvfl-recognize a.mp4 b.mp4 --overlay seen/         a file of each in a folder; --segments too
  dvfl-recognize a.mp4 b.mp4 --format jsonl -o out.jsonl
  dvfl-recognize rtsp://camera/live -o rows.jsonl --append     as a service that is started again
  dvfl-recognize --whole --model mine.onnx *.avi     one answer per trimmed video
  dvfl-recognize frames/ --fps 10                    a folder of images, 10 per second
  dvfl-recognize 0 rtsp://camera/live                both at once, a row per window of each
  dvfl-recognize 0 video.mp4 --serve 8000            a page with both at http://127.0.0.1:8000/

exit status: 0 on success, 1 if some of several sources failed, 2 on bad input or if no source could
be read, 130 after Ctrl-C and 143 or 129 after a request to terminate (outputs so far are completed
and kept)
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit status."""
    parser = _parser()
    args = parser.parse_args(argv)

    def work(requests: Requests) -> int:
        args.made = []  # folders
        try:
            _check(args)
            return _run(args, requests)
        finally:
            for folder in args.made:
                with suppress(OSError):  # it holds results
                    folder.rmdir()

    return run_command(parser, work)


def _parser() -> Parser:
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
    model = parser.add_argument_group("model")
    add = model.add_argument
    add("--model", metavar="M", help="a file written by dvfl-export")
    add("--engine", metavar="E", default="auto", help=f"auto (default), {', '.join(ENGINES)}")
    add("--device", metavar="D", default="auto", help=f"{', '.join(DEVICES)}")
    add(
        "--threads",
        metavar="N",
        type=threads,
        help="CPU threads; default: all this process may use",
    )
    timing = parser.add_argument_group("time")
    add = timing.add_argument
    add("--window-s", metavar="S", type=_SECONDS, help="length of a window; default: the model's")
    add("--hop-s", metavar="S", type=_SECONDS, help="from window to window; default: a quarter")
    add("--fps", metavar="F", type=_SECONDS, help="frames per second of a folder (25) or .h264")
    _add_outputs(parser)
    page = parser.add_argument_group("page", "all sources together, files at their own speed")
    add = page.add_argument
    add("--serve", metavar="HOST:PORT", type=_address, help="show it in a browser; PORT is enough")
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
        help="the video with label, bars and timeline, or a folder for a video of each source",
    )
    add(
        "--append",
        action="store_true",
        help="continue -o FILE and --segments FILE.csv, as a service that is started again does",
    )


def _check(args: argparse.Namespace) -> None:
    """Raises DvflError for what can be known to be wrong before any work."""
    if args.demo and args.sources:
        raise SourceError("--demo brings its own clip; leave out the sources or --demo")
    if args.demo and not DEMO_CLIP.is_file():
        raise SourceError(f"the demo clip is not part of this installation ({DEMO_CLIP})")
    if args.demo:
        args.sources = [str(DEMO_CLIP)]
    if not args.sources:
        raise SourceError("no source given; pass a video file, or --demo to see an example")
    args.sources = [video for source in args.sources for video in _videos(source)]
    if args.whole and (args.segments or args.overlay or args.window_s or args.hop_s):
        raise DvflError(
            "--whole has no windows; leave out --segments, --overlay, --window-s and --hop-s"
        )
    # a live source may never end: what would come after it would never come
    args.together = bool(args.serve) or (not args.whole and any(map(is_live, args.sources)))
    if args.serve and args.whole:
        raise DvflError("--serve shows windows, and --whole has none; leave out one of them")
    if args.linger is not None and not args.serve:
        raise DvflError("--linger is how long the page of --serve HOST:PORT stays; pass both")
    if args.token is not None and not args.serve:
        raise DvflError("--token is what the page of --serve HOST:PORT asks for; pass both")
    if args.token == "":
        raise DvflError("--token is empty; pass one that is hard to guess")
    args.token = args.token or os.environ.get(TOKEN_VARIABLE) or None
    _check_outputs(args)


def _videos(source: str) -> list[str]:
    """Returns the videos of a folder, or the source itself, also if it will be found wrong."""
    try:
        return sources_in(source)
    except SourceError:
        return [source]


def _check_outputs(args: argparse.Namespace) -> None:
    """Checks all places of outputs; makes folders for them, and `args.tasks`."""
    args.form = None
    if args.append and not (args.output or args.segments):
        raise OutputError("--append continues -o FILE and --segments FILE.csv; pass one of them")
    if args.segments is not None:
        args.form = ".srt" if is_folder(args.segments) else segment_suffix(Path(args.segments))
        if args.append and args.form != ".csv":
            raise OutputError(f"--append continues files of rows, which {args.segments} is not")
    if args.overlay is not None and not is_folder(args.overlay):
        check_overlay_suffix(Path(args.overlay))
    overlays = _for_each(args, "--overlay", args.overlay, ".mp4")
    subtitles = _for_each(
        args, "--segments", args.segments if args.form == ".srt" else None, ".srt"
    )
    shared = None if args.form == ".srt" else args.segments
    inputs = [("a source", name) for name in args.sources if not is_live(name)]
    check_places(
        [
            *(("-o", args.output), ("--segments", shared)),
            *(("--segments", path) for path in subtitles),
            *(("--overlay", path) for path in overlays),
        ],
        [*inputs, ("--model", args.model or BUNDLED_MODEL)],
    )
    args.tasks = list(map(Task, args.sources, overlays, subtitles))


def _for_each(
    args: argparse.Namespace, option: str, place: str | None, suffix: str
) -> Sequence[Path | None]:
    """Returns the file for each source, of an output that is about one source."""
    if place is None:
        return [None] * len(args.sources)
    if is_folder(place):
        args.made += [Path(place)] if make_folder(place) else []
        return files_in(place, args.sources, suffix)
    if len(args.sources) > 1:
        raise OutputError(
            f"{option} {place} is about one video, and there are {len(args.sources)} sources; pass "
            f"a folder for a file of each, such as {option} {Path(place).with_suffix('')}/"
        )
    return [Path(place)]


class _Files(NamedTuple):
    """Files of rows about all sources, opened."""

    rows: RowFile | None
    segments: RowFile | None


def _run(args: argparse.Namespace, requests: Requests) -> int:
    with ExitStack() as page:  # closed when the files are complete, or later
        status = _recognize(args, page, requests)
        requests.release()
        if args.serve and requests.number is None:
            _linger(args.linger)
    return status


def _recognize(args: argparse.Namespace, page: ExitStack, requests: Requests) -> int:
    door = listen(args.serve, args.token) if args.serve else None
    if door is not None:
        page.enter_context(door[0])
    with ExitStack() as stack:
        files = _Files(
            _rows(args.output, args, stack),
            _rows(args.segments if args.form == ".csv" else None, args, stack),
        )
        recognizer = stack.enter_context(
            Recognizer(args.model, engine=args.engine, device=args.device, num_threads=args.threads)
        )
        if args.demo:
            _say_what_runs(recognizer)
        outputs = _outputs(args, files, recognizer.labels)
        if args.form == ".json":
            with uninterrupted():  # no temporary file is forgotten
                document = SegmentDocument(args.segments, JsonSegments)
                outputs.timelines.append(stack.enter_context(closing(document)))
        if door is not None:
            outputs.viewers.append(page.enter_context(_page(args, recognizer, *door)))
        job = Job(recognizer, _reading(args), outputs, _tell)
        try:
            job.run([args.tasks] if args.together else [[task] for task in args.tasks])
            requests.hold()
        except Interrupted:
            pass  # what there is so far is completed and kept
        finally:
            requests.hold()
            job.finish()
        total = len(args.tasks)
        if job.failed == total:
            raise SourceError(f"{total} of {total} sources failed")
    if job.failed:
        _tell(f"{job.failed} of {total} sources failed")
    return 1 if job.failed else 0


def _rows(path: str | None, args: argparse.Namespace, stack: ExitStack) -> RowFile | None:
    return None if path is None else stack.enter_context(RowFile(path, append=args.append))


def _tell(error: str) -> None:
    say(f"{PROG}: error: {' '.join(error.split())}\n")


def _reading(args: argparse.Namespace) -> Reading:
    return Reading(args.whole, args.window_s, args.hop_s, args.top_k, args.fps)


def _outputs(args: argparse.Namespace, files: _Files, labels: Sequence[str]) -> Outputs:
    """Returns the writers that the options ask for, but those of one source and the page."""
    out: RowStream = files.rows or StandardOutput()
    lasting = args.overlay or args.serve or args.form in (".json", ".srt")
    outputs = Outputs(lasting=bool(lasting))
    suffix = Path(args.output or "").suffix.lower()
    jsonl = (args.format or ("jsonl" if suffix == ".jsonl" else "table")) == "jsonl"
    several = len(args.sources) > 1
    watched = not (args.output or args.format or args.together) and sys.stdout.isatty()
    if args.serve and not (args.format or args.output):
        pass  # the page shows them
    elif jsonl:
        outputs.rows.append(JsonlWriter(out))
    elif args.whole:
        outputs.rows.append(WholeTableWriter(out, labels))
    elif args.demo or watched:
        outputs.timelines.append(TimelineWriter(out, labels, named=several))
    else:
        outputs.rows.append(TableWriter(out, labels, mixed=args.together and several))
    outputs.terminal = files.rows is None and not outputs.timelines
    if outputs.rows or outputs.timelines:
        outputs.texts.append(out)
    if files.segments is not None:
        heads = not files.segments.continues
        outputs.timelines.append(CsvSegments(files.segments, heads=heads))
        outputs.texts.append(files.segments)
    return outputs


def _page(
    args: argparse.Namespace, recognizer: Recognizer, listening: socket, address: Address
) -> closing[PageServer]:
    """Begins to serve the page and says where."""
    from dvfl_runtime.serve.server import PageServer  # asyncio takes a while, and few need it

    info, labels = recognizer.info, recognizer.labels
    page = PageServer(listening, address.host, args.token, info=info, labels=labels)
    secret = "?token=..." if args.token else ""  # which is not for logs
    say(f"{PROG}: serving at http://{address}/{secret}\n")
    return closing(page)


def _linger(linger_s: float | None) -> None:
    """Keeps the page open until the time is over or a signal arrives."""
    if linger_s is None:
        watched = all(stream and stream.isatty() for stream in (sys.stdout, sys.stderr))
        linger_s = math.inf if watched else 0.0
    if linger_s > 0:
        until = "until Ctrl-C" if linger_s == math.inf else f"for {linger_s:g} s, or until Ctrl-C"
        say(f"{PROG}: all sources have ended; the page stays {until}\n")
        threading.Event().wait(min(linger_s, threading.TIMEOUT_MAX))


def _say_what_runs(recognizer: Recognizer) -> None:
    info = recognizer.info
    say(
        f"{PROG}: model {info.name} {info.precision} on {info.engine} "
        f"{info.versions[info.engine]}, {info.provider}, {info.device}\n"
    )


def _address(text: str) -> Address:
    try:
        return Address.parse(text)
    except ValueError as err:
        raise argparse.ArgumentTypeError(str(err)) from err


if __name__ == "__main__":
    sys.exit(main())
