"""The fastest of several engines, from a short measurement that is remembered.

The choice lies as one small JSON file in `dvfl_runtime.files.cache_folder`, for each model,
versions of the engines and of this package, processor, device and number of threads. A folder that
cannot be written is no error: the measurement is repeated at the next start.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import logging
import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dvfl_runtime.artifact import graph_sha256
from dvfl_runtime.engines.cpus import usable_cpus
from dvfl_runtime.errors import ArtifactError, EngineUnavailable, OutputError
from dvfl_runtime.files import cache_folder, replacing
from dvfl_runtime.version import __version__

if TYPE_CHECKING:
    from dvfl_runtime.engines import Engine

logger = logging.getLogger(__name__)

SCHEMA = 1
RUNS = 7  # at most; the fastest counts, which a busy neighbour disturbs least
BUDGET_S = 0.2  # for each engine, after which no further run begins
DISTRIBUTIONS = {"onnxruntime": ("onnxruntime", "onnxruntime-gpu")}

Key = Mapping[str, object]


def open_fastest(
    names: Sequence[str],
    path: str | os.PathLike[str],
    open_one: Callable[[str], Engine],
    *,
    device: str,
    num_threads: int | None,
) -> Engine:
    """Opens a model in the fastest engine that can run it.

    With one engine there is nothing to measure. With several, each takes a few clips when this
    model is first opened on this machine.

    Args:
        names: of the engines, at least one; the first one wins a tie.
        path: the model file.
        open_one: opens the model in the engine of a name.
        device: what they were asked to run on.
        num_threads: for CPU work; None for as many as this process may use.

    Raises:
        EngineUnavailable: if none is usable; the last one's error.
        ArtifactError: if none can load the file; the last one's error.
    """
    if len(names) == 1:
        return open_one(names[0])
    key = _key(names, path, device, num_threads)
    file = _file(key)
    known = _recall(file, key)
    if known in names:
        with suppress(EngineUnavailable, ArtifactError):
            return open_one(known)
    engine, measured = _measured(names, open_one)
    _remember(file, key, engine.name, measured)
    return engine


def _measured(
    names: Sequence[str], open_one: Callable[[str], Engine]
) -> tuple[Engine, dict[str, float]]:
    """Returns the fastest engine, open, and the ms per clip of each that works."""
    best: Engine | None = None
    error: EngineUnavailable | ArtifactError | None = None
    measured: dict[str, float] = {}
    for name in names:
        try:
            engine = open_one(name)
        except (EngineUnavailable, ArtifactError) as err:
            # such as nodes of domain dvfl, which OpenVINO cannot expand, or TensorRT 8
            logger.info("not using %s: %s", name, err)
            error = err
            continue
        try:
            measured[engine.name] = ms_per_clip(engine)
        except ArtifactError as err:
            engine.close()
            logger.info("not using %s: %s", name, err)
            error = err
            continue
        if best is None or measured[engine.name] < measured[best.name]:
            best, engine = engine, best  # the other one is closed
        if engine is not None:
            engine.close()
    if best is None:
        assert error is not None
        raise error
    logger.info("ms per clip: %s", ", ".join(f"{n} {ms:.2f}" for n, ms in measured.items()))
    return best, measured


def ms_per_clip(engine: Engine) -> float:
    """Returns the shortest time that an engine takes for one clip, after a run to warm up."""
    shape = (1, *(1 if n is None else n for n in engine.clip_shape[1:]))
    clips = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    engine.run(clips)
    times: list[int] = []
    while len(times) < RUNS and sum(times) < BUDGET_S * 1e9:
        begin_ns = time.perf_counter_ns()
        engine.run(clips)
        times.append(time.perf_counter_ns() - begin_ns)
    return min(times) / 1e6


def _key(
    names: Sequence[str], path: str | os.PathLike[str], device: str, num_threads: int | None
) -> Key:
    return {
        "schema": SCHEMA,
        "dvfl": __version__,  # which may open a file otherwise than the one before
        "model_sha256": graph_sha256(path),
        "engines": {name: _version(name) for name in names},
        "cpu": _cpu(),
        "device": device,
        "threads": num_threads or usable_cpus(),
    }


def _version(name: str) -> str:
    """Returns the installed version without importing the engine, "" where it is not known."""
    for distribution in DISTRIBUTIONS.get(name, (name,)):
        with suppress(importlib.metadata.PackageNotFoundError):
            return importlib.metadata.version(distribution)
    return ""


def _cpu() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _file(key: Key) -> Path:
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
    return cache_folder() / f"engine-{digest[:16]}.json"


def _recall(file: Path, key: Key) -> str:
    """Returns the engine of an earlier measurement, "" if there is none."""
    try:
        about = json.loads(file.read_text(encoding="utf-8"))
        return str(about["engine"]) if about["key"] == key else ""
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def _remember(file: Path, key: Key, engine: str, measured: Mapping[str, float]) -> None:
    about = {
        "engine": engine,
        "ms_per_clip": {name: round(ms, 3) for name, ms in measured.items()},
        "key": key,
    }
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with replacing(file) as part:
            part.write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
    except (OSError, OutputError) as err:
        logger.info("the choice of %s is not remembered: %s", engine, err)
