"""Which of two model files is faster here? python benchmark_two_files.py fp32.onnx int8.onnx

They take turns, because a machine that gets hot or busy changes its speed meanwhile. dvfl-bench
measures much more: whole videos, cameras, memory, energy.
"""

import statistics
import sys
import time

import numpy as np

from dvfl_runtime import Recognizer

recognizers = [Recognizer(path) for path in sys.argv[1:3]]
clips = [np.zeros((r.spec.num_frames, *r.spec.size, 3), np.uint8) for r in recognizers]
taken_ms: list[list[float]] = [[], []]
for turn in range(25):
    for recognizer, clip, times in zip(recognizers, clips, taken_ms, strict=True):
        began_ns = time.perf_counter_ns()
        recognizer.predict(clip)
        if turn >= 5:  # the first ones warm up
            times.append((time.perf_counter_ns() - began_ns) / 1e6)
for path, times in zip(sys.argv[1:3], taken_ms, strict=True):
    print(f"{path}: {statistics.median(times):.1f} ms a clip (least {min(times):.1f})")
ratios = [second / first for first, second in zip(*taken_ms, strict=True)]
print(f"the second takes {statistics.median(ratios):.2f} of the time of the first")
