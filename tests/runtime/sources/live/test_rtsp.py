"""RTSP against a real server on loopback: GStreamer's, in a process that is killed and stopped."""

from __future__ import annotations

import contextlib
import itertools
import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from artifacts import write_colour_model
from frames import warnings_of
from streams import FPS, RtspServer, encode, number_of

from dvfl_runtime.errors import SourceError
from dvfl_runtime.sources import Frame, LiveOptions, LiveSource, RtspGrabber, open_source

SOON = LiveOptions(first_pause_s=0.1, longest_pause_s=0.2, max_outage_s=20)
SMALL, LARGE = (96, 160), (192, 320)
Start = Callable[..., RtspServer]


@pytest.fixture(scope="module")
def streams(tmp_path_factory):
    folder = tmp_path_factory.mktemp("streams")
    return {
        "small": encode(folder / "small", range(250), *SMALL),
        "large": encode(folder / "large", range(500, 530), *LARGE),
        "end": encode(folder / "end", range(30), *SMALL),
    }


@pytest.fixture
def start(tmp_path, streams) -> Iterator[Start]:
    numbers = itertools.count()
    with contextlib.ExitStack() as servers:

        def begin(*names: str, port: int = 0, options: str = "") -> RtspServer:
            paths = [streams[name] for name in names]
            folder = tmp_path / str(next(numbers))
            folder.mkdir()
            server = RtspServer(folder, *paths, port=port, options=options)
            servers.callback(server.kill)
            return server

        yield begin


@contextlib.contextmanager
def opened(url: str, **kwargs: object) -> Iterator[tuple[LiveSource, list[tuple[str, float]]]]:
    """Yield the source, and its states with the seconds at which they began."""
    states: list[tuple[str, float]] = []
    began_s = time.monotonic()

    def note(state: str) -> None:
        states.append((state, time.monotonic() - began_s))

    source = open_source(url, on_state=note, **{"live": SOON, **kwargs})
    assert isinstance(source, LiveSource)
    with contextlib.closing(source):
        yield source, states


def take(frames: Iterator[Frame], count: int) -> list[Frame]:
    return list(itertools.islice(frames, count))


def assert_times_increase(frames: list[Frame]) -> None:
    assert (np.diff([f.time_s for f in frames]) > 0).all()
    assert [f.index for f in frames] == list(range(len(frames)))


def test_frames_come_in_order_and_at_their_times(start):
    server = start("small")
    with opened(server.url) as (source, states):
        frames = take(source.frames(), 40)
        stats = source.stats
        assert source.state == "ended"  # the iteration was given up
    numbers = [number_of(f.image) for f in frames]
    skipped = [f.dropped for f in frames]
    assert np.diff(numbers).tolist() == [1 + n for n in skipped[1:]]  # all that is missing is told
    assert_times_increase(frames)
    steps = np.diff([f.time_s for f in frames]) / np.diff(numbers)
    assert np.median(steps) == pytest.approx(1 / FPS, rel=0.1)
    sent = server.sent_ns()
    lags_s = [(f.arrival_ns - sent[n]) / 1e9 for f, n in zip(frames, numbers, strict=True)]
    assert 0 < np.median(lags_s[10:]) < 0.5
    assert not any(f.after_gap for f in frames)
    assert [s for s, _ in states] == ["live", "ended"]
    assert stats.frames >= 40
    assert stats.dropped_frames == sum(skipped)
    assert stats.reconnects == 0


@pytest.mark.parametrize("kind", ["h265", "jpeg"])
def test_other_codecs_of_cameras(tmp_path, kind):
    stream = encode(tmp_path / "stream", range(100), *LARGE, kind=kind)
    server = RtspServer(tmp_path, stream, options=f"--kind {kind}")
    try:
        with opened(server.url) as (source, _):
            frames = take(source.frames(), 20)
    finally:
        server.kill()
    numbers = [number_of(frame.image) for frame in frames]
    assert np.diff(numbers).tolist() == [1 + f.dropped for f in frames[1:]]
    assert frames[0].image.shape[:2] == LARGE


def test_a_killed_server_is_found_again(start, caplog):
    server = start("small")
    with opened(server.url) as (source, states):
        reading = source.frames()
        before = take(reading, 10)
        server.kill()
        time.sleep(1)
        assert source.state == "connecting"
        start("small", port=server.port)
        after = take(reading, 20)
        stats = source.stats
    frames = before + after
    assert_times_increase(frames)
    gaps = [f for f in frames if f.after_gap]
    assert len(gaps) == 1  # pictures that had arrived before the end may come first
    assert stats.reconnects == 1
    for frame in frames:
        number_of(frame.image)  # no black or half picture
    for frame in frames[frames.index(gaps[0]) :]:  # the clock went on by the time that passed
        passed_s = (frame.arrival_ns - frames[0].arrival_ns) / 1e9
        assert frame.time_s == pytest.approx(passed_s, abs=0.7)
    assert [s for s, _ in states] == ["live", "connecting", "live", "ended"]
    assert len(warnings_of(caplog)) == 1  # not one for each attempt


def test_a_server_that_hangs_is_noticed_within_five_seconds(start):
    server = start("small")
    with opened(server.url, live=LiveOptions(max_outage_s=20)) as (source, states):
        reading = source.frames()
        before = take(reading, 10)
        server.suspend()
        hung_s = states[0][1] + (time.monotonic_ns() - before[0].arrival_ns) / 1e9
        waker = threading.Timer(6, server.resume)
        waker.start()
        after = take(reading, 30)
        waker.join()
    began_s = {state: at for state, at in reversed(states)}
    assert began_s["stalled"] - hung_s < 3
    assert began_s["connecting"] - hung_s < 5  # given up, and tried anew
    frames = before + after
    assert_times_increase(frames)
    (gap,) = [i for i, f in enumerate(frames) if f.after_gap]
    assert frames[gap].time_s - frames[gap - 1].time_s > 5
    for frame in frames:
        number_of(frame.image)


def test_a_server_that_hangs_from_the_start(start):
    server = start("small")
    server.suspend()
    threading.Timer(1.5, server.resume).start()
    source = LiveSource("cam", RtspGrabber(server.url, read_timeout_s=0.5), options=SOON)
    with contextlib.closing(source):
        frames = take(source.frames(), 3)
    assert len(frames) == 3
    assert not frames[0].after_gap  # there is nothing before it


def test_closing_while_the_server_hangs_is_prompt(start):
    server = start("small")
    with opened(server.url) as (source, _):
        reading = source.frames()
        take(reading, 5)
        server.suspend()
        threading.Timer(0.3, source.close).start()
        began_s = time.monotonic()
        list(reading)
        assert time.monotonic() - began_s < 2
        assert source.state == "ended"


def test_the_size_may_change_in_the_middle_of_a_stream(start):
    server = start("end", "large")
    with opened(server.url) as (source, _):
        frames = []
        for frame in source.frames():
            frames.append(frame)
            if frame.image.shape[:2] == LARGE and len(frames) > 60:
                break
        assert source.stats.reconnects == 0
    assert_times_increase(frames)
    assert {f.image.shape[:2] for f in frames} == {SMALL, LARGE}
    for frame in frames:
        assert (number_of(frame.image) >= 500) == (frame.image.shape[:2] == LARGE)


def test_another_size_after_a_restart(start):
    server = start("small")
    with opened(server.url) as (source, _):
        reading = source.frames()
        take(reading, 5)
        server.kill()
        start("large", port=server.port)
        frames = take(reading, 15)
    assert frames[-1].image.shape[:2] == LARGE
    assert number_of(frames[-1].image) >= 500


def test_a_server_that_comes_later(start):
    gone = start("small")
    gone.kill()
    with opened(gone.url) as (source, states):
        threading.Timer(0.7, lambda: start("small", port=gone.port)).start()
        assert number_of(next(source.frames()).image) >= 0
    assert [s for s, _ in states] == ["live", "ended"]


def test_a_server_that_never_comes(start):
    server = start("small")
    server.kill()
    limit = LiveOptions(first_pause_s=0.1, longest_pause_s=0.2, max_outage_s=0.6)
    with opened(server.url, live=limit) as (source, _):
        with pytest.raises(SourceError, match=r"no frame for 0\.6 s .*refused.*max_outage_s"):
            next(source.frames())
        assert source.state == "ended"


def test_a_host_that_nobody_knows_is_told():
    address = f"rtsp://me:s3cret@{'x' * 64}.invalid/live"  # too long to be asked for
    with pytest.raises(ConnectionError, match=r"connect: the host name is not known \(") as caught:
        RtspGrabber(address).open()
    assert "s3cret" not in str(caught.value)


def test_a_wrong_path_or_password_is_an_error_at_once(start):
    server = start("small", options="--user me:s/e?c#r@e%t")
    with pytest.raises(SourceError, match=r"refuses the connection .*check the name and the pass"):
        next(open_source(server.url).frames())
    wrong = server.url.replace("//", "//me:wrong@")
    with pytest.raises(SourceError, match="refuses the connection") as caught:
        next(open_source(wrong).frames())
    assert "wrong" not in str(caught.value)
    right = server.url.replace("//", "//me:s/e?c#r@e%t@")
    with opened(right) as (source, _):
        assert number_of(next(source.frames()).image) >= 0
        assert source.name == server.url
    with pytest.raises(SourceError, match=r"404.*check the path"):
        next(open_source(server.url.replace("/live", "/nothing")).frames())


def test_a_stream_without_video_says_so(tmp_path):
    sound = tmp_path / "sound"
    sound.write_bytes((640).to_bytes(4, "big") + bytes(640))
    server = RtspServer(tmp_path, sound, options="--kind sound")
    try:
        with pytest.raises(SourceError, match=r"has sound and no video; check its path"):
            next(open_source(server.url, live=SOON).frames())
    finally:
        server.kill()


def test_lost_packets_cost_pictures_and_not_the_stream(start, caplog):
    server = start("small", options="--loss 0.05")
    grabber = RtspGrabber(server.url, transport="udp")
    with contextlib.closing(LiveSource("cam", grabber, options=SOON)) as source:
        frames = take(source.frames(), 25)
        assert source.stats.reconnects == 0
    assert_times_increase(frames)
    numbers = [number_of(frame.image) for frame in frames]  # all of each picture is that picture
    assert numbers != list(range(numbers[0], numbers[0] + 25))
    (message,) = warnings_of(caplog)  # a minute of quiet follows it
    assert "pictures that would show remains of others were left out" in message


def test_a_second_client_of_a_stream_that_refreshes_bit_by_bit(tmp_path):
    """There is one keyframe, long before it connects, and then each picture refreshes a column."""
    refresh = {"x264-params": "intra-refresh=1:keyint=20:bframes=0:repeat-headers=1"}
    stream = encode(tmp_path / "stream", range(250), *SMALL, more=refresh)
    server = RtspServer(tmp_path, stream)
    try:
        with opened(server.url) as (first, _), opened(server.url) as (second, _):
            reading = first.frames()
            assert number_of(next(reading).image) < 10
            while number_of(next(reading).image) < 12:
                pass
            frames = take(second.frames(), 10)
    finally:
        server.kill()
    numbers = [number_of(frame.image) for frame in frames]
    assert 12 < numbers[0] < 12 + 2 * 20 + 10
    assert np.diff(numbers).tolist() == [1 + f.dropped for f in frames[1:]]


def test_one_dead_source_does_not_stop_another(start):
    dying, living = start("small"), start("small")
    with opened(dying.url) as (one, _), opened(living.url) as (other, _):
        thread = threading.Thread(target=lambda: list(one.frames()))
        thread.start()
        reading = other.frames()
        take(reading, 5)
        dying.kill()
        frames = take(reading, 30)
        assert one.state == "connecting"
        one.close()
        thread.join(5)
        assert not thread.is_alive()
    assert not any(f.after_gap for f in frames)


def lags_of_a_slow_consumer(server: RtspServer, duration_s: float) -> tuple[list[float], int]:
    """Read five times slower than the stream; return how old each picture was, and the drops."""
    lags_s = []
    dropped = 0
    with opened(server.url) as (source, _):
        began_s = time.monotonic()
        for frame in source.frames():
            sent_ns = server.sent_ns()[number_of(frame.image)]
            lags_s.append((time.monotonic_ns() - sent_ns) / 1e9)
            dropped += frame.dropped
            time.sleep(5 / FPS)
            if time.monotonic() - began_s > duration_s:
                break
    return lags_s, dropped


@pytest.mark.parametrize(
    "duration_s", [6, pytest.param(60, marks=pytest.mark.slow)], ids=["short", "minute"]
)
def test_a_slow_consumer_never_makes_the_lag_grow(start, duration_s):
    lags_s, dropped = lags_of_a_slow_consumer(start("small"), duration_s)
    third = len(lags_s) // 3
    first, last = np.median(lags_s[:third]), np.median(lags_s[-third:])
    assert dropped > 2 * len(lags_s)
    assert max(first, last) < 1
    assert abs(last - first) < 0.2  # lagging by all it missed, it would be seconds


def test_the_command_reads_live_sources_together_until_ctrl_c(start: Start, tmp_path) -> None:
    model = write_colour_model(tmp_path / "m.onnx")
    urls = [start("small").url, start("large").url]
    kept = tmp_path / "segments.json"
    command = [sys.executable, "-m", "dvfl_runtime.app.cli", *urls, "--model", model]
    with subprocess.Popen(
        [*map(str, command), "--segments", kept], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline().split() == ["start", "end", "label", "score", "source"]
        seen: set[str] = set()
        while seen != set(urls):
            seen.add(process.stdout.readline().split()[-1])
        process.send_signal(signal.SIGINT)
        process.stdout.read()
        assert process.wait(30) == 130
    segments = json.loads(kept.read_text())["segments"]
    assert {segment["source"] for segment in segments} == set(urls)
