"""Results files: what the studies measured, on which machine and when, as JSON."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch

from dvfl_runtime.clips.accuracy import wilson


def machine() -> str:
    """Return the CPU, what PyTorch uses of it, and the threads, in a line that names no host."""
    model, cpuinfo = platform.machine(), Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = cpuinfo.read_text(encoding="utf-8").splitlines()
        names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
        model = names[0] if names else model
    return (
        f"{model}, {os.cpu_count()} logical CPUs, {torch.backends.cpu.get_cpu_capability()}, "
        f"{torch.get_num_threads()} threads, torch {torch.__version__}"
    )


def machine_and_date() -> dict[str, Any]:
    """Return the entries of a results file that tell where and when it was measured."""
    return {"machine": machine(), "date": datetime.now(timezone.utc).date().isoformat()}


def accuracy_over_seeds(per_seed: Mapping[int, float], right: int, clips: int) -> dict[str, Any]:
    """Return the entries of a results file that tell the accuracy.

    Args:
        per_seed: the accuracy of each seed, 0 to 1.
        right: clips that a seed is right about, mean over seeds.
        clips: that each seed was tested on; the interval is that of these clips.
    """
    values = list(per_seed.values())
    return {
        "clips": clips,
        "accuracy_mean": round(mean(values), 4),
        "accuracy_ci95": [round(limit, 4) for limit in wilson(right, clips)],
        "accuracy_stdev_over_seeds": round(stdev(values), 4) if len(values) > 1 else None,
        "accuracy_per_seed": {str(seed): round(value, 4) for seed, value in per_seed.items()},
    }
