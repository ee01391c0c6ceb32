"""Measure on a GPU what only a GPU can tell, in minutes and without a network: `make gpu-check`.

Parts, each with a results file of its own and bounded in time, eight minutes in all:
- training, 90 s: clips per second and memory of base and nano by precision, parity with the CPU, a
  short run of the trainer and its resumption. The file grows row by row.
- distillation, 240 s: base teaches nano on real video, cross-validated, with seeds.
- kernels, 90 s: those for CUDA, built with nvcc from export/kernels, against PyTorch, in a process
  of dvfl_kernels, because training does not know them.
- engines, 60 s: the engines of dvfl_runtime on the GPU, in a process of dvfl_bench, because
  training does not know them.
A part that cannot run is a row with the reason.

python -m dvfl_models.gpu_check runs/gpu-check --clips ../shared/data/ucf10/index.csv \
    --start bundled.pth
"""

from __future__ import annotations

import argparse
import json
import logging
import platform
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch

from dvfl_models.gpu_check.distillation import Plan, run_folds
from dvfl_models.gpu_check.processes import run_process
from dvfl_models.gpu_check.training import measure_training
from dvfl_models.studies.kept_clips import read_clips
from dvfl_models.studies.result_files import machine_and_date
from dvfl_models.studies.students import read_plan, summary
from dvfl_runtime.arguments import Parser, at_least, natural, run_command
from dvfl_runtime.files import cannot_write, write_json
from dvfl_runtime.interrupts import Requests

log = logging.getLogger(__name__)

# of each part, in the order of their runs
SECONDS = {"training": 90.0, "distillation": 240.0, "kernels": 90.0, "engines": 60.0}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return the exit status."""
    parser = Parser(
        prog="python -m dvfl_models.gpu_check",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("out", type=Path, help="folder of the results")
    parser.add_argument("--parts", nargs="+", choices=SECONDS, default=[*SECONDS])
    parser.add_argument("--clips", type=Path, help="index of labelled videos, for distillation")
    parser.add_argument("--start", type=Path, help="small checkpoint that networks start from")
    parser.add_argument("--folds", type=natural, default=2, help="beside the list's own split")
    parser.add_argument(
        "--seconds", nargs="+", type=_limit, default=[], metavar="PART=N", help="other bounds"
    )
    parser.add_argument("--plan", default="{}", help="changed values of the distillation, JSON")
    parser.add_argument("--tiny", action="store_true", help="small sizes, to see that it runs")
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="gpu-check: %(message)s")
    seconds = {**SECONDS, **dict(args.seconds)}
    tiny = args.tiny or not torch.cuda.is_available()

    def work(_: Requests) -> int:
        try:
            args.out.mkdir(parents=True, exist_ok=True)
        except OSError as err:
            raise cannot_write(args.out, err) from err
        plan = read_plan(Plan, args.plan)  # a wrong one is told before anything runs
        for part in [part for part in SECONDS if part in args.parts]:
            path = args.out / f"{part}.json"
            if part == "training":
                device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
                end_s = time.perf_counter() + seconds[part]
                rows = measure_training(device, args.out / "trainer", tiny=tiny, end_s=end_s)
                _write_rows(path, rows)
            elif part == "distillation":
                _distillation(args, path, plan, seconds[part])
            else:
                found = run_process(part, path, seconds[part], tiny=tiny)
                log.info("%s: %d rows in %s", part, len(found["rows"]), path)
        return 0

    return run_command(parser, work)


def _limit(text: str) -> tuple[str, float]:
    """Read "training=600", the bound of a part in seconds."""
    part, _, number = text.partition("=")
    if part not in SECONDS:
        raise argparse.ArgumentTypeError(f"give PART=N with a part of {[*SECONDS]}, got {text!r}")
    return part, at_least(0)(number)


def _machine() -> dict[str, Any]:
    found = {**machine_and_date(), "python": platform.python_version()}
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        found["gpu"] = f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB"
        found["cuda"] = torch.version.cuda
    return found


def _write_rows(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write a file anew after each row, so that a part that is cut short keeps its rows."""
    found: dict[str, Any] = {"part": path.stem, **_machine(), "rows": []}
    for row in rows:
        log.info("%s", json.dumps(row))
        found["rows"].append(row)
        write_json(path, found)


def _distillation(args: argparse.Namespace, path: Path, plan: Plan, seconds: float) -> None:
    if args.clips is None:
        row = {"row": "distillation", "reason": "no --clips, the index of labelled videos"}
        _write_rows(path, [row])
        return
    began_s = time.perf_counter()
    clips = read_clips(args.clips, args.folds)
    log.info("%d clips read in %.1f s", len(clips.classes), time.perf_counter() - began_s)
    left_s = seconds - (time.perf_counter() - began_s)
    rows, failed = run_folds(clips, args.out, plan, args.start, left_s)
    found = {
        "part": "distillation",
        **_machine(),
        "plan": plan.model_dump(),
        "failed_folds": failed,
        "clips": len(clips.classes),
        "groups": len(set(clips.groups)),
        "seconds": round(time.perf_counter() - began_s, 1),
        "summary": summary(rows, clips),
        "rows": rows,
    }
    write_json(path, found)
    log.info("%s", json.dumps(found["summary"], indent=1))
    if failed:
        log.error("folds %s failed, as told above; all others are in %s", failed, path)


if __name__ == "__main__":
    sys.exit(main())
