"""dvfl-recognize: which actions, and when, in a video or in front of a camera."""

from __future__ import annotations

import argparse
import logging
import math
import os
import sys
import threading
from collections.abc import Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from socket import socket
from typing import TYPE_CHECKING, TextIO

from dvfl_runtime.arguments import Parser, at_least, whole
from dvfl_runtime.engines import DEVICES, ENGINES
from dvfl_runtime.errors import DvflError, OutputError, SourceError
from dvfl_runtime.files import replacing
from dvfl_runtime.interrupts import Interrupted, interruptible
from dvfl_runtime.job import Job, Outputs, Reading
from dvfl_runtime.output import (
    SEGMENT_FORMATS,
    JsonlWriter,
    Sink,
    TableWriter,
    TimelineWriter,
    WholeTableWriter,
    check_segment_suffix,
)
from dvfl_runtime.overlay import OverlayWriter, check_overlay_suffix
from dvfl_runtime.recognizer import Recognizer
from dvfl_runtime.serve.address import TOKEN_VARIABLE, Address, listen
from dvfl_runtime.sources import is_live
from dvfl_runtime.sources.folders import sources_in
from dvfl_runtime.terminal import StandardOutput
from dvfl_runtime.version import __version__
from dvfl_runtime.windows import MIN_HOP_S

if TYPE_CHECKING:
    from dvfl_runtime.serve.server import PageServer

PROG = "dvfl-recognize"
DEMO_CLIP = Path(__file__).parent / "data" / "demo.mp4"
_SECONDS = at_least(MIN_HOP_S)
SIGNALLED = 128  # plus the signal's number, as shells report it

DESCRIPTION = "Recognise human actions in videos. Without --model the bundled model is used."
EXAMPLES = """\
examples:
  dvfl-recognize --demo                              the bundled model on the bundled clip
  dvfl-recognize video.mp4                           one row per window of time
  dvfl-recognize video.mp4 --segments actions.csv    what happens from when to when
  dvfl-recognize video.mp4 --segments actions.srt    the same as subtitles for a player
  dvfl-recognize video.mp4 --overlay seen.mp4        the same drawn on the picture
  dvfl-recognize a.mp4 b.mp4 --format jsonl -o out.jsonl
  dvfl-recognize --whole --model mine.onnx *.avi     one answer per trimmed video
  dvfl-recognize frames/ --fps 10                    a folder of images, 10 per second
  dvfl-recognize 0 rtsp://camera/live                both at once, a row per window of each
  dvfl-recognize 0 video.mp4 --serve 8000            a page with both at http://127.0.0.1:8000/

exit status: 0 on success, 2 on bad input, 130 after Ctrl-C and 143 after a request to
terminate (outputs so far are completed and kept)
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit status."""
    logging.basicConfig(format=f"{PROG}: %(levelname)s: %(message)s", level=logging.WARNING)
    args = _parser().parse_args(argv)
    try:
        with interruptible():
            _check(args)
            return _run(args)
    except DvflError as err:
        print(f"{PROG}: error: {' '.join(str(err).split())}", file=sys.stderr)
        return 2
    except Interrupted as request:
        return SIGNALLED + request.number


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog=PROG,
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add(
        "sources",
        nargs="*",
        metavar="SOURCE",
        help="a video file, a folder of videos or of images, a camera (0, 1 ...), rtsp://, csi://, "
        "gst:PIPELINE",
    )
    add("--demo", action="store_true", help="show what the bundled model sees in the bundled clip")
    add("--whole", action="store_true", help="one answer per video, for trimmed videos")
    model = parser.add_argument_group("model")
    add = model.add_argument
    add("--model", metavar="M", help="a file written by dvfl-export")
    add("--engine", metavar="E", default="auto", help=f"auto (default), {', '.join(ENGINES)}")
    add("--device", metavar="D", default="auto", help=f"{', '.join(DEVICES)}")
    add("--threads", metavar="N", type=whole, help="CPU threads; default: all this process may use")
    timing = parser.add_argument_group("time")
    add = timing.add_argument
    add("--window-s", metavar="S", type=_SECONDS, help="length of a window; default: the model's")
    add("--hop-s", metavar="S", type=_SECONDS, help="from window to window; default: a quarter")
    add("--fps", metavar="F", type=_SECONDS, help="frames per second of a folder (25) or .h264")
    output = parser.add_argument_group("output")
    add = output.add_argument
    add("--format", choices=("table", "jsonl"), help="default: table, or jsonl for -o FILE.jsonl")
    add("--top-k", metavar="K", type=whole, default=3, help="labels listed; default: 3")
    add("-o", "--output", metavar="FILE", type=Path, help="instead of standard output")
    add("--segments", metavar="FILE", type=Path, help="actions from start to end: .csv .json .srt")
    add("--overlay", metavar="FILE", type=Path, help="the video with label, bars and timeline")
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
    args.sources = [video for source in args.sources for video in sources_in(source)]
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
    if args.token is not None and not (args.serve and args.token):
        raise DvflError("--token is what the page of --serve HOST:PORT asks for; pass both")
    args.token = args.token or os.environ.get(TOKEN_VARIABLE) or None
    _check_outputs(args)


def _check_outputs(args: argparse.Namespace) -> None:
    alone = len(args.sources) == 1
    if args.segments is not None:
        suffix = check_segment_suffix(args.segments)
        if suffix == ".srt" and not alone:
            raise OutputError("subtitles are for one video; pass one source or write .csv")
    if args.overlay is not None:
        check_overlay_suffix(args.overlay)
        if not alone:
            raise OutputError("--overlay draws on one video; pass one source")
    taken = {Path(name).resolve(): "a source" for name in args.sources}
    for option in ("-o", "--segments", "--overlay"):
        path: Path | None = vars(args)[option.lstrip("-") if option != "-o" else "output"]
        if path is None:
            continue
        if other := taken.get(path.resolve()):
            raise OutputError(f"{other} and {option} both name {path}; choose two files")
        taken[path.resolve()] = option


def _run(args: argparse.Namespace) -> int:
    with ExitStack() as page:  # is there until the files are complete, and longer
        status = _recognize(args, page)
        if args.serve and status < SIGNALLED:
            _linger(args.linger)
    return status


def _recognize(args: argparse.Namespace, page: ExitStack) -> int:
    door = listen(args.serve, args.token) if args.serve else None
    if door is not None:
        page.enter_context(door[0])
    with ExitStack() as stack:
        text = _open(args.output, stack) if args.output else None
        marks = _open(args.segments, stack) if args.segments else None
        drawn = stack.enter_context(replacing(args.overlay)) if args.overlay else None
        recognizer = stack.enter_context(
            Recognizer(args.model, engine=args.engine, device=args.device, num_threads=args.threads)
        )
        if args.demo:
            _say_what_runs(recognizer)
        outputs = _text_outputs(args, recognizer, text, marks)
        if drawn is not None:
            overlay = OverlayWriter(drawn, recognizer.labels)
            outputs.viewers.append(stack.enter_context(closing(overlay)))
        if door is not None:
            outputs.viewers.append(page.enter_context(_page(args, recognizer, *door)))
        job = Job(recognizer, _reading(args), outputs)
        try:
            for names in [args.sources] if args.together else [[name] for name in args.sources]:
                job.run(names)
        except Interrupted as request:  # what there is so far is completed and kept
            job.finish()
            return SIGNALLED + request.number
        job.finish()
    return 0


def _reading(args: argparse.Namespace) -> Reading:
    return Reading(args.whole, args.window_s, args.hop_s, args.top_k, args.fps)


def _text_outputs(
    args: argparse.Namespace, recognizer: Recognizer, text: TextIO | None, marks: TextIO | None
) -> Outputs:
    """Returns the writers of text that the options ask for."""
    terminal = StandardOutput() if text is None else None
    out: Sink = text or terminal or sys.stdout
    kept = bool(text or marks or args.overlay or args.serve)
    outputs = Outputs(terminal=terminal, kept=kept)
    labels = recognizer.labels
    suffix = "" if args.output is None else args.output.suffix.lower()
    if args.serve and not (args.format or args.output):
        pass  # the page shows them
    elif (args.format or ("jsonl" if suffix == ".jsonl" else "table")) == "jsonl":
        outputs.rows.append(JsonlWriter(out))
    elif args.demo:
        outputs.timelines.append(TimelineWriter(out, labels))
    elif args.whole:
        outputs.rows.append(WholeTableWriter(out, labels))
    else:
        mixed = args.together and len(args.sources) > 1
        outputs.rows.append(TableWriter(out, labels, mixed=mixed))
    if marks is not None:
        outputs.timelines.append(SEGMENT_FORMATS[args.segments.suffix.lower()](marks))
    return outputs


def _open(path: Path, stack: ExitStack) -> TextIO:
    """Opens an output that takes its name when the stack is left without an error."""
    part = stack.enter_context(replacing(path))
    return stack.enter_context(
        part.open("w", encoding="utf-8", errors="backslashreplace", newline="\n")
    )


def _page(
    args: argparse.Namespace, recognizer: Recognizer, listening: socket, address: Address
) -> closing[PageServer]:
    """Begins to serve the page and says where."""
    from dvfl_runtime.serve.server import PageServer  # asyncio takes a while, and few need it

    info, labels = recognizer.info, recognizer.labels
    page = PageServer(listening, address.host, args.token, info=info, labels=labels)
    secret = "?token=..." if args.token else ""  # which is not for logs
    print(f"{PROG}: serving at http://{address}/{secret}", file=sys.stderr)
    return closing(page)


def _linger(linger_s: float | None) -> None:
    """Keeps the page for those who come late, until the time is over or a signal arrives."""
    if linger_s is None:
        watched = all(stream and stream.isatty() for stream in (sys.stdout, sys.stderr))
        linger_s = math.inf if watched else 0.0
    if linger_s > 0:
        until = "until Ctrl-C" if linger_s == math.inf else f"for {linger_s:g} s, or until Ctrl-C"
        print(f"{PROG}: all sources have ended; the page stays {until}", file=sys.stderr)
        threading.Event().wait(min(linger_s, threading.TIMEOUT_MAX))


def _say_what_runs(recognizer: Recognizer) -> None:
    info = recognizer.info
    print(
        f"{PROG}: model {info.name} {info.precision} on {info.engine} "
        f"{info.versions[info.engine]}, {info.provider}, {info.device}",
        file=sys.stderr,
    )


def _address(text: str) -> Address:
    try:
        return Address.parse(text)
    except ValueError as err:
        raise argparse.ArgumentTypeError(str(err)) from err


if __name__ == "__main__":
    sys.exit(main())
