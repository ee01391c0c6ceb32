"""The cost of a teacher and a student: parameters, MACs, memory and time of one clip in PyTorch.

python -m dvfl_models.studies.cost base nano --json models/results/cost.json
"""

from __future__ import annotations

import json
import logging
import multiprocessing
import signal
import statistics
import sys
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from dvfl_models.network.video_focalnet import build_model, count_macs
from dvfl_models.studies.command import parse_variants, run_study
from dvfl_models.studies.result_files import machine_and_date
from dvfl_runtime.arguments import Parser, whole
from dvfl_runtime.errors import DvflError
from dvfl_runtime.files import check_places, write_json

log = logging.getLogger(__name__)

Shape = tuple[int, int, int, int]  # T, C, H, W


def peak_memory(variant: str, num_classes: int, shape: Shape) -> float:
    """Measure the memory that a network and one forward pass add to a fresh process; Linux alone.

    Returns:
        1e6 bytes.

    Raises:
        DvflError: if that process ends without an answer, for lack of memory for example.
    """
    context = multiprocessing.get_context("spawn")
    mine, its = context.Pipe()
    process = context.Process(target=_measure_memory, args=(its, variant, num_classes, shape))
    process.start()
    its.close()  # so that `recv` notices when the process ends
    try:
        megabytes: float = mine.recv()
    except EOFError as err:
        process.join()
        raise DvflError(
            f"the process that measured the memory of {variant} ended with status "
            f"{process.exitcode}{' (killed)' if process.exitcode == -signal.SIGKILL else ''}; "
            f"{variant} may need more memory than this machine has: leave it out"
        ) from err
    process.join()
    return megabytes


def _measure_memory(out: Connection, variant: str, num_classes: int, shape: Shape) -> None:
    before = _peak_kb()
    model = build_model(variant, num_classes=num_classes).eval()
    with torch.inference_mode():
        model(torch.rand(1, *shape))
    out.send((_peak_kb() - before) * 1024 / 1e6)


def _peak_kb() -> int:
    """Return the most memory that this process has held, by Linux's count, kB.

    `ru_maxrss` would begin with that of the parent process.
    """
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def time_in_turns(
    variants: Sequence[str], num_classes: int, rounds: int, shape: Shape
) -> dict[str, dict[str, float]]:
    """Measure the milliseconds per clip of variants that take turns, after one round of warm-up."""
    models = {name: build_model(name, num_classes=num_classes).eval() for name in variants}
    clip = torch.rand(1, *shape)
    taken_ms: dict[str, list[float]] = {name: [] for name in variants}
    with torch.inference_mode():
        for turn in range(rounds + 1):
            for name, model in models.items():
                began_ns = time.perf_counter_ns()
                model(clip)
                if turn:  # the first one is the warm-up
                    taken_ms[name].append((time.perf_counter_ns() - began_ns) / 1e6)
    return {
        name: {"median_ms": round(statistics.median(ms), 1), "min_ms": round(min(ms), 1)}
        for name, ms in taken_ms.items()
    }


def cost(
    variants: Sequence[str], num_classes: int = 101, rounds: int = 10, size: int = 224
) -> dict[str, Any]:
    """Measure all costs; ratios are the first variant's cost over the last one's.

    Args:
        variants: names.
        num_classes: of each network.
        rounds: in which the variants take turns.
        size: of a picture, both sides, px.
    """
    shape = (8, 3, size, size)
    times = time_in_turns(variants, num_classes, rounds, shape)
    rows: dict[str, dict[str, float]] = {}
    for name in variants:
        model = build_model(name, num_classes=num_classes)
        rows[name] = {
            "parameters_million": round(sum(p.numel() for p in model.parameters()) / 1e6, 2),
            "gmacs": round(count_macs(model, shape) / 1e9, 2),
            "peak_memory_mb": round(peak_memory(name, num_classes, shape)),
            **times[name],
        }
    first, last = rows[variants[0]], rows[variants[-1]]
    return {
        "table": "cost" if size == 224 else f"cost_{size}",
        "clip": list(shape),
        "num_classes": num_classes,
        "rounds": rounds,
        "variants": rows,
        "ratios": {key: round(first[key] / last[key], 2) for key in first},
        **machine_and_date(),
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return the exit status."""
    parser = Parser(
        prog="python -m dvfl_models.studies.cost", description="Compare the cost of variants."
    )
    parser.add_argument("--size", type=whole, default=224, help="of a picture, px")
    parser.add_argument("--classes", type=whole, default=101)
    args = parse_variants(parser, argv)

    def study() -> None:
        check_places([("--json", args.json)])
        found = cost(args.variants, args.classes, args.rounds, args.size)
        write_json(args.json, found)
        log.info("%s", json.dumps(found["ratios"]))

    return run_study("cost", study)


if __name__ == "__main__":
    sys.exit(main())
