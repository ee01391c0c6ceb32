"""A model on streams: how many windows it keeps up with, how late results are, how many cameras."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np

from dvfl_bench.device.videos import Camera, Loop
from dvfl_runtime import Prediction, Recognizer
from dvfl_runtime.engines.cpus import usable_cpus
from dvfl_runtime.sources import LiveSource

FPS = 30.0
MAX_STREAMS = 64
MAX_TRIALS = 5
# what counts as keeping up
LEAST_WINDOWS = 0.95  # of those that are due
MOST_DROPPED = 0.02  # of the frames


def _stream(recognizer: Recognizer, source: Any) -> Generator[Prediction, None, None]:
    """The stream as what it is, so that it can be closed in time."""
    return cast("Generator[Prediction, None, None]", recognizer.stream(source))


def sustained(recognizer: Recognizer, video: Path, seconds: float) -> dict[str, float]:
    """Windows per second of a file that plays for ever, decoding and inference overlapping.

    Returns:
        `windows_per_s`; `video_s_per_s`, seconds of video in a second; `cpu_share`, of all that
        this process may use, 0 to 1.
    """
    with closing(Loop(video)) as loop, closing(_stream(recognizer, loop)) as predictions:
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
    hop_s = recognizer.spec.window_s / 4
    return {
        "windows_per_s": round(rate, 2),
        "video_s_per_s": round(rate * hop_s, 2),
        "cpu_share": round(cpu_s / elapsed_s / usable_cpus(), 3),
    }


@dataclass(frozen=True)
class Trial:
    """So many cameras at once.

    Attributes:
        streams: cameras of 30 pictures per second.
        due: windows that they give in the time.
        got: results that came.
        dropped: part of the frames that no result shows.
        p50_ms: from the newest picture of a window to its result, median; `None` without any.
            The picture lies half of a T-th of the window before its end, which is part of it.
        p99_ms: of 99 in 100.
        cpu_share: of all that this process may use, 0 to 1.
        ok: nearly all windows came, nearly no frame was dropped, and no result was later than the
            next window.
    """

    streams: int
    due: int
    got: int
    dropped: float
    p50_ms: float | None
    p99_ms: float | None
    cpu_share: float
    ok: bool


def trial(recognizer: Recognizer, video: Path, streams: int, seconds: float) -> Trial:
    """Streams that many cameras for so long, after a first window of each."""
    spec = recognizer.spec
    hop_s, span_s = spec.window_s / 4, spec.window_s + seconds
    cameras = [
        LiveSource(f"camera {k}", Camera(video, FPS, phase=k / streams)) for k in range(streams)
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
    due = streams * max(1, int((span_s - spec.window_s - 1 / FPS) / hop_s))
    dropped = sum(p.dropped_frames for p in found) / (streams * span_s * FPS)
    share = round(cpu_s / elapsed_s / usable_cpus(), 3)
    if not found:
        return Trial(streams, due, 0, round(dropped, 4), None, None, share, ok=False)
    p50, p99 = (float(v) for v in np.percentile([p.latency_ms for p in found], [50, 99]))
    ok = len(found) >= LEAST_WINDOWS * due and dropped <= MOST_DROPPED and p99 <= hop_s * 1e3
    seen = (streams, due, len(found), round(dropped, 4))
    return Trial(*seen, round(p50, 2), round(p99, 2), share, ok=ok)


def most_streams(
    run: Callable[[int], Trial], guess: int, limit: int = MAX_STREAMS
) -> tuple[int, list[Trial]]:
    """Looks for the most cameras that can be kept up with, beginning at a guess.

    Returns:
        The number, 0 if not even one, and all trials in their order.
    """
    trials: list[Trial] = []
    low, high = 0, limit + 1
    streams = min(max(1, guess), limit)
    while low + 1 < high and len(trials) < MAX_TRIALS:
        trials.append(run(streams))
        if trials[-1].ok:
            low = streams
        else:
            high = streams
        streams = max(1, min(2 * low if low else high // 2, (low + high) // 2))
    return low, trials


def live(recognizer: Recognizer, video: Path, seconds: float, guess: float) -> dict[str, Any]:
    """One camera, and as many as can be kept up with.

    Args:
        recognizer: the model.
        video: what the cameras show.
        seconds: of each trial, behind its first window.
        guess: how many they may be: where to begin to look.

    Returns:
        JSON-ready: the trial of one camera, the most cameras, and every trial.
    """
    one = trial(recognizer, video, 1, seconds)
    count, trials = 0, list[Trial]()
    if one.ok:
        count, trials = most_streams(
            lambda streams: one if streams == 1 else trial(recognizer, video, streams, seconds),
            int(guess),
        )
    return {
        "fps": FPS,
        "one_camera": asdict(one),
        "most_cameras": count,
        "trials": [asdict(t) for t in trials],
    }
