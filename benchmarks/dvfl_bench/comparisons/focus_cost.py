"""What it costs to look at what moves: time per window of a file, and memory of its process.

    python -m dvfl_bench.comparisons.focus_cost --json FILE

Both ways read the same file of 1280 x 720 in turn, with the same model; the memory is that of a
process for each.
"""

from __future__ import annotations

import logging
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import get_args

import numpy as np

from dvfl_bench.comparisons.command import Result, comparison_parser, run_comparison
from dvfl_bench.device.cold_start import peak_mb
from dvfl_bench.device.timing import in_turn, ratios, summary
from dvfl_bench.device.videos import LoopedVideo, size_of, width_and_height, write_scaled
from dvfl_runtime import Recognizer
from dvfl_runtime.clips.spec import Focus
from dvfl_runtime.recognizer import DEMO_CLIP

log = logging.getLogger(__name__)

WAYS: tuple[Focus, ...] = get_args(Focus)
ENGINES = ("onnxruntime", "openvino")


def window_ms(recognizer: Recognizer, video: Path) -> tuple[float, float]:
    """Recognise a whole file; return time and processor time of all threads per window, ms."""
    begin_s, begin_cpu_s = time.perf_counter(), time.process_time()
    windows = sum(1 for _ in recognizer.stream(video))
    wall_s, cpu_s = time.perf_counter() - begin_s, time.process_time() - begin_cpu_s
    return 1e3 * wall_s / windows, 1e3 * cpu_s / windows


def peak_of(model: Path | None, engine: str, threads: int, focus: Focus, video: Path) -> float:
    """Recognise a file in this process; return the peak of its memory, MB."""
    with Recognizer(model, engine=engine, num_threads=threads, focus=focus) as recognizer:
        window_ms(recognizer, video)
    return peak_mb() or float("nan")


def measure(
    model: Path | None, threads: int, rounds: int, picture: tuple[int, int], seconds: float
) -> Result:
    """Measure both engines; return the result, ready for JSON.

    Args:
        model: the model file, the bundled one by default.
        threads: of the engines.
        rounds: how often each way reads the file.
        picture: (width, height) of the video, px.
        seconds: of video.
    """
    engines = {}
    with tempfile.TemporaryDirectory() as folder:
        video = write_scaled(
            LoopedVideo(DEMO_CLIP), picture, Path(folder) / "long.mp4", seconds=seconds
        )
        shown = size_of(video)
        for engine in ENGINES:
            engines[engine] = measure_engine(model, engine, threads, rounds, video)
            log.info("%s: %s", engine, engines[engine])
    return {
        "what": "time per window and peak memory of a file, by what the model is shown",
        "model": "bundled" if model is None else model.name,
        "video": f"{seconds:g} s of {shown}",
        "rounds": rounds,
        "engines": engines,
    }


def measure_engine(
    model: Path | None, engine: str, threads: int, rounds: int, video: Path
) -> dict[str, object]:
    """Return time and memory of each way, and how much "motion" takes more than "frame"."""
    recognizers = {
        focus: Recognizer(model, engine=engine, num_threads=threads, focus=focus) for focus in WAYS
    }
    runs = {focus: partial(window_ms, opened, video) for focus, opened in recognizers.items()}
    times = in_turn(runs, range(rounds + 1))
    for opened in recognizers.values():
        opened.close()
    # the first round warms up: (rounds + 1, 2) -> (2, rounds)
    kept = {focus: np.array(taken[1:]).T for focus, taken in times.items()}
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        peaks = {
            focus: pool.apply(peak_of, (model, engine, threads, focus, video)) for focus in WAYS
        }
    return {
        "window": {focus: summary(pair) for focus, pair in kept.items()},
        "motion_over_frame": ratios(kept["motion"], kept["frame"]),
        "peak_mb": {focus: round(mb, 1) for focus, mb in peaks.items()},
        "more_mb": round(peaks["motion"] - peaks["frame"], 1),
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    parser = comparison_parser("focus_cost", __doc__)
    parser.add_argument("--model", type=Path, help="the bundled model by default")
    parser.add_argument("--threads", type=int, default=2, help="of each engine; default: 2")
    parser.add_argument(
        "--scale-to", type=width_and_height, default=(1280, 720), help="WxH of the video; 1280x720"
    )
    parser.add_argument("--seconds", type=float, default=20.0, help="of video")
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args(argv)
    shape = (args.model, args.threads, args.rounds, args.scale_to, args.seconds)
    return run_comparison(args, lambda: measure(*shape), threads=args.threads)


if __name__ == "__main__":
    sys.exit(main())
