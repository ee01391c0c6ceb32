"""How long a new process takes until its first prediction of a video file.

python -m dvfl_bench.comparisons.startup [MODEL.onnx] [VIDEO] [--runs 5] [--json FILE]
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from dvfl_bench.comparisons.command import Result, comparison_parser, run_comparison
from dvfl_bench.device.timing import in_turn
from dvfl_runtime.engines import installed_engines
from dvfl_runtime.engines.cpus import usable_cpus
from dvfl_runtime.errors import DvflError
from dvfl_runtime.recognizer import BUNDLED_MODEL, DEMO_CLIP

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


def measure(model: Path, video: Path, *, runs: int) -> Result:
    """Start processes, the engines in turn, and take the least of each time.

    "auto" is measured with an empty cache folder, where it times the engines first, and with the
    choice remembered.

    Returns:
        Times in s, ready for JSON: import and first prediction, elapsed and of the processor.

    Raises:
        DvflError: if a process cannot make a prediction.
    """
    # the first start of TensorRT builds a plan, for minutes
    engines = [name for name in installed_engines() if name != "tensorrt"]
    names = [*engines, "auto, nothing remembered", "auto, remembered"]
    with tempfile.TemporaryDirectory() as remembered:
        start = partial(_first_prediction, model, video, remembered)
        start("auto, remembered")  # remembers; also brings the files into memory
        times = in_turn({name: partial(start, name) for name in names}, range(runs))
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
    }


def _first_prediction(model: Path, video: Path, remembered: str, name: str) -> dict[str, Any]:
    """Start a process; return its own times, s, and the time to its first prediction (elapsed).

    Args:
        model: of the process.
        video: to recognise.
        remembered: the cache folder where the choice of an engine is remembered.
        name: the engine, and for "auto" whether the cache folder is this one or an empty one.
    """
    command = [sys.executable, "-c", PROGRAM, str(model), str(video), name.partition(",")[0]]
    with tempfile.TemporaryDirectory() as empty:
        cache = empty if name.endswith("nothing remembered") else remembered
        env = {**os.environ, "DVFL_CACHE_DIR": cache}
        begin_ns = time.perf_counter_ns()
        with subprocess.Popen(
            command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            line = process.stdout.readline()  # comes with the first prediction
            elapsed_s = (time.perf_counter_ns() - begin_ns) / 1e9
            _, said = process.communicate()
    if not line:
        raise DvflError(said.strip() or f"a process ended with exit status {process.returncode}")
    return {**json.loads(line), "elapsed": elapsed_s}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    parser = comparison_parser("startup", __doc__)
    parser.add_argument("model", type=Path, nargs="?", default=BUNDLED_MODEL)
    parser.add_argument("video", type=Path, nargs="?", default=DEMO_CLIP)
    parser.add_argument("--runs", type=int, default=5)
    args = parser.parse_args(argv)
    measured = partial(measure, args.model, args.video, runs=args.runs)
    return run_comparison(args, measured, threads=usable_cpus())


if __name__ == "__main__":
    sys.exit(main())
