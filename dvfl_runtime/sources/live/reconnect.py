"""Opens a grabber again and again, with growing pauses, and yields its pictures."""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from dvfl_runtime.errors import ArgumentError, SourceError
from dvfl_runtime.errors.addresses import reason_of
from dvfl_runtime.errors.checks import check_number
from dvfl_runtime.sources.live.grabber import Grabbed, Grabber


@dataclass(frozen=True)
class LiveOptions:
    """How a live source treats a device that does not answer.

    Attributes:
        stall_s: after so long without a frame the state is "stalled", and the next frame comes
            `after_gap`, seconds.
        first_pause_s: pause before the first attempt to connect again, seconds; it doubles.
        longest_pause_s: the longest pause, seconds.
        max_outage_s: the source ends with a `SourceError` after so long without a frame, seconds;
            `None` tries for ever.
    """

    stall_s: float = 2.0
    first_pause_s: float = 0.5
    longest_pause_s: float = 30.0
    max_outage_s: float | None = None

    def __post_init__(self) -> None:
        for name in ("stall_s", "first_pause_s", "longest_pause_s", "max_outage_s"):
            if name != "max_outage_s" or self.max_outage_s is not None:
                check_number(name, getattr(self, name), above=0)
        if self.longest_pause_s < self.first_pause_s:
            raise ArgumentError(
                f"longest_pause_s must be >= first_pause_s, got {self.longest_pause_s}"
            )


def pause_s(attempt: int, options: LiveOptions, uniform: Callable[[], float]) -> float:
    """Return the pause before attempt 0, 1, 2 ... to connect again, seconds.

    It doubles up to the longest. Its upper half is random, so that many devices do not come back to
    a restarted server at the same moment.

    Args:
        attempt: number of attempts without a frame before this one.
        options: the shortest and the longest pause.
        uniform: returns a random number in [0, 1).
    """
    longest: float = min(options.longest_pause_s, options.first_pause_s * 2 ** min(attempt, 60))
    return max(options.first_pause_s, longest * (1 + uniform()) / 2)


def reconnecting(
    grabber: Grabber,
    options: LiveOptions,
    stop: threading.Event,
    on_outage: Callable[[Exception, float], None],
    *,
    has_worked: bool = False,
    uniform: Callable[[], float] = random.random,
) -> Iterator[tuple[Grabbed, bool]]:
    """Yield each picture, and whether it is the first of a connection, until the stream's end.

    Args:
        grabber: is opened, read and closed.
        options: the pauses and the longest outage.
        stop: ends it during a pause, or when the grabber returns.
        on_outage: called before each pause with the reason and the pause in seconds.
        has_worked: pictures came before, so no failure is taken as final.
        uniform: returns a random number in [0, 1).

    Raises:
        SourceError: if it can never work.
        TimeoutError: if it gave nothing for `max_outage_s`.
    """
    attempt = 0
    last_s = time.monotonic()
    while not stop.is_set():
        is_first = True
        try:
            grabber.open()
            while not stop.is_set():
                grabbed = grabber.read()
                if grabbed is None:
                    return
                yield grabbed, is_first
                is_first, has_worked, attempt, last_s = False, True, 0, time.monotonic()
        except (OSError, SourceError) as err:
            if isinstance(err, SourceError) and not has_worked:
                raise
            reason = err
        finally:
            with contextlib.suppress(OSError):
                grabber.close()
        if stop.is_set():
            return
        wait_s = pause_s(attempt, options, uniform)
        if options.max_outage_s is not None:
            left_s = options.max_outage_s - (time.monotonic() - last_s)
            if left_s <= 0:
                raise TimeoutError(
                    f"no frame for {options.max_outage_s} s ({reason_of(reason)})"
                ) from reason
            wait_s = min(wait_s, left_s)
        on_outage(reason, wait_s)
        stop.wait(wait_s)
        attempt += 1
