"""The fastest of several engines, from a short measurement that is remembered.

The engines are measured again when the measurement is a month old, or when two of them were about
equally fast. Nothing is remembered when an engine failed: it may work again tomorrow.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from dvfl_runtime.artifact import ModelFile
from dvfl_runtime.engines.cache import Key, recall, remember
from dvfl_runtime.engines.candidates import Candidates, noise_clip
from dvfl_runtime.engines.cpus import cpu_name, usable_cpus
from dvfl_runtime.engines.engine import Engine
from dvfl_runtime.engines.kernels import ENGINES, library_mark
from dvfl_runtime.engines.table import EngineOptions, installed_version
from dvfl_runtime.version import __version__

logger = logging.getLogger(__name__)

SCHEMA = 2
ROUNDS = 7  # at most; the fastest run counts, which a busy neighbour disturbs least
BUDGET_S = 0.2  # of runs for each engine; after that no further round begins
CLEAR = 1.1  # the winner is remembered if the next one takes this many times as long, or more
MAX_AGE_S = 30 * 24 * 3600


def open_fastest(
    names: Sequence[str],
    candidates: Candidates,
    model: ModelFile,
    options: EngineOptions,
) -> Engine | None:
    """Open the fastest engine that can run a model, None if none can.

    With one engine there is nothing to measure. With several, each takes a few clips when this
    model is first opened on this machine.

    Args:
        names: of the engines; the first one wins a tie.
        candidates: opens them, and lists those that fail.
        model: the file that they open.
        options: how they run it.
    """
    if len(names) < 2:
        return candidates.open(names[0]) if names else None
    key = _key(names, model, options)
    known = _clear_winner(recall("engine", key))
    if known in names and (engine := candidates.open(known)):
        return engine
    for name in names:
        if name != known:
            candidates.open(name)
    times = measure(candidates) if len(candidates.working) > 1 else {}
    if not candidates.working:
        return None
    fastest = min(candidates.working, key=lambda name: times.get(name, 0.0))
    if not candidates.failed:
        facts = {"engine": fastest, "ms_per_clip": times, "measured_s": time.time()}
        remember("engine", key, facts)
    return candidates.keep_only(fastest)


def measure(candidates: Candidates) -> dict[str, float]:
    """Return the shortest time of each engine for one clip, in ms.

    They are taken in turn, so a neighbour that takes the CPU for a while slows all of them down.
    """
    clips = {name: noise_clip(engine) for name, engine in candidates.working.items()}
    times_ns: dict[str, list[int]] = {name: [] for name in clips}
    for round_ in range(ROUNDS + 1):
        for name, engine in list(candidates.working.items()):
            begin_ns = time.perf_counter_ns()
            try:
                engine.run(clips[name])
            except Exception as err:
                candidates.leave_out(name, err)
                continue
            if round_:  # the first one warms up
                times_ns[name].append(time.perf_counter_ns() - begin_ns)
        spent_ns = sum(map(sum, times_ns.values()))
        if spent_ns > BUDGET_S * 1e9 * len(candidates.working):
            break
    shortest = {name: round(min(times_ns[name]) / 1e6, 3) for name in candidates.working}
    logger.info("ms per clip: %s", ", ".join(f"{n} {ms:.2f}" for n, ms in shortest.items()))
    return shortest


def _clear_winner(facts: Mapping[str, Any]) -> str:
    """Return the engine that was fastest, "" if the measurement is too old or was too close."""
    with suppress(KeyError, TypeError, ValueError, AttributeError):
        first, second = sorted(facts["ms_per_clip"].values())[:2]
        # abs: the clock may have been set back
        if second >= CLEAR * first and abs(time.time() - facts["measured_s"]) < MAX_AGE_S:
            return str(facts["engine"])
    return ""


def _key(names: Sequence[str], model: ModelFile, options: EngineOptions) -> Key:
    """Return all that a measurement depends on."""
    return {
        "schema": SCHEMA,
        "dvfl": __version__,  # which may open a file otherwise than the one before
        "model_sha256": model.graph_sha256,
        "engines": {name: installed_version(name) for name in names},
        "kernels": {engine: library_mark(engine) for engine in ENGINES},
        "cpu": cpu_name(),
        "device": options.device,
        "threads": options.num_threads or usable_cpus(),
        "precision": options.precision,
    }
