"""Several sources, live sources, and the threads that read them."""

import gc
import itertools
import logging
import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from artifacts import LABELS, artifact, coloured, write_colour_model
from videos import write_video

from dvfl_runtime import ClipError, DvflError, FakeEngine, Frame, Recognizer, SourceError


class Camera:
    """A live source of one colour; `gate` lets frames through one by one, else they just come."""

    live, duration_s, rewindable = True, None, False

    def __init__(self, name, colour="red", count=200, *, fps=20.0, sleep_s=0.0, gate=None):
        self.name, self.count, self.fps, self.sleep_s, self.gate = name, count, fps, sleep_s, gate
        self.image = coloured((colour, 1))[0]
        self.closed = threading.Event()

    def frames(self):
        for n in range(self.count):
            while self.gate is not None and not self.gate.acquire(timeout=0.02):
                if self.closed.is_set():
                    return
            if self.closed.wait(self.sleep_s):
                return
            yield Frame(self.image, n / self.fps, n, arrival_ns=time.monotonic_ns())

    def close(self):
        self.closed.set()


class Broken(Camera):
    def frames(self):
        yield from itertools.islice(super().frames(), 30)
        raise SourceError(f"{self.name} was unplugged; plug it in again")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_colour_model(tmp_path_factory.mktemp("model") / "m.onnx", labels=LABELS)


@pytest.fixture
def r(model):
    with Recognizer(model, engine="onnxruntime", num_threads=1) as opened:
        yield opened


@pytest.fixture(autouse=True)
def no_thread_is_left_behind():
    gc.collect()
    before = threading.active_count()
    yield
    gc.collect()
    deadline = time.monotonic() + 5
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() <= before


def counting(batches=None, sleep_s=0.0):
    """Return a recogniser whose engine notes the sizes of its batches and takes its time."""

    def scores(clips):
        if batches is not None:
            batches.append(len(clips))
        time.sleep(sleep_s)
        means = clips.astype(float).mean(axis=(1, 2, 3))
        return means / means.sum(axis=1, keepdims=True)

    return Recognizer(artifact(), engine=FakeEngine(scores))


def test_several_sources_say_where_each_prediction_comes_from(r, tmp_path):
    video = write_video(tmp_path / "v.mp4", coloured(("green", 60)), pix_fmt="yuv444p")
    sources = [coloured(("red", 60)), str(video), coloured(("blue", 40))]
    got = list(r.stream(sources, hop_s=0.5))
    labels = {(p.source, p.label) for p in got}
    assert labels == {("frames [1]", "red"), (str(video), "green"), ("frames [3]", "blue")}
    for name in ("frames [1]", str(video), "frames [3]"):
        alone = [p.start_s for p in got if p.source == name]
        count = 40 if name == "frames [3]" else 60
        assert alone == [p.start_s for p in r.stream(coloured(("red", count)), hop_s=0.5)]


def test_segments_of_several_sources_are_those_of_each(r):
    videos = [coloured(("red", 75), ("green", 75)), coloured(("blue", 150))]
    got = list(r.segments(videos))
    for n, video in enumerate(videos):
        alone = [(s.label, s.start_s, s.end_s) for s in r.segments(video)]
        mine = [s for s in got if s.source == f"frames [{n + 1}]"]
        assert [(s.label, s.start_s, s.end_s) for s in mine] == alone


def test_windows_of_several_sources_share_a_batch():
    batches = []
    with counting(batches, sleep_s=0.002) as r:
        got = list(r.stream([coloured((c, 60)) for c in LABELS], max_wait_ms=500))
    assert len(got) == sum(batches) == 3 * 7
    assert max(batches) == 3
    del batches[:]
    with counting(batches) as r:
        assert len(list(r.stream(coloured(("red", 60))))) == 7
        assert set(batches) == {1}
        list(r.stream([coloured((c, 60)) for c in LABELS], max_batch=2))
        assert max(batches) == 2


def test_an_inference_waits_for_other_sources_but_not_for_long():
    gate = threading.Semaphore(0)
    with counting() as r:
        stream = r.stream([coloured(("red", 400)), Camera("c", gate=gate)], max_batch=9)
        begin = time.monotonic()
        for _ in range(20):
            next(stream)
        assert time.monotonic() - begin < 2
        gate.release(200)
        assert "c" in {p.source for p in stream}


def test_a_fast_file_does_not_starve_a_camera():
    with counting(sleep_s=0.01) as r:
        camera = Camera("camera", "blue", 60, sleep_s=0.02)  # a window of it every 0.1 s
        sources = [coloured(("red", 25 * 60)), coloured(("green", 25 * 60)), camera]
        got = []
        for p in r.stream(sources, max_batch=1):
            got.append(p)
            if len([q for q in got if q.source == "camera"]) == 9:
                break
    cameras = [p for p in got if p.source == "camera"]
    # it waits for the inference that runs, and for at most one more of each file
    assert max(p.latency_ms for p in cameras[1:]) < 250
    assert sum(p.dropped_frames for p in cameras) == 0
    files = [sum(p.source == f"frames [{n}]" for p in got) for n in (1, 2)]
    assert abs(files[0] - files[1]) <= 3


def test_one_dead_source_does_not_stop_the_others(r, caplog, tmp_path):
    missing = str(tmp_path / "missing.mp4")
    sources = [Broken("cam"), missing, coloured(("green", 100))]
    with caplog.at_level(logging.WARNING, "dvfl_runtime"):
        got = list(r.stream(sources))
    assert sum(p.source == "frames" for p in got) == 13
    warnings = [record.message for record in caplog.records]
    assert len(warnings) == 2
    assert any("cam was unplugged" in w and "the other sources go on" in w for w in warnings)
    assert any(f"{missing} does not exist" in w for w in warnings)


def test_only_when_all_have_failed_an_error_is_raised(r, tmp_path):
    with pytest.raises(SourceError, match=r"all 2 sources failed, the first one with: .*a\.mp4"):
        list(r.stream([tmp_path / "a.mp4", Broken("cam")]))
    with pytest.raises(SourceError, match="cam was unplugged"):
        list(r.stream(Broken("cam")))
    with pytest.raises(SourceError, match="cam was unplugged"):
        list(r.segments([Broken("cam")]))


def test_what_was_read_before_an_error_is_recognised(r):
    stream, ends = r.stream(Broken("cam", count=30)), []
    with pytest.raises(SourceError, match="cam was unplugged"):
        ends.extend(p.end_s for p in stream)
    assert ends[-1] == pytest.approx(30 / 20)


def test_a_camera_of_one_picture_in_three_seconds_has_a_row_for_each(r):
    camera = Camera("cam", count=5, fps=0.3, sleep_s=0.05)
    assert [round(p.start_s * 0.3) for p in r.stream(camera)] == [0, 1, 2, 3, 4]


def test_the_last_windows_before_a_pause_do_not_wait_for_its_end(r, monkeypatch):
    monkeypatch.setattr("dvfl_runtime.clips.source_windows.QUIET_S", 0.1)
    monkeypatch.setattr("dvfl_runtime.streams.scheduler.PAUSE_CHECK_S", 0.05)
    monkeypatch.setattr("dvfl_runtime.streams.scheduler.GRACE_S", 0.1)
    camera = Camera("cam", gate=threading.Semaphore(9))
    stream = r.stream(camera, window_s=0.3)
    ends = []
    while not ends or ends[-1] < 0.45:  # where the last of these nine frames has been shown
        ends.append(round(next(stream).end_s, 2))
    assert ends[-1] == 0.45
    camera.gate.release(5)
    after = next(stream)  # a stretch of its own, shorter than a window
    assert (round(after.start_s, 2), round(after.end_s, 2)) == (0.45, 0.7)
    stream.close()


def test_padded_segments_are_in_order_over_a_gap(r):
    times = [*range(11), 10.1, 11.1, 12.1]
    images = coloured(("red", 11), ("green", 3))
    frames = [Frame(images[n], float(t), n, after_gap=n == 11) for n, t in enumerate(times)]
    got = [(s.label, s.start_s) for s in r.segments(frames, window_s=2.0, pad="repeat")]
    assert got == [("red", 0.0), ("green", 10.1)]


def test_an_error_of_the_caller_s_own_iterable_arrives(r):
    def frames():
        yield from coloured(("red", 40))
        raise ZeroDivisionError("mine")

    stream = r.stream(frames())
    assert next(stream).label == "red"
    with pytest.raises(ZeroDivisionError, match="mine"):
        list(stream)
    with pytest.raises(ClipError):
        list(r.stream([np.zeros((4, 4), np.uint8)]))


def test_a_slow_consumer_gets_the_newest_window_of_a_live_source():
    seen = []
    with counting() as r:
        # windows of 1 s every 0.25 s, played five times as fast, and a consumer that takes three
        # windows' time for each
        stream = r.stream(Camera("cam", count=200, sleep_s=0.01))
        for p in stream:
            seen.append((p, time.monotonic()))
            time.sleep(0.15)
    predictions = [p for p, _ in seen]
    assert len(predictions) < 25  # of 37
    lags = [p.latency_ms for p in predictions]
    # it does not grow: every window is a fresh one, until the end: the last ones are not replaced
    assert max(lags[len(lags) // 2 : -2]) < 200
    ends = [p.end_s for p in predictions]
    assert ends == sorted(ends)
    # windows overlap: no frame was lost unless more than a window was overtaken
    assert sum(p.dropped_frames for p in predictions) < 100


def test_frames_that_no_prediction_shows_are_counted():
    gate = threading.Semaphore(0)
    camera = Camera("cam", count=201, gate=gate)
    with counting() as r:
        stream = r.stream(camera, hop_s=0.5)
        gate.release(25)
        first = next(stream)
        assert (first.start_s, first.dropped_frames) == (0.0, 0)
        gate.release(176)
        while not camera.closed.is_set() and gate._value:
            time.sleep(0.01)
        time.sleep(0.2)
        rest = list(stream)
    assert len(rest) <= 2
    # 200 frames in 10 s: the first window shows 20 of them and the others 20 each
    shown = {n for p in [first, *rest] for n in range(round(p.start_s * 20), round(p.end_s * 20))}
    count = round(rest[-1].end_s * 20)
    assert sum(p.dropped_frames for p in rest) == count - len(shown)


def test_latency_of_a_live_source_counts_from_the_newest_picture():
    def aged():
        for n in range(30):
            yield Frame(
                coloured(("red", 1))[0], n / 20, n, arrival_ns=time.monotonic_ns() - 3_000_000_000
            )

    camera = Camera("cam")
    camera.frames = aged
    with counting() as r:
        assert {p.latency_ms > 3000 for p in r.stream(camera)} == {True}
        camera = Camera("cam", count=30)
        camera.frames = lambda: (Frame(f, n / 20, n) for n, f in enumerate(coloured(("red", 30))))
        assert all(0 < p.latency_ms < 3000 for p in r.stream(camera))


def test_padding_gives_an_answer_after_the_first_hop(r):
    first = next(r.stream(coloured(("red", 100)), pad="repeat"))
    assert (first.start_s, first.end_s, first.label) == (0.0, 0.25, "red")
    found = list(r.segments(coloured(("red", 75), ("green", 75)), pad="repeat"))
    assert [(s.label, s.start_s) for s in found] == [("red", 0.0), ("green", found[0].end_s)]


def test_a_stream_that_is_left_early_leaves_nothing_behind(r):
    camera = Camera("cam", sleep_s=0.01, count=10_000)
    for p in r.stream([camera, coloured(("red", 1000))]):
        assert p.label
        break
    assert not camera.closed.is_set()  # it is the caller's
    for _ in r.segments([coloured(("red", 50), ("green", 500)), coloured(("red", 1000))]):
        break
    stream = r.stream(coloured(("red", 1000)))
    next(stream)
    del stream


def test_a_source_of_the_caller_that_hangs_is_closed_at_the_end(r, monkeypatch):
    monkeypatch.setattr("dvfl_runtime.streams.scheduler.GRACE_S", 0.2)
    camera = Camera("cam", count=30)
    frames = camera.frames

    hangs = threading.Event()

    def hanging():
        yield from frames()
        hangs.set()
        camera.closed.wait()

    camera.frames = hanging
    stream = r.stream(camera)
    next(stream)
    hangs.wait()
    stream.close()
    assert camera.closed.is_set()


def test_close_ends_a_stream_that_waits(r, monkeypatch):
    monkeypatch.setattr("dvfl_runtime.streams.scheduler.GRACE_S", 0.2)
    stream = r.stream(Camera("cam", gate=threading.Semaphore(25)))
    next(stream)
    camera_wakes = threading.Timer(0.3, r.close)
    camera_wakes.start()
    begin = time.monotonic()
    with pytest.raises(DvflError, match="closed"):
        for _ in stream:
            pass
    assert time.monotonic() - begin < 5
    camera_wakes.join()


@pytest.mark.parametrize("bad", [{"max_batch": 0}, {"max_wait_ms": -1}, {"pad": "zero"}])
def test_numbers_out_of_range_are_refused_before_iteration(r, bad):
    for use in (r.stream, r.segments):
        with pytest.raises(ValueError, match=f"{next(iter(bad))} must be"):
            use([], **bad)


INTERRUPTED = """
import sys, threading, time
import numpy as np
from dvfl_runtime import Recognizer
images = (np.zeros((64, 64, 3), np.uint8) for _ in range(10**9))
try:
    with Recognizer(sys.argv[1], engine="onnxruntime") as r:
        for p in r.stream(images):
            if p.start_s == 0.5:
                print("running", flush=True)
except KeyboardInterrupt:
    print("interrupted", threading.active_count(), flush=True)
"""


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGINT for one process")
def test_ctrl_c_ends_a_stream_and_its_threads(model):
    command = [sys.executable, "-c", INTERRUPTED, str(model)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "running\n"
        process.send_signal(signal.SIGINT)
        assert process.stdout.readline() == "interrupted 1\n"
        assert process.wait(10) == 0
