"""A model on streams: windows per second, how late results are, and how many cameras it takes."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, cast

import numpy as np

from dvfl_bench.device.videos import LoopedVideo, SimulatedCamera
from dvfl_runtime import Prediction, Recognizer
from dvfl_runtime.engines.cpus import usable_cpus
from dvfl_runtime.sources import LiveSource

FPS = 30.0
MAX_CAMERAS = 64
MAX_TRIALS = 5
# to keep up means at least
LEAST_WINDOWS = 0.95  # of those that are due, and at most
MOST_DROPPED = 0.02  # of the frames


def _stream(recognizer: Recognizer, source: Any) -> Generator[Prediction, None, None]:
    """Return the stream as the generator that it is, so that it can be closed in time."""
    return cast("Generator[Prediction, None, None]", recognizer.stream(source))


def measure_throughput(recognizer: Recognizer, video: Path, seconds: float) -> dict[str, float]:
    """Stream a video that plays for ever, decoding and inference overlapping.

    Returns:
        `windows_per_s`; `video_s_per_s`, seconds of video in a second; `cpu_share`, of all cores
        that this process may use, 0 to 1.
    """
    with closing(LoopedVideo(video)) as loop, closing(_stream(recognizer, loop)) as predictions:
        next(predictions)
        begin_s, begin_cpu_s = time.perf_counter(), time.process_time()
        count = 0
        for _ in predictions:
            count += 1
            elapsed_s = time.perf_counter() - begin_s
            if elapsed_s > seconds:
                break
        cpu_s = time.process_time() - begin_cpu_s
    rate = count / elapsed_s
    hop_s = recognizer.spec.window_s / 4  # the default hop of streams
    return {
        "windows_per_s": round(rate, 2),
        "video_s_per_s": round(rate * hop_s, 2),
        "cpu_share": round(cpu_s / elapsed_s / usable_cpus(), 3),
    }


@dataclass(frozen=True)
class CameraTrial:
    """How a model keeps up with so many cameras at once.

    Attributes:
        streams: cameras of 30 pictures per second.
        due: windows that their frames make in the time.
        got: results that came.
        dropped: share of the frames that are in no result.
        p50_ms: median time from the newest frame in a clip to its result; `None` without results.
            That frame is half of a T-th of the window older than the window's end.
        p99_ms: the time that 99 of 100 results keep within.
        cpu_share: of all cores that this process may use, 0 to 1.
        ok: nearly all windows came, nearly no frame was dropped, and 99 of 100 results came before
            the next window.
    """

    streams: int
    due: int
    got: int
    dropped: float
    p50_ms: float | None
    p99_ms: float | None
    cpu_share: float
    ok: bool


def try_cameras(recognizer: Recognizer, video: Path, seconds: float, count: int) -> CameraTrial:
    """Stream from `count` cameras for so long, after a first window of each."""
    spec = recognizer.spec
    hop_s, span_s = spec.window_s / 4, spec.window_s + seconds
    cameras = [
        LiveSource(f"camera {k}", SimulatedCamera(video, FPS, phase=k / count))
        for k in range(count)
    ]
    begin_s, begin_cpu_s = time.perf_counter(), time.process_time()
    found: list[Prediction] = []
    with closing(_stream(recognizer, cameras)) as predictions:
        for prediction in predictions:
            if time.perf_counter() - begin_s > span_s:
                break
            found.append(prediction)
        cpu_s = time.process_time() - begin_cpu_s
        elapsed_s = time.perf_counter() - begin_s
    for camera in cameras:
        camera.close()
    # a window is complete with the first frame after it, so the time of one frame is subtracted
    due = count * max(1, int((span_s - spec.window_s - 1 / FPS) / hop_s))
    dropped = sum(p.dropped_frames for p in found) / (count * span_s * FPS)
    share = round(cpu_s / elapsed_s / usable_cpus(), 3)
    if not found:
        return CameraTrial(count, due, 0, round(dropped, 4), None, None, share, ok=False)
    p50, p99 = (float(v) for v in np.percentile([p.latency_ms for p in found], [50, 99]))
    ok = len(found) >= LEAST_WINDOWS * due and dropped <= MOST_DROPPED and p99 <= hop_s * 1e3
    seen = (count, due, len(found), round(dropped, 4))
    return CameraTrial(*seen, round(p50, 2), round(p99, 2), share, ok=ok)


def find_most_cameras(
    attempt: Callable[[int], CameraTrial], guess: int, limit: int = MAX_CAMERAS
) -> tuple[int, list[CameraTrial]]:
    """Search for the most cameras that can be kept up with, beginning at a guess.

    Returns:
        The number, 0 if not even one, and all trials in their order.
    """
    trials: list[CameraTrial] = []
    low, high = 0, limit + 1  # kept up with; not kept up with
    count = min(max(1, guess), limit)
    while low + 1 < high and len(trials) < MAX_TRIALS:
        trials.append(attempt(count))
        if trials[-1].ok:
            low = count
        else:
            high = count
        # halve the gap, but at most double or halve the last count
        count = max(1, min(2 * low if low else high // 2, (low + high) // 2))
    return low, trials


def measure_cameras(
    recognizer: Recognizer, video: Path, seconds: float, guess: float
) -> dict[str, Any]:
    """Measure one camera, and the most that can be kept up with.

    Args:
        recognizer: the model.
        video: what the cameras show.
        seconds: of each trial, after its first window.
        guess: how many they may be, where the search begins.

    Returns:
        Ready for JSON: the trial of one camera, the most cameras, and every trial.
    """
    attempt = cache(partial(try_cameras, recognizer, video, seconds))
    one = attempt(1)
    most, trials = find_most_cameras(attempt, int(guess)) if one.ok else (0, [])
    return {
        "fps": FPS,
        "one_camera": asdict(one),
        "most_cameras": most,
        "trials": [asdict(trial) for trial in trials],
    }
