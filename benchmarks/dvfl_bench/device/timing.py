"""Times of small pieces of work: warmed up, taken in turn, and the numbers that sum them up."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

Key = TypeVar("Key", bound=Hashable)
T = TypeVar("T")
Work = Callable[[], Any]
Times = NDArray[np.float64]

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
    def of(cls, work: Work, limit_s: float) -> WarmUp:
        """Run in blocks until the medians of two blocks agree, or the time is up."""
        begin_s = time.perf_counter()
        last, count = float("inf"), 0
        while True:
            median = float(np.median([elapsed_ms(work) for _ in range(BLOCK)]))
            count += BLOCK
            stable = abs(median - last) <= STABLE * min(median, last)
            spent_s = time.perf_counter() - begin_s
            if stable or spent_s > limit_s:
                return cls(count, round(spent_s, 2), stable)
            last = median


def elapsed_ms(work: Work) -> float:
    """Return how long one run takes, ms."""
    begin_ns = time.perf_counter_ns()
    work()
    return (time.perf_counter_ns() - begin_ns) / 1e6


def wall_and_cpu_ms(work: Work) -> tuple[float, float]:
    """Return how long one run takes, ms: on the wall, and of CPU time over all threads.

    CPU time does not grow when other programs take the cores, so it compares forms on a busy
    machine, where the wall does not.
    """
    wall, cpu = time.perf_counter_ns(), time.process_time_ns()
    work()
    return (time.perf_counter_ns() - wall) / 1e6, (time.process_time_ns() - cpu) / 1e6


def in_turn(works: Mapping[Key, Callable[[], T]], rounds: Iterable[object]) -> dict[Key, list[T]]:
    """Do each piece of work once in every round; return the results of each, round by round.

    A neighbour that slows the machine down slows all of them, so ratios hold where times do not.
    """
    results: dict[Key, list[T]] = {name: [] for name in works}
    for _ in rounds:
        for name, work in works.items():
            results[name].append(work())
    return results


def times_in_turn(works: Mapping[Key, Work], seconds: float) -> dict[Key, Times]:
    """Return the times of all, taken in turn for `seconds` times their number: ms, (N,) each."""
    timers = {name: partial(elapsed_ms, work) for name, work in works.items()}
    taken = in_turn(timers, _rounds_for(seconds * len(works)))
    return {name: np.array(times) for name, times in taken.items()}


def paired_times(works: Mapping[Key, Work], rounds: int) -> dict[Key, Times]:
    """Return times of all, taken in turn after one round that warms up, ms.

    Each is (2, rounds): on the wall, and of CPU time.
    """
    timers = {name: partial(wall_and_cpu_ms, work) for name, work in works.items()}
    taken = in_turn(timers, range(rounds + 1))
    return {name: np.array(times[1:]).T for name, times in taken.items()}  # (rounds, 2) -> (2, _)


def _rounds_for(seconds: float) -> Iterator[int]:
    """Count rounds until the time is up, five at least."""
    end_s = time.perf_counter() + seconds
    for number in itertools.count():
        if number >= BLOCK and time.perf_counter() >= end_s:
            return
        yield number


def percentiles(times_ms: Times) -> dict[str, float | int]:
    """Return p50, p90, p99 and the largest, ms, and n; nothing is thrown away."""
    p50, p90, p99 = np.percentile(times_ms, [50, 90, 99])
    named = {"p50_ms": p50, "p90_ms": p90, "p99_ms": p99, "max_ms": times_ms.max()}
    return {**{name: round(float(v), 3) for name, v in named.items()}, "n": len(times_ms)}


def summary(paired: Times) -> dict[str, float]:
    """Return median, p10, p90 and minimum (ms) of the wall, the minimum of CPU time, and n.

    Args:
        paired: (2, N), see `paired_times`.
    """
    wall, cpu = paired
    p10, median, p90 = np.percentile(wall, [10, 50, 90])
    least = {"min_ms": wall.min(), "cpu_min_ms": cpu.min()}
    values = {"median_ms": median, "p10_ms": p10, "p90_ms": p90, **least}
    return {**{name: round(float(value), 2) for name, value in values.items()}, "n": len(wall)}


def median_ratio(above: ArrayLike, below: ArrayLike) -> float:
    """Return the median of the rounds' own ratios.

    A machine that slows down for some rounds does not change it.
    """
    return float(np.median(np.divide(above, below)))


def ratios(above: Times, below: Times) -> dict[str, float]:
    """Return how many times longer `above` takes than `below`.

    "median" is that of the rounds' own ratios, "min" the ratio of the least times, "cpu" that of
    the least CPU times.

    Args:
        above: (2, N), see `paired_times`.
        below: the same of the other.
    """
    values = {
        "median": median_ratio(above[0], below[0]),
        "min": above[0].min() / below[0].min(),
        "cpu": above[1].min() / below[1].min(),
    }
    return {name: round(float(value), 3) for name, value in values.items()}


def drift(times_ms: Times) -> float:
    """Return the median of the last fifth over that of the first; above 1 the machine got slower.

    The usual reason is heat.
    """
    part = max(1, len(times_ms) // DRIFT_PARTS)
    return round(float(np.median(times_ms[-part:]) / np.median(times_ms[:part])), 3)


def sgemm_gflops(threads: int) -> dict[str, Any]:
    """Return the rate of numpy's float32 matrix product, GFLOP/s: the best run of half a second.

    It stands for the most that the processor can do in practice, measured in the same run as the
    rest.
    """
    from threadpoolctl import threadpool_limits

    left, right = np.random.default_rng(0).random((2, SGEMM, SGEMM), dtype=np.float32)
    out = np.empty_like(left)
    with threadpool_limits(threads, user_api="blas"):
        times: list[float] = []
        while sum(times) < SGEMM_S * 1e3 or len(times) < BLOCK:
            times.append(elapsed_ms(lambda: np.matmul(left, right, out=out)))
    # a product of two n x n matrices is n^3 multiplications and as many additions
    return {"size": SGEMM, "n": len(times), "gflops": round(2 * SGEMM**3 / min(times) / 1e6, 1)}
