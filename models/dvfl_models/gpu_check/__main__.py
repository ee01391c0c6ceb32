"""Measures what only a GPU can tell, in minutes and without a network: `make gpu-check`.

Parts, each in a file of its own that grows row by row:
- training: clips per second and memory of base and nano by precision, parity with the CPU, a short
  run of the trainer and its resumption.
- distillation: base teaches nano on real video, cross-validated, with seeds.

python -m dvfl_models.gpu_check runs/gpu-check --parts training distillation \
    --clips ../shared/data/ucf10/index.csv --start bundled.pth
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from dvfl_models.gpu_check.clips import read_clips, save
from dvfl_models.gpu_check.distillation import read_plan, summary
from dvfl_models.gpu_check.training import Row, distillation_rows, parity_rows, training_rows
from dvfl_models.recipe.recipe import recipe_from
from dvfl_models.studies.result_files import machine_and_date, write_json
from dvfl_models.training.launch import TrainOptions
from dvfl_models.training.trainer import Trainer
from dvfl_runtime.arguments import Parser, at_least, natural, run_command
from dvfl_runtime.errors import DvflError
from dvfl_runtime.files import cannot_write
from dvfl_runtime.interrupts import Requests

log = logging.getLogger(__name__)

PARTS = ("training", "distillation")
BATCHES = {"nano": (32, 64), "base": (8, 16)}
SMALL_BATCHES, SMALL_SHAPE = {"nano": (64, 128), "base": (64, 128)}, (8, 3, 64, 64)
TINY_BATCHES = {"femto": (1, 2)}
TINY_SHAPE = (4, 3, 32, 32)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
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
            _training(args)
        if "distillation" in args.parts:
            _distillation(args)
        return 0

    return run_command(parser, work)


def where() -> Row:
    """The machine and the date, for a results file."""
    found: Row = {**machine_and_date(), "python": platform.python_version()}
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        found["gpu"] = f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB"
        found["cuda"] = torch.version.cuda
    return found


def _training(args: argparse.Namespace) -> None:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    tiny = args.tiny or device.type == "cpu"
    batches, shape = (TINY_BATCHES, TINY_SHAPE) if tiny else (BATCHES, (8, 3, 224, 224))
    small, big = ("femto", "pico") if tiny else ("nano", "base")

    def rows() -> Iterator[Row]:
        yield from parity_rows(device, tuple(batches), shape)
        if device.type == "cuda":
            yield _bandwidth()
        yield from training_rows(device, batches, shape)
        yield from distillation_rows(device, big, small, batches[small][0], shape)
        yield from trainer_rows(args.out / "trainer", small, 4 if tiny else 40, tiny=tiny)
        if not tiny:
            yield from training_rows(device, SMALL_BATCHES, SMALL_SHAPE)
            yield from training_rows(device, batches, shape, compiled=True)

    _write(args.out / "training.json", rows)


def _bandwidth() -> Row:
    """What a copy within the GPU's memory reaches, bytes read and written."""
    source = torch.empty(2**30, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    times = []
    for _ in range(20):
        began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        began.record()
        target.copy_(source)
        ended.record()
        torch.cuda.synchronize()
        times.append(began.elapsed_time(ended))
    best_s = sorted(times)[len(times) // 2] / 1e3
    return {"row": "copy bandwidth", "gb_per_s": round(2 * 2**30 / best_s / 1e9)}


class _Stopped(Exception):
    pass


def trainer_rows(folder: Path, variant: str, steps: int, *, tiny: bool) -> Iterator[Row]:
    """Runs a recipe on rendered clips in bf16, once whole and once stopped and resumed."""
    values: dict[str, Any] = {
        "name": "gpu_check",
        "labels": ["idle", "wave_one_hand", "wave_two_hands", "jumping_jack", "bend"],
        "model": {"variant": variant, "init": "xavier"},
        "clip": {"num_frames": 4 if tiny else 8, "size": [64, 64], "crop": "letterbox"},
        "train": [{"kind": "synthetic"}],
        "optim": {"steps": steps, "batch_size": 4 if tiny else 32, "lr": 5e-4, "precision": "bf16"},
        "checkpoint_every": steps // 2,
        "test_every": 10**6,
    }
    recipe = recipe_from(values, "gpu_check")
    workers = 1 if tiny else os.cpu_count() or 1

    class Half(Trainer):
        def _after_step(self, row: dict[str, Any]) -> None:
            super()._after_step(row)
            if self.step == steps // 2:
                raise _Stopped

    weights = []
    for name, kind, resume in (("whole", Trainer, False), ("half", Half, False),
                               ("half", Trainer, True)):  # fmt: skip
        row: Row = {"row": "trainer", "network": variant, "run": "resumed" if resume else name}
        began_s = time.perf_counter()
        try:
            trainer = kind(recipe, folder / name, TrainOptions(resume=resume))
            trainer.run(workers=workers, progress=False)
            parameters = trainer.learner.network.parameters()
            weights.append(torch.cat([p.detach().flatten().cpu() for p in parameters]))
        except _Stopped:
            pass
        except Exception as err:
            yield row | {"error": f"{type(err).__name__}: {' '.join(str(err).split())}"}
            return
        speeds = sorted(float(line["clips_per_s"]) for line in trainer.metrics.rows())
        row |= {"device": str(trainer.accelerator.device), "workers": workers}
        row |= {"steps": trainer.step, "seconds": round(time.perf_counter() - began_s, 1)}
        yield row | {"median_clips_per_s": speeds[len(speeds) // 2]}
    whole, resumed = weights
    gap = float((whole - resumed).abs().max())
    yield {"row": "trainer", "network": variant, "resumed_differs_by": float(f"{gap:.3g}")}


def _distillation(args: argparse.Namespace) -> None:
    if args.clips is None:
        raise DvflError("the distillation needs --clips, the index of labelled videos")
    began_s = time.perf_counter()
    plan = read_plan(args.plan)
    clips = read_clips(args.clips, args.folds)
    saved, rows_at = args.out / "clips.pt", args.out / "distillation.jsonl"
    save(clips, saved)
    log.info("%d clips read in %.1f s", len(clips.classes), time.perf_counter() - began_s)
    command = [sys.executable, "-m", "dvfl_models.gpu_check.distillation", str(saved), str(rows_at)]
    command += ["--plan", args.plan]
    command += ["--start", str(args.start)] if args.start else []
    left_s = args.seconds - (time.perf_counter() - began_s)
    rows_at.unlink(missing_ok=True)
    processes = [
        subprocess.Popen([*command, "--fold", str(fold), "--seconds", str(left_s)])
        for fold in range(len(clips.tests))
    ]
    failed = [fold for fold, process in enumerate(processes) if process.wait()]
    lines = rows_at.read_text(encoding="utf-8").splitlines() if rows_at.exists() else []
    rows = sorted((json.loads(line) for line in lines), key=lambda row: row["fold"])
    found: Row = {
        "part": "distillation",
        **where(),
        "plan": plan.model_dump(),
        "failed_folds": failed,
    }
    found |= {"clips": len(clips.classes), "groups": len(set(clips.groups))}
    found |= {"seconds": round(time.perf_counter() - began_s, 1), "summary": summary(rows, clips)}
    write_json(args.out / "distillation.json", {**found, "rows": rows})
    saved.unlink()
    log.info("%s", json.dumps(found["summary"], indent=1))
    if failed:
        raise DvflError(f"folds {failed} failed, as told above; all others are in {args.out}")


def _write(path: Path, rows: Callable[[], Iterator[Row]]) -> None:
    """Writes a part's file anew after each row, so that a part cut short keeps what it has."""
    found: Row = {"part": path.stem, **where(), "rows": []}
    for row in rows():
        log.info("%s", json.dumps(row))
        found["rows"].append(row)
        write_json(path, found)


if __name__ == "__main__":
    sys.exit(main())
