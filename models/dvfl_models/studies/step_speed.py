r"""What the forms of a training step are worth on this machine, measured in turn.

Forms: fp32, autocast to bf16, weights in channels-last order, blocks that are computed twice, and
torch.compile, which is measured with the time that it compiles.

OMP_WAIT_POLICY=passive python -m dvfl_models.studies.step_speed femto nano \
    --forms fp32 bf16 channels_last checkpointing --json models/results/step_speed.json
"""

from __future__ import annotations

import logging
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F

from dvfl_models.network.video_focalnet import build_model
from dvfl_models.studies.command import parse_variants, run_study
from dvfl_models.studies.result_files import machine_and_date
from dvfl_runtime.arguments import Parser
from dvfl_runtime.files import check_places, write_json

log = logging.getLogger(__name__)

FORMS = ("fp32", "bf16", "channels_last", "checkpointing", "compiled")
SHAPE = (8, 3, 64, 64)  # T, C, H, W
CLIPS = 16  # of a step
CLASSES = 10


def new_step(variant: str, form: str, shape: tuple[int, ...] = SHAPE) -> Callable[[], None]:
    """Return a step of training in one of `FORMS`: forward, backward, AdamW."""
    torch.manual_seed(0)
    model: Any = build_model(variant, num_classes=CLASSES).train()
    if form == "checkpointing":
        model.recompute_blocks()
    if form == "channels_last":
        model.to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters())
    network = torch.compile(model) if form == "compiled" else model
    clips, classes = torch.randn(CLIPS, *shape), torch.arange(CLIPS) % CLASSES

    def step() -> None:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=form == "bf16"):
            loss = F.cross_entropy(network(clips).float(), classes)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def measure(
    variant: str, rounds: int, shape: tuple[int, ...] = SHAPE, forms: Sequence[str] = FORMS
) -> list[dict[str, Any]]:
    """Return a row for each form; one that cannot run here is a row with the reason.

    `times_fp32` is the median of the rounds' ratios: a busy machine slows all forms of a round.
    `cpu_times_fp32` is the ratio of the least CPU time over all threads, which a busy machine
    changes least, if waiting threads do not spin: `OMP_WAIT_POLICY=passive`.
    """
    rows: dict[str, dict[str, Any]] = {}
    steps = {}
    for form in forms:
        began_s = time.perf_counter()
        rows[form] = {"variant": variant, "form": form}
        try:
            step = new_step(variant, form, shape)
            step()
        except Exception as err:  # a compiler that is not there, for example
            rows[form]["error"] = f"{type(err).__name__}: {str(err).strip().splitlines()[0]}"
            continue
        steps[form] = step
        rows[form]["first_step_s"] = round(time.perf_counter() - began_s, 1)
    taken_ms: dict[str, list[float]] = {form: [] for form in steps}
    cpu_ms: dict[str, list[float]] = {form: [] for form in steps}
    for _ in range(rounds):
        for form, step in steps.items():
            began_ns, cpu_began_ns = time.perf_counter_ns(), time.process_time_ns()
            step()
            taken_ms[form].append((time.perf_counter_ns() - began_ns) / 1e6)
            cpu_ms[form].append((time.process_time_ns() - cpu_began_ns) / 1e6)
    for form, times in taken_ms.items():
        ratios = [a / b for a, b in zip(times, taken_ms["fp32"], strict=True)]
        rows[form]["median_ms"] = round(statistics.median(times), 1)
        rows[form]["min_ms"] = round(min(times), 1)
        rows[form]["cpu_min_ms"] = round(min(cpu_ms[form]), 1)
        rows[form]["times_fp32"] = round(statistics.median(ratios), 2)
        rows[form]["cpu_times_fp32"] = round(min(cpu_ms[form]) / min(cpu_ms["fp32"]), 2)
    return list(rows.values())


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return the exit status."""
    parser = Parser(
        prog="python -m dvfl_models.studies.step_speed",
        description="Compare the forms of a training step on the CPU.",
    )
    parser.add_argument("--forms", nargs="+", choices=FORMS, default=FORMS, help="fp32 first")
    args = parse_variants(parser, argv)

    def study() -> None:
        check_places([("--json", args.json)])
        load, rows = round(os.getloadavg()[0], 2), []  # of the last minute: this run adds its own
        for variant in args.variants:
            for row in measure(variant, args.rounds, forms=args.forms):
                log.info("%s", row)
                rows.append(row)
        facts = {"clip": list(SHAPE), "clips": CLIPS, "rounds": args.rounds, "load_before": load}
        facts["omp_wait_policy"] = os.environ.get("OMP_WAIT_POLICY", "")
        write_json(args.json, {**facts, "rows": rows, **machine_and_date()})

    return run_study("step_speed", study)


if __name__ == "__main__":
    sys.exit(main())
