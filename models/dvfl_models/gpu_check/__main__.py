"""Measure on a GPU what only a GPU can tell, in minutes and without a network: `make gpu-check`.

Parts, each with a results file of its own:
- training: clips per second and memory of base and nano by precision, parity with the CPU, a short
  run of the trainer and its resumption. The file grows row by row.
- distillation: base teaches nano on real video, cross-validated, with seeds.

python -m dvfl_models.gpu_check runs/gpu-check --parts training distillation \
    --clips ../shared/data/ucf10/index.csv --start bundled.pth
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

from dvfl_models.gpu_check.clips import read_clips
from dvfl_models.gpu_check.distillation import read_plan, run_folds, summary
from dvfl_models.gpu_check.training import measure_training
from dvfl_models.studies.result_files import machine_and_date
from dvfl_runtime.arguments import Parser, at_least, natural, run_command
from dvfl_runtime.errors import DvflError
from dvfl_runtime.files import cannot_write, write_json
from dvfl_runtime.interrupts import Requests

log = logging.getLogger(__name__)

PARTS = ("training", "distillation")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return the exit status."""
    parser = Parser(
        prog="python -m dvfl_models.gpu_check",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("out", type=Path, help="folder of the results")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--clips", type=Path, help="index of labelled videos, for distillation")
    parser.add_argument("--start", type=Path, help="small checkpoint that networks start from")
    parser.add_argument("--folds", type=natural, default=5, help="beside the list's own split")
    parser.add_argument(
        "--seconds", type=at_least(0), default=240, help="of the distillation, about"
    )
    parser.add_argument("--plan", default="{}", help="changed values of the distillation, JSON")
    parser.add_argument("--tiny", action="store_true", help="small sizes, to see that it runs")
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="gpu-check: %(message)s")

    def work(_: Requests) -> int:
        try:
            args.out.mkdir(parents=True, exist_ok=True)
        except OSError as err:
            raise cannot_write(args.out, err) from err
        if "training" in args.parts:
            device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
            tiny = args.tiny or device.type == "cpu"
            rows = measure_training(device, args.out / "trainer", tiny=tiny)
            _write_rows(args.out / "training.json", rows)
        if "distillation" in args.parts:
            _distillation(args)
        return 0

    return run_command(parser, work)


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


def _distillation(args: argparse.Namespace) -> None:
    if args.clips is None:
        raise DvflError("the distillation needs --clips, the index of labelled videos")
    began_s = time.perf_counter()
    plan = read_plan(args.plan)
    clips = read_clips(args.clips, args.folds)
    log.info("%d clips read in %.1f s", len(clips.classes), time.perf_counter() - began_s)
    left_s = args.seconds - (time.perf_counter() - began_s)
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
    write_json(args.out / "distillation.json", found)
    log.info("%s", json.dumps(found["summary"], indent=1))
    if failed:
        raise DvflError(f"folds {failed} failed, as told above; all others are in {args.out}")


if __name__ == "__main__":
    sys.exit(main())
