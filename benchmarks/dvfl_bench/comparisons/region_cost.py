"""What several regions cost: time of all windows of a span, and memory, by the number of ids.

    python -m dvfl_bench.comparisons.region_cost --json FILE

A file of 1280 x 720 is recognised as whole pictures, and with boxes that walk through it, in turn,
with the same model; the memory is that of a process for each. The boxes are made by arithmetic, so
that no detector is measured.
"""

from __future__ import annotations

import functools
import logging
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dvfl_bench.comparisons.command import Result, comparison_parser, run_comparison
from dvfl_bench.device.cold_start import peak_mb
from dvfl_bench.device.timing import in_turn, ratios, summary
from dvfl_bench.device.videos import LoopedVideo, size_of, write_scaled
from dvfl_runtime import Frame, Recognizer
from dvfl_runtime.clips.regions import Regions
from dvfl_runtime.recognizer import DEMO_CLIP

log = logging.getLogger(__name__)

COUNTS = (0, 1, 10)  # ids; 0 is the whole picture
PICTURE = (1280, 720)


def walking(count: int, frame: Frame) -> dict[int, tuple[float, float, float, float]]:
    """Return boxes of a twentieth by a quarter of the picture, which walk to and fro."""
    left = 0.1 + 0.05 * (1 - np.cos(frame.time_s))
    return {n: (left + 0.075 * n, 0.4, 0.05, 0.25) for n in range(count)}


def span_ms(recognizer: Recognizer, video: Path, count: int) -> tuple[float, float]:
    """Recognise a whole file; return time and processor time of a span of time, ms."""
    regions: Regions = functools.partial(walking, count) if count else "frame"
    begin_s, begin_cpu_s = time.perf_counter(), time.process_time()
    windows = sum(1 for _ in recognizer.stream(video, regions=regions))
    wall_s, cpu_s = time.perf_counter() - begin_s, time.process_time() - begin_cpu_s
    spans = windows / max(1, count)
    return 1e3 * wall_s / spans, 1e3 * cpu_s / spans


def peak_of(engine: str, threads: int, video: Path, count: int) -> float:
    """Recognise a file in this process; return the peak of its memory, MB."""
    with Recognizer(engine=engine, num_threads=threads) as recognizer:
        span_ms(recognizer, video, count)
    return peak_mb() or float("nan")


def measure(engine: str, threads: int, rounds: int, seconds: float) -> Result:
    """Measure; return the result, ready for JSON.

    Args:
        engine: that runs the bundled model.
        threads: of the engine.
        rounds: how often the file is read in each way.
        seconds: of video.
    """
    with tempfile.TemporaryDirectory() as folder:
        long = Path(folder) / "long.mp4"
        video = write_scaled(LoopedVideo(DEMO_CLIP), PICTURE, long, seconds=seconds)
        with Recognizer(engine=engine, num_threads=threads) as recognizer:
            runs = {
                str(count): functools.partial(span_ms, recognizer, video, count) for count in COUNTS
            }
            times = in_turn(runs, range(rounds + 1))
        with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
            peaks = {n: pool.apply(peak_of, (engine, threads, video, n)) for n in COUNTS}
        shown = size_of(video)
    # the first round warms up: (rounds + 1, 2) -> (2, rounds)
    kept = {count: np.array(taken[1:]).T for count, taken in times.items()}
    result = {
        "what": "time of all windows of a span, and peak memory, by the number of ids; 0: whole",
        "model": "bundled",
        "engine": engine,
        "video": f"{seconds:g} s of {shown}",
        "rounds": rounds,
        "span": {count: summary(pair) for count, pair in kept.items()},
        "ten_over_ten_times_one": ratios(kept["10"], 10 * kept["1"]),
        "ten_over_ten_whole": ratios(kept["10"], 10 * kept["0"]),
        "peak_mb": {str(count): round(mb, 1) for count, mb in peaks.items()},
    }
    log.info("%s", result)
    return result


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    parser = comparison_parser("region_cost", __doc__)
    parser.add_argument("--engine", default="onnxruntime", help="default: onnxruntime")
    parser.add_argument("--threads", type=int, default=2, help="of the engine; default: 2")
    parser.add_argument("--seconds", type=float, default=20.0, help="of video")
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args(argv)
    shape = (args.engine, args.threads, args.rounds, args.seconds)
    return run_comparison(args, lambda: measure(*shape), threads=args.threads)


if __name__ == "__main__":
    sys.exit(main())
