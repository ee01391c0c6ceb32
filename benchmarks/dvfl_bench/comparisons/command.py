"""The command line of a comparison, and the way of its result into a file and the log."""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from dvfl_bench.device.machine import describe_machine
from dvfl_runtime.arguments import BAD_INPUT, Parser, threads
from dvfl_runtime.engines import PRECISIONS
from dvfl_runtime.engines.cpus import usable_cpus
from dvfl_runtime.errors import DvflError
from dvfl_runtime.files import check_places, write_json

log = logging.getLogger(__name__)

Result = dict[str, Any]  # ready for JSON


def comparison_parser(module: str, doc: str) -> Parser:
    """Return the parser of `python -m dvfl_bench.comparisons.MODULE`; its arguments hold it, too.

    Args:
        module: name of the module.
        doc: its docstring.
    """
    parser = Parser(
        prog=f"python -m dvfl_bench.comparisons.{module}",
        description=doc,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", type=Path, help="write the result here")
    parser.set_defaults(parser=parser)
    return parser


def add_network_options(parser: argparse.ArgumentParser, variants: Iterable[str] = ()) -> None:
    """Add the size and the threads of a network, and which it is where there are several."""
    if names := sorted(variants):
        parser.add_argument("--variant", choices=names, default="nano", help="default: nano")
    parser.add_argument("--size", type=int, default=224, help="px, both sides; default: 224")
    parser.add_argument("--threads", type=int, default=2, help="of each engine; default: 2")


def add_engine_options(parser: argparse.ArgumentParser) -> None:
    """Add the engine that runs a model file, its precision and its threads."""
    parser.add_argument("--engine", default="auto", help="default: the fastest that is installed")
    parser.add_argument(
        "--precision",
        choices=PRECISIONS,
        default="file",
        help="default: file; bf16: a file in fp32 on a CPU with AVX512_BF16 or AMX, by openvino",
    )
    parser.add_argument(
        "--threads", type=threads, default=usable_cpus(), help="of the engine; default: all CPUs"
    )


def run_comparison(
    args: argparse.Namespace,
    measure: Callable[[], Result],
    *,
    threads: int,
    then: Callable[[Result], int] = lambda _: 0,
) -> int:
    """Measure, write the result with the machine's description, log it; return the exit status.

    Args:
        args: of a `comparison_parser`; `json`, and `plot` where there is one, are checked first.
        measure: returns the result, ready for JSON. A `DvflError` is logged in one line.
        threads: that the engines are given, for the description of the machine.
        then: takes the result when the file is written; returns the exit status.
    """
    logging.basicConfig(format="%(message)s")
    for ours in (
        "__main__",
        "dvfl_bench",
        "dvfl_runtime",
    ):  # exporters say too much about their own work
        logging.getLogger(ours).setLevel(logging.INFO)
    try:
        check_places([("--json", args.json), ("--plot", getattr(args, "plot", None))])
        machine = describe_machine(threads)  # the load before this run adds its own
        result = {**measure(), "machine": machine}
        if args.json is not None:
            write_json(args.json, result)
        status = then(result)
    except DvflError as err:
        log.error("error: %s", args.parser.in_options(str(err)))
        return BAD_INPUT
    log.info(json.dumps(result, indent=1))
    return status
