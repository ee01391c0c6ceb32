"""Times of small pieces of work: warmed up, taken in turn, and what they come to."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

Key = TypeVar("Key", bound=Hashable)
Run = Callable[[], Any]

BLOCK = 5  # runs whose median is compared with that of the runs before
STABLE = 0.05
DRIFT_PARTS = 5
SGEMM = 1024
SGEMM_S = 0.5


@dataclass(frozen=True)
class WarmUp:
    """What it took until times stopped changing.

    Attributes:
        clips: runs that were thrown away.
        seconds: how long they took.
        stable: whether the last two blocks agree within 5 %; if not, time was up.
    """

    clips: int
    seconds: float
    stable: bool

    @classmethod
    def of(cls, run: Run, limit_s: float) -> WarmUp:
        """Runs in blocks until the medians of two agree, or the time is up."""
        begin_s = time.perf_counter()
        last, count = float("inf"), 0
        while True:
            median = float(np.median([elapsed_ms(run) for _ in range(BLOCK)]))
            count += BLOCK
            stable = abs(median - last) <= STABLE * min(median, last)
            spent_s = time.perf_counter() - begin_s
            if stable or spent_s > limit_s:
                return cls(count, round(spent_s, 2), stable)
            last = median


def elapsed_ms(run: Run) -> float:
    """How long one run takes, ms."""
    begin_ns = time.perf_counter_ns()
    run()
    return (time.perf_counter_ns() - begin_ns) / 1e6


def in_turn(runs: Mapping[Key, Run], seconds: float) -> dict[Key, NDArray[np.float64]]:
    """Times of all, ms, a run of each in every round; ends after so many seconds for each.

    A neighbour that slows the machine down slows all of them, so ratios hold where times do not.
    """
    times: dict[Key, list[float]] = {name: [] for name in runs}
    end_s = time.perf_counter() + seconds * len(runs)
    while time.perf_counter() < end_s or len(next(iter(times.values()))) < BLOCK:
        for name, run in runs.items():
            times[name].append(elapsed_ms(run))
    return {name: np.array(taken) for name, taken in times.items()}


def percentiles(times_ms: NDArray[np.float64]) -> dict[str, float | int]:
    """p50, p90, p99 and the largest, ms, and n; nothing is thrown away."""
    p50, p90, p99 = np.percentile(times_ms, [50, 90, 99])
    named = {"p50_ms": p50, "p90_ms": p90, "p99_ms": p99, "max_ms": times_ms.max()}
    return {**{name: round(float(v), 3) for name, v in named.items()}, "n": len(times_ms)}


def drift(times_ms: NDArray[np.float64]) -> float:
    """Median of the last fifth over that of the first: above 1 the machine got slower (heat)."""
    part = max(1, len(times_ms) // DRIFT_PARTS)
    return round(float(np.median(times_ms[-part:]) / np.median(times_ms[:part])), 3)


def sgemm_gflops(threads: int) -> dict[str, Any]:
    """Rate of numpy's float32 matrix product with so many threads, GFLOP/s: the best of 0.5 s.

    What the processor can do at most in practice, measured in the same run as the rest.
    """
    from threadpoolctl import threadpool_limits

    left, right = np.random.default_rng(0).random((2, SGEMM, SGEMM), dtype=np.float32)
    out = np.empty_like(left)
    with threadpool_limits(threads, user_api="blas"):
        times: list[float] = []
        while sum(times) < SGEMM_S * 1e3 or len(times) < BLOCK:
            times.append(elapsed_ms(lambda: np.matmul(left, right, out=out)))
    return {"size": SGEMM, "n": len(times), "gflops": round(2 * SGEMM**3 / min(times) / 1e6, 1)}
