"""How long one clip takes: a model file through `Recognizer.predict`.

python -m dvfl_bench.latency MODEL.onnx [--engine E] [--threads 2] [--repeats 200] [--json FILE]
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dvfl_bench.machine import describe_machine
from dvfl_bench.report import report
from dvfl_runtime import Recognizer

WARM_UP = 20
PICTURE = (480, 640)  # what a camera gives; resizing is part of the time


def measure(model: Path, *, engine: str, threads: int, repeats: int) -> dict[str, Any]:
    """Times `predict` on random pictures of 480 x 640 px, after a warm-up.

    Returns:
        JSON-ready percentiles in ms, the cold start (open and first clip) in ms, what ran, and the
        machine.
    """
    begin_ns = time.perf_counter_ns()
    with Recognizer(model, engine=engine, num_threads=threads) as recognizer:
        shape = (recognizer.spec.num_frames, *PICTURE, 3)
        clip = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
        recognizer.predict(clip)
        cold_ms = (time.perf_counter_ns() - begin_ns) / 1e6
        times = [recognizer.predict(clip).latency_ms for _ in range(WARM_UP + repeats)][WARM_UP:]
        spec, info = recognizer.spec, recognizer.info
    p50, p90, p99 = np.percentile(times, [50, 90, 99])
    return {
        "what": "Recognizer.predict on one clip, preprocessing included",
        "model": model.name,
        "size_bytes": model.stat().st_size,
        "clip": [spec.num_frames, *spec.size],
        "engine": f"{info.engine} {info.versions[info.engine]}",
        "precision": info.precision,
        "p50_ms": round(float(p50), 2),
        "p90_ms": round(float(p90), 2),
        "p99_ms": round(float(p99), 2),
        "max_ms": round(max(times), 2),
        "n": len(times),
        "cold_start_ms": round(cold_ms, 1),
        "machine": describe_machine(threads),
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m dvfl_bench.latency", description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=200)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args(argv)
    result = report(
        lambda: measure(args.model, engine=args.engine, threads=args.threads, repeats=args.repeats),
        args.json,
    )
    return 2 if result is None else 0


if __name__ == "__main__":
    sys.exit(main())
