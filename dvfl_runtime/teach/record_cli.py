"""dvfl-teach record: clips of your own actions, from a camera or a stream."""

from __future__ import annotations

import argparse
import os
import sys
from contextlib import ExitStack, closing
from pathlib import Path
from socket import socket
from typing import TYPE_CHECKING, Any

from dvfl_runtime.arguments import Parser, at_least, say, whole
from dvfl_runtime.artifact import ModelFile
from dvfl_runtime.errors import DvflError, SourceError
from dvfl_runtime.errors.packages import MEDIA
from dvfl_runtime.interrupts import Requests
from dvfl_runtime.recognizer import BUNDLED_MODEL
from dvfl_runtime.record.recorder import Recorder
from dvfl_runtime.serve.address import TOKEN_VARIABLE, Address, address_argument, listen
from dvfl_runtime.serve.desk import ClipDesk
from dvfl_runtime.sources import LiveOptions, open_source
from dvfl_runtime.sources.observed import ObservedSource
from dvfl_runtime.teach.clip_folder import clip_folders
from dvfl_runtime.teach.recording import ClipPlan, ClipSession, Moment

if TYPE_CHECKING:
    from dvfl_runtime.serve.server import PageServer

PROG = "dvfl-teach record"
MAX_OUTAGE_S = 60.0  # a camera that is away for longer ends the command
DESCRIPTION = """\
Record clips of an action from a camera or a stream, one after the other: it counts down, records
one clip, says what is wrong with it if anything is, and goes on with the next.

Do the action once in each clip, each time a little differently: from another place, faster, with
the other hand. About twelve clips of each action are a good start, from several persons (--person);
record an action called idle, too, in which nothing in particular happens. Recording again adds
clips to those that are there. Ctrl-C ends it; clips that are complete stay.
"""
EXAMPLES = """\
examples:
  dvfl-teach record 0 clips/wave                               12 clips from the first camera
  dvfl-teach record rtsp://door/live clips/wave --person anna  clips/wave/anna_01.mp4, ...
  dvfl-teach record 0 clips/wave clips/clap clips/idle --count 6  one action after the other
  dvfl-teach record 0 clips/wave clips/clap --serve 8000     a button for each action in a browser
  dvfl-teach fit clips -o mine.onnx                            then learn them
"""


def add_command(commands: Any) -> None:
    """Add the command to the subcommands of dvfl-teach."""
    parser: Parser = commands.add_parser(
        "record",
        help="record clips of an action from a camera or a stream",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.packages = MEDIA
    parser.set_defaults(work=_work, parser=parser)
    add = parser.add_argument
    add(
        "source", metavar="SOURCE", help="a camera (0, /dev/video0), rtsp://, http://, csi://, gst:"
    )
    add("places", metavar="FOLDER/LABEL", type=Path, nargs="+", help="where the clips go")
    add("--count", metavar="N", type=whole, default=12, help="clips of each action; default: 12")
    add(
        "--seconds",
        metavar="S",
        type=at_least(0.2),
        default=0.0,
        help="length of a clip; default: half as long again as the model's window",
    )
    add(
        "--countdown",
        metavar="S",
        type=at_least(0),
        default=3.0,
        help="before each clip, seconds; default: 3",
    )
    add(
        "--person",
        metavar="NAME",
        help="begins the names of the clips, so that `fit` can measure on persons held back",
    )
    add("--model", metavar="M", type=Path, default=BUNDLED_MODEL, help="that the clips are for")
    add(
        "--serve",
        metavar="HOST:PORT",
        type=address_argument,
        help="show the picture and a button for each action in a browser; PORT is enough",
    )
    add("--token", metavar="T", help=f"asked of each browser; default: ${TOKEN_VARIABLE}")


def _work(args: argparse.Namespace, _: Requests) -> int:
    """Record, and return the exit status."""
    if args.token is not None and not args.serve:
        raise DvflError("--token is what the page of --serve HOST:PORT asks for; pass both")
    token = args.token or os.environ.get(TOKEN_VARIABLE) or None
    plan = ClipPlan(ModelFile(args.model).artifact.spec, args.seconds, args.countdown)
    with ExitStack() as stack:
        folders = clip_folders(args.places, args.person)
        for folder in folders:
            stack.callback(folder.remove_if_empty)
        source = stack.enter_context(closing(_open_live(args.source)))
        listening = listen(args.serve, token) if args.serve else None
        if listening is not None:
            stack.enter_context(listening[0])
        line = _Line()
        recorder = stack.enter_context(closing(Recorder(source)))
        source.observers.append(recorder.observe)
        session = ClipSession(source, recorder, folders, plan, line.show)
        stack.callback(session.close)  # before the recorder completes what it writes
        if listening is not None:
            line.desk = ClipDesk({folder.label: folder.count() for folder in folders}, session.ask)
            stack.callback(_serve_page(line.desk, source, token, *listening).close)
        _run(session, line, [one.label for one in folders for _ in range(args.count)])
    return 0


def _serve_page(
    desk: ClipDesk, source: ObservedSource, token: str | None, listening: socket, address: Address
) -> PageServer:
    """Begin to serve the page and tell its address."""
    from dvfl_runtime.serve.server import PageServer

    page = PageServer(listening, address.host, token, desk=desk)
    page.watch(source)
    secret = "?token=..." if token else ""  # the token itself is not for logs
    say(f"{PROG}: serving at http://{address}/{secret}\n")
    return page


def _open_live(name: str) -> ObservedSource:
    """Open the source.

    Raises:
        SourceError: if it is no camera and no stream.
    """
    opened = open_source(name, live=LiveOptions(max_outage_s=MAX_OUTAGE_S))
    if not opened.live:
        opened.close()
        raise SourceError(
            f"{opened.name} is recorded already; put it, or the parts of it that show one action "
            f"each, into FOLDER/LABEL"
        )
    return ObservedSource(opened)


def _run(session: ClipSession, line: _Line, wanted: list[str]) -> None:
    """Record what is wanted, or what the page asks for; print a row for each clip.

    Args:
        session: records.
        line: on the terminal.
        wanted: the action of each clip; with a page its buttons ask instead.
    """
    total = doubtful = 0
    try:
        if line.desk is None:
            session.ask(wanted.pop(0))
        for clip in filter(None, session.run()):
            line.hide()
            total, doubtful = total + 1, doubtful + bool(clip.warnings)
            about = f"{clip.seconds:.1f} s, {clip.frames} pictures"
            warnings = [f"  WARNING: {warning}" for warning in clip.warnings]
            print("\n".join([f"{clip.path}  {about}", *warnings]), flush=True)
            if line.desk is not None:
                line.desk.add(clip.label, f"{clip.path.name}, {about}", clip.warnings, clip.strip)
            elif not wanted:
                return
            else:
                session.ask(wanted.pop(0))
    finally:
        line.hide()
        warned = f", {doubtful} of them with a warning" if doubtful else ""
        say(f"{PROG}: {total} {'clip' if total == 1 else 'clips'} recorded{warned}\n")


class _Line:
    """Tells the person in front of the camera what to do: on a terminal, and on the page.

    Attributes:
        desk: of the page; `None` without one.
    """

    def __init__(self) -> None:
        self._shown = sys.stderr.isatty()
        self.desk: ClipDesk | None = None

    def show(self, moment: Moment) -> None:
        """Show what happens now; a bell sounds at the beginning and the end of a clip."""
        bell = "\a" if moment.phase in ("recording", "checking") else ""
        self._put(moment.text + bell)
        if self.desk is not None:
            self.desk.show(moment.phase, moment.text or "press a button; the countdown begins then")

    def hide(self) -> None:
        """Clear the line for other text."""
        self._put("")

    def _put(self, text: str) -> None:
        if self._shown:
            say(f"\r\x1b[K{text}")
