"""From a file to predictions in one thread: how long each stage takes, window by window."""

from __future__ import annotations

import time
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from dvfl_bench.device.timing import percentiles
from dvfl_bench.device.videos import LoopedVideo
from dvfl_runtime.artifact import Artifact
from dvfl_runtime.clips.spec import ClipOrigin
from dvfl_runtime.clips.windows import Windower
from dvfl_runtime.engines import Engine
from dvfl_runtime.streams.scoring import Scorer, softmax

STAGES = ("decode", "preprocess", "infer", "post")
SKIPPED = 2  # windows at the start, during which the file is opened and caches fill


def stage_times(
    artifact: Artifact, engine: Engine, video: Path, *, seconds: float
) -> dict[str, dict[str, Any]]:
    """Time the stages of each window of a video that plays for ever, one after the other.

    decode: all frames until the window is complete. preprocess: colour conversion, resizing and
    cropping of the frames that the window picks, and their copy into the clip. infer: the engine.
    post: softmax and the prediction. `Recognizer.stream` does the first two while the third runs;
    here they wait for each other, so that each can be seen.

    Returns:
        For each stage and for "total", percentiles in ms.

    Raises:
        DvflError: if the video cannot be read.
    """
    spec = artifact.spec
    windower = Windower(spec)
    scorer = Scorer(artifact, engine, artifact.name)
    clip = np.empty((1, spec.num_frames, *spec.size, 3), np.uint8)
    rows: list[list[int]] = []
    spent = dict.fromkeys(STAGES, 0)
    end_s = time.perf_counter() + seconds
    with closing(LoopedVideo(video)) as loop:
        mark = time.perf_counter_ns()
        for frame in loop.frames():
            mark = _add(spent, "decode", mark)
            windows = windower.push(frame)
            mark = _add(spent, "preprocess", mark)
            for window in windows:
                window.take(clip[0])
                mark = _add(spent, "preprocess", mark)
                logits = engine.run(clip)
                mark = _add(spent, "infer", mark)
                scorer.prediction(softmax(logits)[0], 5, ClipOrigin(), 0)
                mark = _add(spent, "post", mark)
                rows.append(list(spent.values()))
                spent = dict.fromkeys(STAGES, 0)
            if time.perf_counter() > end_s and len(rows) > SKIPPED:
                break
    times = np.array(rows[SKIPPED:]) / 1e6  # (windows, stages), ms
    named = {stage: percentiles(times[:, k]) for k, stage in enumerate(STAGES)}
    return {**named, "total": percentiles(times.sum(1))}


def _add(spent: dict[str, int], stage: str, since_ns: int) -> int:
    """Add the time since then to a stage; return the time now."""
    now_ns = time.perf_counter_ns()
    spent[stage] += now_ns - since_ns
    return now_ns
