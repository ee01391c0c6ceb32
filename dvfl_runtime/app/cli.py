"""dvfl-recognize: which actions, and when, in a video or in front of a camera."""

from __future__ import annotations

import argparse
import math
import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from socket import socket
from typing import TYPE_CHECKING

from dvfl_runtime.app.options import PROG, make_parser
from dvfl_runtime.app.outputs import Outputs, Task, files_for_sources, is_folder
from dvfl_runtime.app.recognition import Recognition
from dvfl_runtime.arguments import run_command, say
from dvfl_runtime.console.output import (
    CsvSegments,
    JsonlWriter,
    JsonSegments,
    SegmentDocument,
    TableWriter,
    TimelineWriter,
    WholeTableWriter,
    segment_suffix,
)
from dvfl_runtime.console.terminal import StandardOutput
from dvfl_runtime.draw.overlay import check_overlay_suffix
from dvfl_runtime.errors import DvflError, OutputError, SourceError
from dvfl_runtime.files import RowFile, check_places
from dvfl_runtime.files.row_files import RowStream
from dvfl_runtime.interrupts import Interrupted, Requests, uninterrupted
from dvfl_runtime.recognizer import BUNDLED_MODEL, Recognizer
from dvfl_runtime.results import Prediction
from dvfl_runtime.serve.address import TOKEN_VARIABLE, Address, listen
from dvfl_runtime.sources import Source, is_live
from dvfl_runtime.sources.folders import sources_in

if TYPE_CHECKING:
    from dvfl_runtime.serve.server import PageServer

DEMO_CLIP = Path(__file__).parents[1] / "data" / "demo.mp4"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    parser = make_parser()
    args = parser.parse_args(argv)

    def work(requests: Requests) -> int:
        with ExitStack() as new_folders, ExitStack() as page:
            _check_options(args)
            tasks = _plan_tasks(args, new_folders)
            status = _recognise(args, tasks, page, requests)
            requests.release()
            if args.serve and requests.number is None:
                _keep_page_open(args.linger)
        return status

    return run_command(parser, work)


def _check_options(args: argparse.Namespace) -> None:
    """Raise DvflError for options that contradict each other; complete `sources` and `token`."""
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
    # a live source may never end, and then no other one would be read after it
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


def _videos(source: str) -> list[str]:
    """Return the videos of a folder, or the source itself, also if it cannot be read."""
    try:
        return sources_in(source)
    except SourceError:
        return [source]


def _plan_tasks(args: argparse.Namespace, new_folders: ExitStack) -> list[Task]:
    """Check the places of all outputs and return the files for each source.

    It sets `segment_format`, and makes the folders of outputs, which `new_folders` removes again if
    they stay empty.

    Raises:
        OutputError: if an output cannot be written.
    """
    args.segment_format = None
    if args.append and not (args.output or args.segments):
        raise OutputError("--append continues -o FILE and --segments FILE.csv; pass one of them")
    if args.segments is not None:
        to_folder = is_folder(args.segments)
        args.segment_format = ".srt" if to_folder else segment_suffix(Path(args.segments))
        if args.append and args.segment_format != ".csv":
            raise OutputError(f"--append continues files of rows, which {args.segments} is not")
    if args.overlay is not None and not is_folder(args.overlay):
        check_overlay_suffix(Path(args.overlay))
    is_srt = args.segment_format == ".srt"
    files = partial(files_for_sources, sources=args.sources, new_folders=new_folders)
    overlays = files("--overlay", args.overlay, ".mp4")
    subtitles = files("--segments", args.segments if is_srt else None, ".srt")
    inputs = [("a source", name) for name in args.sources if not is_live(name)]
    check_places(
        [
            *(("-o", args.output), ("--segments", None if is_srt else args.segments)),
            *(("--segments", path) for path in subtitles),
            *(("--overlay", path) for path in overlays),
        ],
        [*inputs, ("--model", args.model or BUNDLED_MODEL)],
    )
    return list(map(Task, args.sources, overlays, subtitles))


def _recognise(
    args: argparse.Namespace, tasks: Sequence[Task], page: ExitStack, requests: Requests
) -> int:
    """Recognise all sources, complete the outputs, and return the exit status.

    Args:
        args: the options.
        tasks: the sources.
        page: closes the page, which outlives the other outputs.
        requests: to end.
    """
    listening = listen(args.serve, args.token) if args.serve else None
    if listening is not None:
        page.enter_context(listening[0])
    with ExitStack() as stack:
        # opened before the model is loaded, so that an error comes at once
        rows = _open_rows(args.output, args, stack)
        segments = args.segments if args.segment_format == ".csv" else None
        segment_rows = _open_rows(segments, args, stack)
        recognizer = stack.enter_context(
            Recognizer(args.model, engine=args.engine, device=args.device, num_threads=args.threads)
        )
        if args.demo:
            _say_what_runs(recognizer)
        outputs = _make_outputs(args, rows, segment_rows, recognizer.labels)
        if args.segment_format == ".json":
            with uninterrupted():  # otherwise a temporary file could be left behind
                document = SegmentDocument(args.segments, JsonSegments)
                outputs.segments.append(stack.enter_context(closing(document)))
        if listening is not None:
            outputs.page = _serve_page(args, recognizer, *listening)
            page.callback(outputs.page.close)
        recognition = Recognition(
            _predictor(args, recognizer), recognizer.labels, outputs, _report, fps=args.fps
        )
        try:
            recognition.recognise([tasks] if args.together else [[task] for task in tasks])
            requests.hold()
        except Interrupted:
            pass  # the results so far are completed and kept
        finally:
            requests.hold()
            recognition.finish()
        if recognition.failed == len(tasks):
            raise SourceError(f"{recognition.failed} of {len(tasks)} sources failed")
    if recognition.failed:
        _report(f"{recognition.failed} of {len(tasks)} sources failed")
    return 1 if recognition.failed else 0


def _open_rows(path: str | None, args: argparse.Namespace, stack: ExitStack) -> RowFile | None:
    return None if path is None else stack.enter_context(RowFile(path, append=args.append))


def _make_outputs(
    args: argparse.Namespace,
    rows: RowFile | None,
    segment_rows: RowFile | None,
    labels: Sequence[str],
) -> Outputs:
    """Return the text outputs about all sources that the options ask for."""
    out: RowStream = rows or StandardOutput()
    lasting = args.overlay or args.serve or args.segment_format in (".json", ".srt")
    outputs = Outputs(lasting=bool(lasting))
    suffix = Path(args.output or "").suffix.lower()
    jsonl = (args.format or ("jsonl" if suffix == ".jsonl" else "table")) == "jsonl"
    several = len(args.sources) > 1
    # a person at a terminal wants to know what happens when, not each window
    for_people = not (args.output or args.format or args.together) and sys.stdout.isatty()
    if args.serve and not (args.format or args.output):
        pass  # the page shows the predictions
    elif jsonl:
        outputs.predictions.append(JsonlWriter(out))
    elif args.whole:
        outputs.predictions.append(WholeTableWriter(out, labels))
    elif args.demo or for_people:
        outputs.segments.append(TimelineWriter(out, labels, named=several))
    else:
        named = not (args.together and several)
        outputs.predictions.append(TableWriter(out, labels, named=named))
    outputs.on_terminal = rows is None and not outputs.segments
    if outputs.predictions or outputs.segments:
        outputs.texts.append(out)
    if segment_rows is not None:
        outputs.segments.append(CsvSegments(segment_rows, heads=not segment_rows.continues))
        outputs.texts.append(segment_rows)
    return outputs


def _predictor(
    args: argparse.Namespace, recognizer: Recognizer
) -> Callable[[Sequence[Source]], Iterator[Prediction]]:
    """Return the function that yields the predictions of sources."""
    if args.whole:
        return lambda sources: (recognizer.classify(one, top_k=args.top_k) for one in sources)
    return partial(recognizer.stream, window_s=args.window_s, hop_s=args.hop_s, top_k=args.top_k)


def _serve_page(
    args: argparse.Namespace, recognizer: Recognizer, listening: socket, address: Address
) -> PageServer:
    """Begin to serve the page and tell its address."""
    from dvfl_runtime.serve.server import PageServer  # asyncio takes a while, and few need it

    info, labels = recognizer.info, recognizer.labels
    page = PageServer(listening, address.host, args.token, info=info, labels=labels)
    secret = "?token=..." if args.token else ""  # the token itself is not for logs
    say(f"{PROG}: serving at http://{address}/{secret}\n")
    return page


def _keep_page_open(linger_s: float | None) -> None:
    """Keep the page open until the time is over or a signal arrives."""
    if linger_s is None:
        on_terminal = all(stream and stream.isatty() for stream in (sys.stdout, sys.stderr))
        linger_s = math.inf if on_terminal else 0.0
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


def _report(error: str) -> None:
    say(f"{PROG}: error: {' '.join(error.split())}\n")


if __name__ == "__main__":
    sys.exit(main())
