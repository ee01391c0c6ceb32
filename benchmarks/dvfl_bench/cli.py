"""The command `dvfl-bench`: how fast model files are on this device, and what they cost."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dvfl_runtime.arguments import Parser, at_least, run_command, threads
from dvfl_runtime.engines import DEVICES, ENGINES, PRECISIONS, installed_engines
from dvfl_runtime.engines.cpus import usable_cpus
from dvfl_runtime.errors import DvflError, EngineUnavailable
from dvfl_runtime.errors.packages import MEDIA, pip_install
from dvfl_runtime.files import check_places, replacing
from dvfl_runtime.recognizer import BUNDLED_MODEL
from dvfl_runtime.version import __version__

if TYPE_CHECKING:
    from dvfl_bench.device.benchmark import BenchRequest

PROG = "dvfl-bench"
PIPE_WIDTH = 110  # columns of a table where there is no terminal to tell
EPILOG = """\
examples:
  dvfl-bench                                    the bundled model in every installed engine
  dvfl-bench mine.onnx --engine onnxruntime
  dvfl-bench mine.onnx --precision file --precision bf16       is bf16 worth it here?
  dvfl-bench mine.onnx mine_int8.onnx --json now.json --plot now.png
        several files: also accuracy against latency, as the files tell it
  dvfl-bench mine.onnx --video street.mp4       decode this instead of the bundled clip at 1280x720
  dvfl-bench mine.onnx mine_int8.onnx --accuracy clips/ --json now.json
        and how often each is right on this device: clips/ has a folder of videos per class
  dvfl-bench mine.onnx --model-only --seconds 20
  dvfl-bench mine.onnx --baseline before.json --max-regression 0.1

On a Jetson: set the power mode (nvpmodel) and hold the clocks (jetson_clocks) first; both are part
of the result. Nothing else should run meanwhile.

exit status: 0 measured; 1 slower than the baseline allows; 2 bad input
"""


def parser() -> Parser:
    """Return the parser of `dvfl-bench`."""
    out = Parser(
        prog=PROG,
        description="Measure model files on this machine: inference, the whole way from a video\n"
        "file, and live streams. One and a half minutes for one file in two engines.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = out.add_argument
    out.packages = ("rich", "matplotlib", "threadpoolctl", *MEDIA)
    add("models", nargs="*", type=Path, metavar="FILE.onnx", help="default: the bundled model")
    add(
        "--engine",
        action="append",
        choices=tuple(ENGINES),
        help="may be given several times; default: all that are installed",
    )
    add(
        "--precision",
        action="append",
        choices=PRECISIONS,
        help="may be given several times; default: file; bf16: files in fp32 on a CPU with "
        "AVX512_BF16 or AMX, by openvino",
    )
    add("--device", choices=DEVICES, default="auto", help="default: auto")
    add("--threads", type=threads, default=usable_cpus(), help="default: all this process may use")
    add(
        "--seconds",
        type=at_least(0.2),
        default=3.0,
        help="of each measurement, for each file and engine; default: 3",
    )
    add("--video", type=Path, help="default: the bundled clip, scaled to 1280x720")
    add(
        "--accuracy",
        type=Path,
        metavar="DATASET",
        help="labelled videos to ask every file in every engine about, in the same run: a folder "
        "with a folder of videos per class, or a CSV with columns file and label",
    )
    add("--model-only", action="store_true", help="inference alone, no video")
    add("--json", type=Path, metavar="FILE", help="everything, every single time included")
    add("--plot", type=Path, metavar="FILE.png", help="latency, stages, accuracy against latency")
    add("--baseline", type=Path, metavar="FILE.json", help="an older --json to compare with")
    add(
        "--max-regression",
        type=at_least(0.0),
        default=0.15,
        metavar="SHARE",
        help="how much slower than the baseline is allowed; default: 0.15",
    )
    add("--version", action="version", version=f"{PROG} {__version__}")
    return out


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    command = parser()
    args = command.parse_args(argv)
    return run_command(command, lambda _: _run(args))


def _run(args: argparse.Namespace) -> int:
    inputs = [("a model", path) for path in args.models or [BUNDLED_MODEL]]
    given = (("--video", args.video), ("--accuracy", args.accuracy))
    inputs += [(option, path) for option, path in given if path]
    check_places([("--json", args.json), ("--plot", args.plot)], inputs)
    from rich.console import Console  # late: an extra, and --help does without

    from dvfl_bench.baseline import compare, other_machine, read_result
    from dvfl_bench.device.benchmark import SCHEMA, measure
    from dvfl_bench.tables import comparison, tables

    old = read_result(args.baseline, SCHEMA) if args.baseline else None
    if args.plot is not None and args.plot.suffix.lower() != ".png":
        raise DvflError(f"--plot writes a .png, got {args.plot}")
    with _progress() as step, _outputs(args) as write:
        result = measure(_request(args), step)
        rows = compare(old, result, args.max_regression) if old else []
        if rows:
            result["baseline"] = rows
        write(result)
    console = Console()
    if not console.is_terminal:
        console.width = PIPE_WIDTH
    console.print(tables(result))
    if old and (differences := other_machine(old, result)):
        print(f"{PROG}: warning: another machine: {differences}", file=sys.stderr)
    if rows:
        console.print(comparison(rows))
    return 1 if any(row["regressed"] for row in rows) else 0


def _request(args: argparse.Namespace) -> BenchRequest:
    from dvfl_bench.device.benchmark import BenchRequest

    return BenchRequest(
        models=args.models or [BUNDLED_MODEL],
        engines=_engines(args),
        video=args.video,
        device=args.device,
        threads=args.threads,
        seconds=args.seconds,
        streams=not args.model_only,
        accuracy=args.accuracy,
    )


def _engines(args: argparse.Namespace) -> list[tuple[str, str]]:
    """Return the name and the precision of each engine that was asked for.

    Raises:
        EngineUnavailable: if none was named and none is installed for a precision.
    """
    pairs: list[tuple[str, str]] = []
    for precision in dict.fromkeys(args.precision or ["file"]):
        names = args.engine or installed_engines(precision=precision)
        if not names:
            usual = "onnxruntime" if precision == "file" else "openvino"
            raise EngineUnavailable(
                f"no engine is installed for precision {precision!r}; "
                f"run: {pip_install(usual, *MEDIA)}"
            )
        pairs += [(name, precision) for name in dict.fromkeys(names)]
    return pairs


@contextmanager
def _outputs(args: argparse.Namespace) -> Iterator[Callable[[dict[str, Any]], None]]:
    """Open the outputs before the work, and yield a function that writes them all.

    They are put in place together, at the end of the context.

    Raises:
        OutputError: if one cannot be written.
    """
    with ExitStack() as stack:
        text = stack.enter_context(replacing(args.json)) if args.json else None
        picture = stack.enter_context(replacing(args.plot)) if args.plot else None

        def write(result: dict[str, Any]) -> None:
            if text is not None:
                text.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
            if picture is not None:
                from dvfl_bench.plots import save_plot

                save_plot(result, picture)

        yield write


@contextmanager
def _progress() -> Iterator[Callable[[str], None]]:
    """Show the current step and the time so far on a terminal, nothing in a pipe."""
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    columns = (SpinnerColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
    with Progress(
        *columns,
        console=console,
        transient=True,
        refresh_per_second=2,
        disable=not console.is_terminal,
    ) as bar:
        task = bar.add_task("", total=None)
        yield lambda name: bar.update(task, description=name)


if __name__ == "__main__":
    sys.exit(main())
