from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dvfl_runtime.errors import SourceError
from dvfl_runtime.sources import Grabbed, LiveOptions
from dvfl_runtime.sources.live.reconnect import pause_s, reconnecting

IMAGE = np.zeros((4, 6, 3), np.uint8)


class Plan:
    """A grabber that follows a plan: an error from `open`, or pictures and the error after them."""

    def __init__(self, *connections: Exception | tuple[int, Exception | None]) -> None:
        self.connections = list(connections)
        self.calls: list[str] = []

    def open(self) -> None:
        self.calls.append("open")
        plan = self.connections.pop(0)
        if isinstance(plan, Exception):
            raise plan
        self.left, self.end = plan

    def read(self) -> Grabbed | None:
        if self.left:
            self.left -= 1
            return Grabbed(IMAGE)
        if self.end is not None:
            raise self.end
        return None

    def close(self) -> None:
        self.calls.append("close")
        raise OSError("a device that went away complains")


class Pauses(threading.Event):
    """Notes the pauses instead of waiting."""

    def __init__(self) -> None:
        super().__init__()
        self.pauses: list[float] = []

    def wait(self, timeout: float | None = None) -> bool:
        assert timeout is not None
        self.pauses.append(timeout)
        return False


def run(
    plan: Plan, options: LiveOptions | None = None, *, has_worked: bool = False
) -> tuple[Iterator[tuple[Grabbed, bool]], Pauses, list[str]]:
    stop, reasons = Pauses(), []
    note: Callable[[Exception, float], None] = lambda err, _: reasons.append(str(err))  # noqa: E731
    pictures = reconnecting(
        plan, options or LiveOptions(), stop, note, has_worked=has_worked, uniform=lambda: 1.0
    )
    return pictures, stop, reasons


@given(st.integers(0, 10_000), st.floats(0, 1, exclude_max=True))
def test_pauses_stay_between_half_a_second_and_thirty(attempt, luck):
    assert 0.5 <= pause_s(attempt, LiveOptions(), lambda: luck) <= 30


@given(st.integers(0, 100), st.floats(0, 1), st.floats(0.01, 10), st.floats(1, 100))
def test_pauses_grow_up_to_the_longest(attempt, luck, first, factor):
    options = LiveOptions(first_pause_s=first, longest_pause_s=first * factor)
    pauses = [pause_s(n, options, lambda: luck) for n in (attempt, attempt + 1, 10_000)]
    assert pauses == sorted(pauses)
    assert first <= pauses[0]
    assert pauses[-1] <= first * factor * (1 + 1e-9)


def test_pauses_of_two_devices_differ():
    lucky, unlucky = (pause_s(6, LiveOptions(), lambda u=u: u) for u in (0.1, 0.9))
    assert unlucky - lucky > 5


def test_an_outage_is_tried_again_with_growing_pauses():
    down = [ConnectionRefusedError(f"try {i}") for i in range(9)]
    plan = Plan((2, ConnectionResetError("lost")), *down, (1, None))
    pictures, stop, reasons = run(plan)
    assert [first for _, first in pictures] == [True, False, True]
    assert stop.pauses == [0.5, 1, 2, 4, 8, 16, 30, 30, 30, 30]
    assert reasons == ["lost", *(f"try {i}" for i in range(9))]
    assert plan.calls == ["open", "close"] * 11


def test_a_frame_makes_the_pauses_short_again():
    lost = ConnectionError("lost")
    pictures, stop, _ = run(Plan(lost, lost, (1, lost), lost, (1, None)))
    assert len(list(pictures)) == 2
    assert stop.pauses == [0.5, 1, 0.5, 1]


def test_what_can_never_work_is_an_error_at_first_only():
    wrong = SourceError("no such path")
    with pytest.raises(SourceError, match="no such path"):
        list(run(Plan(wrong))[0])
    with pytest.raises(SourceError, match="no such path"):  # a refused connection decides nothing
        list(run(Plan(ConnectionError("refused"), wrong))[0])
    assert len(list(run(Plan((1, OSError("lost")), wrong, (1, None)))[0])) == 2
    assert len(list(run(Plan(wrong, (1, None)), has_worked=True)[0])) == 1


def test_a_fault_of_the_grabber_is_not_hidden():
    plan = Plan((1, ZeroDivisionError("a bug")))
    pictures, _, _ = run(plan)
    next(pictures)
    with pytest.raises(ZeroDivisionError):
        next(pictures)
    assert plan.calls == ["open", "close"]


def test_a_limit_of_the_outage():
    options = LiveOptions(first_pause_s=0.01, longest_pause_s=0.02, max_outage_s=0.05)
    stop = threading.Event()
    refused = [ConnectionRefusedError("refused") for _ in range(1000)]
    pictures = reconnecting(Plan(*refused), options, stop, lambda *_: None)
    with pytest.raises(TimeoutError, match=r"no frame for 0\.05 s \(refused\)"):
        next(pictures)


def test_stopping_ends_it_and_closes_the_grabber():
    plan = Plan((9, None))
    pictures, stop, _ = run(plan)
    next(pictures)
    stop.set()
    assert list(pictures) == []
    assert plan.calls == ["open", "close"]
