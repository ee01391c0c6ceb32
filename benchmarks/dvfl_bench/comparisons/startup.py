"""How long a new process takes until its first prediction of a video file.

python -m dvfl_bench.comparisons.startup [MODEL.onnx] [VIDEO] [--runs 5] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dvfl_bench.comparisons.command import report
from dvfl_bench.device.machine import describe_machine
from dvfl_runtime.engines import installed_engines
from dvfl_runtime.engines.cpus import usable_cpus
from dvfl_runtime.errors import DvflError
from dvfl_runtime.recognizer import BUNDLED_MODEL

PROGRAM = """
import json, sys, time
begin, begin_cpu = time.perf_counter(), time.process_time()
import dvfl_runtime
wall, cpu = time.perf_counter() - begin, time.process_time() - begin_cpu
from dvfl_runtime.errors import DvflError
model, video, engine = sys.argv[1:]
try:
    with dvfl_runtime.Recognizer(model, engine=engine) as recognizer:
        next(recognizer.stream(video))
        times = {"import": wall, "import_cpu": cpu, "first_cpu": time.process_time()}
        print(json.dumps({"engine": recognizer.info.engine, **times}), flush=True)
except DvflError as err:
    sys.exit(str(err))
"""


def measure(model: Path, video: Path, *, runs: int) -> dict[str, Any]:
    """Starts processes, the engines in turn, and takes the least of each time.

    "auto" is measured with an empty cache folder, where it times the engines first, and with the
    choice remembered.

    Returns:
        JSON-ready times in s (import, first prediction; elapsed and of the processor), and the
        machine.

    Raises:
        DvflError: if a process cannot make a prediction.
    """
    engines = [name for name in installed_engines() if name != "tensorrt"]
    names = [*engines, "auto, nothing remembered", "auto, remembered"]
    times: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    with tempfile.TemporaryDirectory() as remembered:
        _first(model, video, "auto", remembered)  # also brings the files into memory
        for _ in range(runs):
            for name, taken in times.items():
                with tempfile.TemporaryDirectory() as empty:
                    cache = empty if name.endswith("nothing remembered") else remembered
                    taken.append(_first(model, video, name.partition(",")[0], cache))
    everything = [t for taken in times.values() for t in taken]
    return {
        "what": "a new process until its first prediction of a video file; the least of n",
        "model": model.name,
        "video": video.name,
        "n": runs,
        "import_s": round(min(t["import"] for t in everything), 3),
        "import_processor_s": round(min(t["import_cpu"] for t in everything), 3),
        "first_prediction": {
            name: {
                "chosen": sorted({t["engine"] for t in taken}),
                "elapsed_s": round(min(t["elapsed"] for t in taken), 2),
                "processor_s": round(min(t["first_cpu"] for t in taken), 2),
            }
            for name, taken in times.items()
        },
        "machine": describe_machine(usable_cpus()),
    }


def _first(model: Path, video: Path, engine: str, cache: str) -> dict[str, Any]:
    command = [sys.executable, "-c", PROGRAM, str(model), str(video), engine]
    env = {**os.environ, "DVFL_CACHE_DIR": cache}
    begin_ns = time.perf_counter_ns()
    with subprocess.Popen(
        command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        elapsed_s = (time.perf_counter_ns() - begin_ns) / 1e9
        _, said = process.communicate()
    if not line:
        raise DvflError(said.strip() or f"a process ended with exit status {process.returncode}")
    return {**json.loads(line), "elapsed": elapsed_s}


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m dvfl_bench.comparisons.startup", description=__doc__
    )
    parser.add_argument("model", type=Path, nargs="?", default=BUNDLED_MODEL)
    parser.add_argument("video", type=Path, nargs="?", default=BUNDLED_MODEL.with_name("demo.mp4"))
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args(argv)
    result = report(lambda: measure(args.model, args.video, runs=args.runs), args.json)
    return 2 if result is None else 0


if __name__ == "__main__":
    sys.exit(main())
