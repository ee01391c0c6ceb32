"""dvfl-recognize: which actions, and when, in a video."""

from __future__ import annotations

import argparse
import io
import logging
import math
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import NoReturn, TextIO

from dvfl_runtime.engines import DEVICES, ENGINES
from dvfl_runtime.errors import DvflError, OutputError, SourceError
from dvfl_runtime.files import replacing
from dvfl_runtime.output import (
    SEGMENT_FORMATS,
    JsonlWriter,
    PredictionWriter,
    SegmentWriter,
    Sink,
    TableWriter,
    TimelineWriter,
    WholeTableWriter,
    check_segment_suffix,
    clock,
)
from dvfl_runtime.recognizer import Recognizer
from dvfl_runtime.results import Prediction, Segment
from dvfl_runtime.smoothing import Segmenter
from dvfl_runtime.sources import Source, open_source
from dvfl_runtime.version import __version__
from dvfl_runtime.windows import MIN_HOP_S

PROG = "dvfl-recognize"
DEMO_CLIP = Path(__file__).parent / "data" / "demo.mp4"
INTERRUPTED = 130  # 128 + SIGINT, as shells report it

DESCRIPTION = "Recognise human actions in videos. Without --model the bundled model is used."
EXAMPLES = """\
examples:
  dvfl-recognize --demo                              the bundled model on the bundled clip
  dvfl-recognize video.mp4                           one row per window of time
  dvfl-recognize video.mp4 --segments actions.csv    what happens from when to when
  dvfl-recognize video.mp4 --segments actions.srt    the same as subtitles for a player
  dvfl-recognize a.mp4 b.mp4 --format jsonl -o out.jsonl
  dvfl-recognize --whole --model mine.onnx *.avi     one answer per trimmed video
  dvfl-recognize frames/ --fps 10                    a folder of images, 10 per second

exit status: 0 on success, 2 on bad input, 130 after Ctrl-C (outputs so far are kept)
"""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message}\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit status."""
    logging.basicConfig(format=f"{PROG}: %(levelname)s: %(message)s", level=logging.WARNING)
    args = _parser().parse_args(argv)
    try:
        _check(args)
        return _run(args)
    except DvflError as err:
        print(f"{PROG}: error: {' '.join(str(err).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog=PROG,
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("sources", nargs="*", metavar="SOURCE", help="a video file or a folder of images")
    add("--demo", action="store_true", help="show what the bundled model sees in the bundled clip")
    add("--whole", action="store_true", help="one answer per video, for trimmed videos")
    model = parser.add_argument_group("model")
    add = model.add_argument
    add("--model", metavar="M", help="a file written by dvfl-export")
    add("--engine", metavar="E", default="auto", help=f"auto (default), {', '.join(ENGINES)}")
    add("--device", metavar="D", default="auto", help=f"{', '.join(DEVICES)}")
    add(
        "--threads", metavar="N", type=_whole, help="CPU threads; default: all this process may use"
    )
    timing = parser.add_argument_group("time")
    add = timing.add_argument
    add("--window-s", metavar="S", type=_seconds, help="length of a window; default: the model's")
    add("--hop-s", metavar="S", type=_seconds, help="from window to window; default: a quarter")
    add("--fps", metavar="F", type=_seconds, default=25.0, help="clock of a folder; default: 25")
    output = parser.add_argument_group("output")
    add = output.add_argument
    add("--format", choices=("table", "jsonl"), help="default: table, or jsonl for -o FILE.jsonl")
    add("--top-k", metavar="K", type=_whole, default=3, help="labels listed; default: 3")
    add("-o", "--output", metavar="FILE", type=Path, help="instead of standard output")
    add("--segments", metavar="FILE", type=Path, help="actions from start to end: .csv .json .srt")
    parser.add_argument("--version", action="version", version=f"{PROG} {__version__}")
    return parser


def _check(args: argparse.Namespace) -> None:
    """Raises DvflError for what can be known to be wrong before any work."""
    if args.demo and args.sources:
        raise SourceError("--demo brings its own clip; leave out the sources or --demo")
    if args.demo and not DEMO_CLIP.is_file():
        raise SourceError(f"the demo clip is not part of this installation ({DEMO_CLIP})")
    if not (args.demo or args.sources):
        raise SourceError("no source given; pass a video file, or --demo to see an example")
    if args.whole and (args.segments or args.window_s or args.hop_s):
        raise DvflError("--whole has no windows; leave out --segments, --window-s and --hop-s")
    if args.segments is not None:
        suffix = check_segment_suffix(args.segments)
        if suffix == ".srt" and len(args.sources) > 1:
            raise OutputError("subtitles are for one video; pass one source or write .csv")
        if args.output is not None and args.output.resolve() == args.segments.resolve():
            raise OutputError(f"-o and --segments both name {args.output}; choose two files")


def _run(args: argparse.Namespace) -> int:
    with ExitStack() as stack:
        out = _open(args.output, stack) if args.output else _StandardOutput()
        marks = _open(args.segments, stack) if args.segments else None
        recognizer = stack.enter_context(
            Recognizer(args.model, engine=args.engine, device=args.device, num_threads=args.threads)
        )
        if args.demo:
            _say_what_runs(recognizer)
        job = _Job(args, recognizer, out, marks)
        try:
            for source in [str(DEMO_CLIP)] if args.demo else args.sources:
                job.run(source)
        except KeyboardInterrupt:
            job.finish()
            return INTERRUPTED
        job.finish()
    return 0


class _Job:
    """One pass over the sources, with everything that is written from it."""

    def __init__(
        self, args: argparse.Namespace, recognizer: Recognizer, out: Sink, marks: Sink | None
    ) -> None:
        self._args = args
        self._recognizer = recognizer
        self._out = out
        self._rows: list[PredictionWriter] = []
        self._timelines: list[SegmentWriter] = []
        self._segmenter: Segmenter | None = None
        labels = recognizer.labels
        suffix = "" if args.output is None else args.output.suffix.lower()
        if (args.format or ("jsonl" if suffix == ".jsonl" else "table")) == "jsonl":
            self._rows.append(JsonlWriter(out))
        elif args.demo:
            self._timelines.append(TimelineWriter(out, labels))
        elif args.whole:
            self._rows.append(WholeTableWriter(out, labels))
        else:
            self._rows.append(TableWriter(out, labels))
        if marks is not None:
            self._timelines.append(SEGMENT_FORMATS[args.segments.suffix.lower()](marks))

    def run(self, name: str) -> None:
        """Recognises one source and writes what comes of it."""
        if self._is_unheard():
            return
        self._segmenter = Segmenter(self._recognizer.labels) if self._timelines else None
        with (
            closing(open_source(name, fps=self._args.fps)) as source,
            _Progress(source, shown=self._args.output is not None) as progress,
        ):
            for prediction in self._predictions(source):
                progress.show(prediction.end_s)
                for writer in self._rows:
                    writer.write(prediction)
                if self._segmenter is not None:
                    self._mark(self._segmenter.push(prediction))
                if self._is_unheard():
                    break
        self._end_source()

    def finish(self) -> None:
        """Completes the outputs, also in the middle of a source."""
        self._end_source()
        for writer in self._timelines:
            writer.finish()

    def _predictions(self, source: Source) -> Iterator[Prediction]:
        args = self._args
        if args.whole:
            return iter([self._recognizer.classify(source, top_k=args.top_k)])
        return self._recognizer.stream(
            source, window_s=args.window_s, hop_s=args.hop_s, top_k=args.top_k
        )

    def _end_source(self) -> None:
        segmenter, self._segmenter = self._segmenter, None
        if segmenter is not None:
            self._mark(segmenter.finish())

    def _mark(self, segments: list[Segment]) -> None:
        for segment in segments:
            for writer in self._timelines:
                writer.write(segment)

    def _is_unheard(self) -> bool:
        """Says whether nobody is left to read what would be written."""
        gone = isinstance(self._out, _StandardOutput) and self._out.gone
        return gone and self._args.segments is None


class _StandardOutput:
    """Standard output, which ends quietly when its reader does (`dvfl-recognize ... | head`)."""

    def __init__(self) -> None:
        self.gone = False
        if isinstance(sys.stdout, io.TextIOWrapper):  # file names need not be valid text
            sys.stdout.reconfigure(errors="backslashreplace")

    def write(self, text: str) -> None:
        """Writes at once.

        Raises:
            OutputError: if it cannot be written for another reason than a closed pipe.
        """
        if self.gone:
            return
        try:
            sys.stdout.write(text)
            sys.stdout.flush()
        except OSError as err:
            self.gone = True
            # what is still buffered would fail again, with a traceback, when Python exits
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            if not isinstance(err, BrokenPipeError):
                raise OutputError(f"cannot write to standard output: {err.strerror}") from err

    def flush(self) -> None:
        """Does nothing: `write` has done it."""


class _Progress:
    """One line on the terminal: how much of the source is done and how long the rest will take.

    It is shown only where standard error is a terminal and the rows do not go to one.
    """

    def __init__(self, source: Source, *, shown: bool) -> None:
        self._source = source
        self._shown = sys.stderr.isatty() and (shown or not sys.stdout.isatty())
        self._begin_s = time.monotonic()

    def __enter__(self) -> _Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self._put("")

    def show(self, done_s: float) -> None:
        """Shows that the source is done up to `done_s`."""
        total_s = self._source.duration_s
        if not total_s or done_s <= 0:
            self._put(f"{self._source.name}  {clock(done_s)}")
            return
        part = min(done_s / total_s, 1.0)
        left_s = round((time.monotonic() - self._begin_s) * (1 / part - 1))
        self._put(f"{self._source.name}  {part:4.0%}  ETA {left_s // 60}:{left_s % 60:02}")

    def _put(self, text: str) -> None:
        if self._shown:
            sys.stderr.write(f"\r\x1b[K{text}")
            sys.stderr.flush()


def _open(path: Path, stack: ExitStack) -> TextIO:
    """Opens an output that takes its name when the stack is left without an error."""
    part = stack.enter_context(replacing(path))
    return stack.enter_context(
        part.open("w", encoding="utf-8", errors="backslashreplace", newline="\n")
    )


def _say_what_runs(recognizer: Recognizer) -> None:
    info = recognizer.info
    print(
        f"{PROG}: model {info.name} {info.precision} on {info.engine} "
        f"{info.versions[info.engine]}, {info.provider}, {info.device}",
        file=sys.stderr,
    )


def _whole(text: str) -> int:
    value = int(text) if text.isascii() and text.isdigit() else 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number >= 1, got {text!r}")
    return value


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not MIN_HOP_S <= value < math.inf:
        raise argparse.ArgumentTypeError(f"must be a number >= {MIN_HOP_S}, got {text!r}")
    return value


if __name__ == "__main__":
    sys.exit(main())
