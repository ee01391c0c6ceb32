"""LiveSource around grabbers in real time, as users write them."""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
import weakref
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from frames import warnings_of

from dvfl_runtime.clips.picking import frames_of
from dvfl_runtime.errors import ClipError, SourceError
from dvfl_runtime.sources import (
    Grabbed,
    LiveOptions,
    LiveSource,
    Source,
    SourceState,
    open_source,
)
from dvfl_runtime.sources.live import source as live_source

SOON = LiveOptions(stall_s=0.3, first_pause_s=0.05, longest_pause_s=0.1)


class Ticker:
    """A camera: a picture each `period_s`, whose first pixels are its number.

    Args:
        period_s: between two pictures.
        happens: what is called before picture n; it may wait or raise.
        end: number of pictures, `None` for no end.
    """

    def __init__(
        self,
        period_s: float = 0.01,
        happens: Callable[[int], None] | None = None,
        end: int | None = None,
    ) -> None:
        self.period_s = period_s
        self.happens = happens
        self.end = end
        self.number = 0
        self.converted = 0
        self.is_open = False
        self.alive: weakref.WeakSet[Grabbed] = weakref.WeakSet()

    def open(self) -> None:
        assert not self.is_open
        self.is_open = True
        self.next_s = time.monotonic()

    def read(self) -> Grabbed | None:
        assert self.is_open
        if self.number == self.end:
            return None
        if self.happens is not None:
            self.happens(self.number)
        self.next_s += self.period_s
        time.sleep(max(0.0, self.next_s - time.monotonic()))
        number, self.number = self.number, self.number + 1
        raw = np.zeros((4, 6, 3), np.uint8)
        raw[0, 0, :2] = divmod(number, 256)

        def convert() -> np.ndarray:
            self.converted += 1
            return raw

        grabbed = Grabbed(convert, number * self.period_s)
        self.alive.add(grabbed)
        return grabbed

    def close(self) -> None:
        self.is_open = False


def number(image: np.ndarray) -> int:
    return int(image[0, 0, 0]) * 256 + int(image[0, 0, 1])


@contextlib.contextmanager
def reading(
    grabber: object, options: LiveOptions = SOON
) -> Iterator[tuple[LiveSource, list[SourceState]]]:
    states: list[SourceState] = []
    source = LiveSource("cam", grabber, options=options, on_state=states.append)
    with contextlib.closing(source):
        yield source, states


def test_it_is_a_source_that_open_source_hands_on():
    source = LiveSource("cam", Ticker())
    assert isinstance(source, Source)
    assert open_source(source) is source
    assert (source.live, source.rewindable, source.duration_s) == (True, False, None)
    assert source.state == "connecting"


def test_a_quick_consumer_gets_every_frame_of_a_source_with_an_end():
    with reading(Ticker(end=30)) as (source, states):
        frames = list(source.frames())
        assert source.state == "ended"
        stats = source.stats
    numbers = [number(f.image) for f in frames]
    assert numbers[-1] == 29  # the last one is handed out though the source ended after it
    assert sum(f.dropped for f in frames) + len(frames) == 30
    assert [f.index for f in frames] == list(range(len(frames)))
    assert [f.time_s for f in frames] == pytest.approx([n * 0.01 for n in numbers], abs=0.005)
    assert states == ["live", "ended"]
    assert (stats.frames, stats.repaired_timestamps, stats.reconnects) == (30, 0, 0)


@pytest.mark.parametrize(
    "duration_s", [3, pytest.param(60, marks=pytest.mark.slow)], ids=["short", "minute"]
)
def test_a_slow_consumer_sees_newer_frames_and_never_older_ones(duration_s):
    ticker = Ticker(period_s=0.02)
    lags_s, frames, waiting = [], 0, 0
    with reading(ticker) as (source, _):
        began_s = time.monotonic()
        for frame in source.frames():
            frames += 1
            assert frame.image.ndim == 3
            lags_s.append((time.monotonic_ns() - frame.arrival_ns) / 1e9)
            time.sleep(0.1)  # five times slower than the source
            waiting = max(waiting, len(ticker.alive))
            if time.monotonic() - began_s > duration_s:
                break
        stats = source.stats
    third = len(lags_s) // 3
    # a source that queued every frame would be late by four fifths of the whole time
    assert abs(np.median(lags_s[:third]) - np.median(lags_s[-third:])) < 0.1
    assert np.median(lags_s) < 0.2
    assert waiting <= 4  # the one in hand, the one that waits, and the one that is being read
    assert stats.dropped_frames > 2 * frames
    assert ticker.converted == frames  # dropped ones are not even converted


def test_an_outage_leaves_a_gap_and_the_clock_goes_on(caplog):
    def happens(n: int) -> None:
        if n == 10 and not outages:
            outages.append(time.monotonic())
            raise ConnectionResetError("the cable is out")

    outages: list[float] = []
    options = LiveOptions(first_pause_s=0.4, longest_pause_s=0.4)
    with reading(Ticker(happens=happens, end=20), options) as (source, states):
        frames = list(source.frames())
        assert source.stats.reconnects == 1
    assert states == ["live", "connecting", "live", "ended"]
    (gap,) = [f for f in frames if f.after_gap]
    before = frames[gap.index - 1]
    assert number(gap.image) >= 10
    assert 0.35 < gap.time_s - before.time_s < 2
    assert [m for m in warnings_of(caplog) if "the cable is out" in m] == warnings_of(caplog)


def test_a_stall_is_seen_and_leaves_a_gap():
    def happens(n: int) -> None:
        if n == 10:
            time.sleep(0.8)

    with reading(Ticker(happens=happens, end=20)) as (source, states):
        frames = list(source.frames())
    assert states == ["live", "stalled", "live", "ended"]
    late = [f for f in frames if number(f.image) >= 10]  # a busy machine may lose the tenth itself
    assert late
    assert [number(f.image) for f in frames if f.after_gap] == [number(late[0].image)]


def test_a_stall_is_seen_by_who_asks_while_the_consumer_is_busy():
    with reading(Ticker(happens=lambda n: time.sleep(0.6 * (n == 3)), end=5)) as (source, states):
        frames = source.frames()
        next(frames)
        time.sleep(0.5)
        assert source.state == "stalled"
        rest = list(frames)
    assert states == ["live", "stalled", "live", "ended"]
    assert any(f.after_gap for f in rest)


def test_a_gap_is_kept_when_its_frame_is_dropped():
    def happens(n: int) -> None:
        if n == 5 and not lost:
            lost.append(n)
            raise ConnectionError("lost")

    lost: list[int] = []
    with reading(Ticker(happens=happens, end=40)) as (source, _):
        frames = source.frames()
        first = next(frames)
        time.sleep(0.5)  # all pictures come in this time
        last = next(frames)
    assert (first.after_gap, last.after_gap) == (False, True)
    assert number(last.image) - number(first.image) == last.dropped + 1


def test_closing_is_prompt_while_the_device_hangs():
    hangs = threading.Event()
    with reading(Ticker(happens=lambda n: n == 3 and hangs.wait(5))) as (source, states):
        threading.Timer(0.3, source.close).start()
        began_s = time.monotonic()
        assert len(list(source.frames())) <= 3
        assert time.monotonic() - began_s < 2
        assert (source.state, states[-1]) == ("ended", "ended")
        source.close()
        with pytest.raises(SourceError, match="is closed"):
            next(source.frames())
        hangs.set()


def test_closing_between_the_beginning_and_the_first_frame(monkeypatch):
    monkeypatch.setattr(live_source, "CLOSE_WAIT_S", 0.1)

    def close_at(state: SourceState) -> None:
        if state == "connecting":
            source.close()

    source = LiveSource("cam", Ticker(end=2), options=SOON, on_state=close_at)
    list(source.frames())
    assert list(source.frames()) == []  # closed by its listener as soon as it begins again
    for _ in range(30):
        source = LiveSource("cam", Ticker(), options=SOON)
        closer = threading.Thread(target=source.close)
        frames = source.frames()
        closer.start()
        with contextlib.suppress(SourceError):  # closed before it began
            list(frames)
        closer.join()
        assert source.state == "ended"


def test_a_live_source_that_is_closed_before_its_first_frame_says_so():
    source = LiveSource("door", Ticker(happens=lambda n: source.close()), options=SOON)
    with pytest.raises(SourceError, match="door ended, or was closed, before its first frame"):
        list(frames_of(source))


def test_a_thread_and_the_device_are_released_at_the_end():
    before = set(threading.enumerate())
    ticker = Ticker()
    with reading(ticker) as (source, _):
        frames = source.frames()
        next(frames)
        assert ticker.is_open
        frames.close()
        assert not ticker.is_open
        assert set(threading.enumerate()) == before
        again = next(source.frames())  # the same source connects anew
        assert again.after_gap
        assert again.index == 1
    assert set(threading.enumerate()) == before


def test_it_is_read_by_one_consumer_only():
    with reading(Ticker()) as (source, _):
        frames = source.frames()
        next(frames)
        with pytest.raises(SourceError, match="being read already"):
            next(source.frames())
        next(frames)


@pytest.mark.parametrize(
    ("bad", "error", "words"),
    [
        (SourceError("no such camera"), SourceError, "no such camera"),
        (RuntimeError("a bug of the driver"), RuntimeError, "a bug"),
    ],
)
def test_errors_of_the_reading_thread_are_raised_in_the_consumers(bad, error, words):
    def happens(n: int) -> None:
        raise bad

    with reading(Ticker(happens=happens)) as (source, states):
        with pytest.raises(error, match=words):
            next(source.frames())
        assert states == ["ended"]


def test_an_outage_with_a_limit_ends_in_an_error_that_names_the_source():
    def happens(n: int) -> None:
        if n == 3:
            raise ConnectionError("no link")

    options = LiveOptions(first_pause_s=0.05, longest_pause_s=0.05, max_outage_s=0.2)
    with reading(Ticker(happens=happens), options) as (source, _):
        frames = source.frames()
        with pytest.raises(SourceError, match=r"cam: no frame for 0\.2 s \(no link\)"):
            list(frames)


def test_a_grabber_that_gives_no_image_is_named():
    class Wrong(Ticker):
        def read(self) -> Grabbed:
            return Grabbed(np.zeros((4, 5), np.uint8))

    with reading(Wrong()) as (source, _), pytest.raises(ClipError, match=r"frame 0 .*\(4, 5\)"):
        next(source.frames()).image  # noqa: B018


def test_a_listener_may_close_the_source_and_may_fail(caplog):
    def listen(state: SourceState) -> None:
        if state == "live":
            source.close()
        raise ValueError("a bug of the listener")

    source = LiveSource("cam", Ticker(), on_state=listen)
    assert len(list(source.frames())) <= 1
    assert source.state == "ended"
    assert any("on_state" in r.getMessage() for r in caplog.records)


def test_broken_stamps_are_counted_and_times_still_increase():
    class Broken(Ticker):
        def read(self) -> Grabbed | None:
            grabbed = super().read()
            stamps = itertools.cycle([-1.0, None, 5.0, 5.0, float("nan")])
            stamp = next(itertools.islice(stamps, self.number % 5, None))
            return grabbed and Grabbed(grabbed.image, stamp)

    with reading(Broken(end=30)) as (source, _):
        frames = list(source.frames())
        assert 20 <= source.stats.repaired_timestamps <= 30
    assert (np.diff([f.time_s for f in frames]) > 0).all()
    assert frames[-1].time_s == pytest.approx(0.29, abs=0.1)
