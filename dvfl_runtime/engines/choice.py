"""The fastest of several engines, from a short measurement that is remembered.

The engines are measured again when the measurement is a month old, or when two of them were about
equally fast. Nothing is remembered when an engine failed: it may work again tomorrow.
"""

from __future__ import annotations

import importlib.metadata
import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, TypeAlias

import numpy as np

from dvfl_runtime.artifact import graph_sha256
from dvfl_runtime.engines.cpus import usable_cpus
from dvfl_runtime.engines.opening import Engine, unavailable
from dvfl_runtime.engines.remembered import Key, cpu_name, recall, remember
from dvfl_runtime.errors import DvflError
from dvfl_runtime.version import __version__

logger = logging.getLogger(__name__)

SCHEMA = 2
ROUNDS = 7  # at most; the fastest run counts, which a busy neighbour disturbs least
BUDGET_S = 0.2  # of runs for each engine; after that no further round begins
CLEAR = 1.1  # the winner is remembered if the next one takes this many times as long, or more
MAX_AGE_S = 30 * 24 * 3600
DISTRIBUTIONS = {"onnxruntime": ("onnxruntime", "onnxruntime-gpu")}

Failure: TypeAlias = tuple[str, DvflError]  # the name of an engine, and what it said


def open_fastest(
    names: Sequence[str],
    path: str | os.PathLike[str],
    open_one: Callable[[str], Engine],
    *,
    device: str,
    num_threads: int | None,
    failed: list[Failure],
) -> Engine | None:
    """Opens a model in the fastest engine that can run it, None if none can.

    With one engine there is nothing to measure. With several, each takes a few clips when this
    model is first opened on this machine.

    Args:
        names: of the engines, at least one; the first one wins a tie.
        path: the model file.
        open_one: opens the model in the engine of a name.
        device: what they were asked to run on.
        num_threads: for CPU work; None for as many as this process may use.
        failed: takes the names and errors of the engines that fail.

    Raises:
        ArtifactError: if the file cannot be read.
    """
    tried = Candidates(open_one, failed, run_once=device == "cuda")
    key = _key(names, path, device, num_threads) if len(names) > 1 else None
    known = _clear_winner(recall("engine", key)) if key else ""
    before = len(failed)
    if known in names and tried.open([known]):
        return tried.engines[known]
    tried.open([name for name in names if name != known])
    times = tried.measure() if len(tried.engines) > 1 else {}
    if not tried.engines:
        return None
    engine = tried.fastest(times)
    if key and len(failed) == before:
        facts = {"engine": engine.name, "ms_per_clip": times, "measured_s": time.time()}
        remember("engine", key, facts)
    return engine


class Candidates:
    """Engines that work so far.

    Args:
        open_one: opens the engine of a name.
        failed: takes the names and errors of those that do not.
        run_once: counts only those as open that can run a clip; a GPU may lack memory or kernels
            for it, and another device can take its place.
    """

    def __init__(
        self,
        open_one: Callable[[str], Engine],
        failed: list[Failure],
        *,
        run_once: bool = False,
    ) -> None:
        self.engines: dict[str, Engine] = {}
        self._failed = failed
        self._open_one = open_one
        self._run_once = run_once

    def open(self, names: Sequence[str]) -> bool:
        """Opens engines; returns whether all of them opened."""
        for name in names:
            try:
                self.engines[name] = engine = self._open_one(name)
                if self._run_once:
                    engine.run(_clip(engine))
            except Exception as err:
                self._leave_out(name, err)
        return all(name in self.engines for name in names)

    def measure(self) -> dict[str, float]:
        """Returns the shortest time of each for one clip, in ms, taken in turn.

        So a neighbour that takes the CPU for a while slows all of them down.
        """
        clips = {name: _clip(engine) for name, engine in self.engines.items()}
        times: dict[str, list[int]] = {name: [] for name in self.engines}
        for round_ in range(ROUNDS + 1):
            for name, engine in list(self.engines.items()):
                begin_ns = time.perf_counter_ns()
                try:
                    engine.run(clips[name])
                except Exception as err:
                    self._leave_out(name, err)
                    continue
                if round_:  # the first one warms up
                    times[name].append(time.perf_counter_ns() - begin_ns)
            spent_ns = sum(map(sum, times.values()))
            if spent_ns > BUDGET_S * 1e9 * len(self.engines):
                break
        found = {name: round(min(times[name]) / 1e6, 3) for name in self.engines}
        logger.info("ms per clip: %s", ", ".join(f"{n} {ms:.2f}" for n, ms in found.items()))
        return found

    def fastest(self, times: Mapping[str, float]) -> Engine:
        """Returns the engine that took least, and closes the others."""
        best = min(self.engines, key=lambda name: times.get(name, 0.0))
        for name, engine in self.engines.items():
            if name != best:
                _close(engine)
        return self.engines[best]

    def _leave_out(self, name: str, err: Exception) -> None:
        self._failed.append((name, unavailable(name, err)))
        if (engine := self.engines.pop(name, None)) is not None:
            _close(engine)


def _close(engine: Engine) -> None:
    """Closes an engine that is not used; an error of that is no reason to go without another."""
    with suppress(Exception):
        engine.close()


def _clip(engine: Engine) -> Any:
    shape = (1, *(1 if n is None else n for n in engine.clip_shape[1:]))
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def _clear_winner(known: Mapping[str, Any]) -> str:
    """Returns the engine that was fastest, "" if the measurement is too old or was too close."""
    with suppress(KeyError, TypeError, ValueError, AttributeError):
        first, second = sorted(known["ms_per_clip"].values())[:2]
        # abs: the clock may have been set back
        if second >= CLEAR * first and abs(time.time() - known["measured_s"]) < MAX_AGE_S:
            return str(known["engine"])
    return ""


def _key(
    names: Sequence[str], path: str | os.PathLike[str], device: str, num_threads: int | None
) -> Key:
    return {
        "schema": SCHEMA,
        "dvfl": __version__,  # which may open a file otherwise than the one before
        "model_sha256": graph_sha256(path),
        "engines": {name: _version(name) for name in names},
        "cpu": cpu_name(),
        "device": device,
        "threads": num_threads or usable_cpus(),
    }


def _version(name: str) -> str:
    """Returns the installed version without importing the engine, "" where it is not known."""
    for distribution in DISTRIBUTIONS.get(name, (name,)):
        with suppress(importlib.metadata.PackageNotFoundError):
            return importlib.metadata.version(distribution)
    return ""
