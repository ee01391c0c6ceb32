"""A model in a process of its own: the time to its first clip, and the memory it takes.

The memory on a GPU is experimental: not yet run on one.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from dvfl_runtime.errors import DvflError

PROGRAM = """
import json, sys, time
begin = time.perf_counter()
import numpy as np
import dvfl_runtime
from dvfl_runtime.engines.cuda import cuda_problem
imported = time.perf_counter()
model, engine, device, threads, precision = sys.argv[1:]
gpu = None
try:
    if device != "cpu" and cuda_problem() is None:
        from cuda.bindings import driver
        from dvfl_runtime.engines.gpu import Gpu
        gpu = Gpu(driver)
    free = gpu.free_bytes() if gpu else 0
    opening = time.perf_counter()
    with dvfl_runtime.Recognizer(
        model, engine=engine, device=device, num_threads=int(threads), precision=precision
    ) as recognizer:
        opened = time.perf_counter()
        spec = recognizer.spec
        recognizer.predict(np.zeros((spec.num_frames, *spec.size, 3), np.uint8))
        first = time.perf_counter()
        for _ in range(3):
            recognizer.predict(np.zeros((spec.num_frames, *spec.size, 3), np.uint8))
        from dvfl_bench.device.cold_start import peak_mb
        print(json.dumps({
            "import_ms": (imported - begin) * 1e3,
            "open_ms": (opened - opening) * 1e3,
            "first_clip_ms": (first - opened) * 1e3,
            "peak_rss_mb": peak_mb(),
            "device_memory_mb": (free - gpu.free_bytes()) / 2**20 if gpu else None,
        }))
except dvfl_runtime.DvflError as err:
    sys.exit(str(err))
"""


def peak_mb() -> float | None:
    """Return the peak resident memory of this process, MB; `None` where there is no /proc."""
    # VmHWM, because ru_maxrss counts what the parent held when it started the process
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    peaks = [line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")]
    return int(peaks[0]) / 1024 if peaks else None


def measure_cold_start(
    model: Path, *, engine: str, device: str, threads: int, precision: str = "file"
) -> dict[str, Any]:
    """Start a process that opens the model and runs four clips.

    Returns:
        Ready for JSON: ms of the import, of opening, of the first clip, and of the process from
        start to end (`process_ms`); peak resident memory, MB; on a GPU, memory taken there, MB.

    Raises:
        DvflError: if the model cannot be run.
    """
    command = [sys.executable, "-c", PROGRAM, str(model), engine, device, str(threads), precision]
    begin_ns = time.perf_counter_ns()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    process_ms = (time.perf_counter_ns() - begin_ns) / 1e6
    if done.returncode:
        raise DvflError(
            done.stderr.strip().splitlines()[-1] if done.stderr.strip() else "no answer"
        )
    found = {**json.loads(done.stdout.splitlines()[-1]), "process_ms": process_ms}
    return {name: None if v is None else round(v, 1) for name, v in found.items()}
