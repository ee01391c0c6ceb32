"""The recorder on real streams, servers and encoders: each file is decoded again."""

from __future__ import annotations

import contextlib
import resource
import threading

import numpy as np
import pytest
from streams import FPS, RtspServer, encode, number_of, numbered
from web import Web

from dvfl_runtime.errors import ArgumentError, OutputError, SourceError
from dvfl_runtime.record.recorder import Recorder
from dvfl_runtime.sources import Frame, LiveOptions, MemorySource, open_source

SMALL = (96, 160)
SOON = LiveOptions(first_pause_s=0.1, longest_pause_s=0.2, max_outage_s=20)
WAIT_S = 30


@pytest.fixture(scope="module")
def stream(tmp_path_factory):
    return encode(tmp_path_factory.mktemp("stream") / "small", range(250), *SMALL)


@contextlib.contextmanager
def recording_from(source, **options):
    """Yield a recorder, and the frames of its source, which it observes."""
    recorder = Recorder(source, **options)

    def frames():
        for frame in source.frames():
            recorder.observe(frame)
            yield frame

    with contextlib.closing(recorder), contextlib.closing(source):
        yield recorder, frames()


def until(frames, time_s):
    """Read up to a time, and return the last frame."""
    return next(frame for frame in frames if frame.time_s >= time_s)


def numbers_in(path):
    """Return the numbers of the pictures of a file, and their times."""
    with contextlib.closing(open_source(path)) as source:
        found = [(number_of(frame.image), frame.time_s) for frame in source.frames()]
    return [n for n, _ in found], [t for _, t in found]


def memory(count=120, height=96, width=160):
    return MemorySource(np.stack([numbered(n, height, width) for n in range(count)]), FPS)


def test_a_stream_is_written_as_it_came_from_before_the_call(tmp_path, stream):
    server = RtspServer(tmp_path, stream)
    seen = []
    try:
        source = open_source(server.url, live=SOON)
        with recording_from(source, pre_roll_s=0.6) as (recorder, frames):
            noted = ((seen.append(frame), frame)[1] for frame in frames)
            begin_s = until(noted, 1.0).time_s - 0.6
            recording = recorder.begin(tmp_path / "clip", begin_s)
            end_s = until(noted, begin_s + 1.0).time_s
            recording.end(end_s)
            assert recording.wait(WAIT_S)
            assert recorder.remuxes
    finally:
        server.kill()
    assert recording.error is None
    assert recording.paths == [tmp_path / "clip.mp4"]
    numbers, times = numbers_in(recording.paths[0])
    assert (np.diff(numbers) == 1).all()  # also those that the consumer was too slow for
    stamps = np.interp(numbers, [number_of(f.image) for f in seen], [f.time_s for f in seen])
    begins_s, ends_s = stamps[0] - begin_s, stamps[-1] - end_s
    assert -0.05 < begins_s < 0.2
    assert -0.2 < ends_s < 0.05
    assert np.array(times) - times[0] == pytest.approx(stamps - stamps[0], abs=0.05)
    assert [path.name for path in tmp_path.iterdir() if path.suffix == ".mp4"] == ["clip.mp4"]


def test_a_recording_goes_on_when_the_server_has_come_back(tmp_path, stream):
    server = RtspServer(tmp_path, stream)
    again = tmp_path / "again"
    again.mkdir()
    source = open_source(server.url, live=SOON)
    with recording_from(source) as (recorder, frames):
        begun = next(frames)
        recording = recorder.begin(tmp_path / "clip", begun.time_s)
        until(frames, begun.time_s + 0.3)
        server.kill()
        server = RtspServer(again, stream, port=server.port)
        try:
            back = next(frame for frame in frames if frame.after_gap)
            recording.end(until(frames, back.time_s + 0.5).time_s)
        finally:
            server.kill()
        assert recording.wait(WAIT_S)
    assert len(recording.paths) == 1
    numbers, times = numbers_in(recording.paths[0])
    starts = [0, *(np.flatnonzero(np.diff(numbers) != 1) + 1), len(numbers)]
    assert len(starts) > 2
    # what came after the gap is where the source has it, and no picture shows remains of others
    assert times[starts[-2]] == pytest.approx(back.time_s - begun.time_s, abs=0.5)
    assert times[-1] > back.time_s - begun.time_s


def test_a_camera_that_sends_jpeg_over_http(tmp_path):
    with Web(b"") as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with recording_from(open_source(f"{server.url}/mjpeg")) as (recorder, frames):
            first = until(frames, 0.2)
            recording = recorder.begin(tmp_path / "clip", first.time_s)
            recording.end(until(frames, first.time_s + 0.5).time_s)
            assert recording.wait(WAIT_S)
            assert recorder.remuxes
        server.ended.set()
        server.shutdown()
    assert recording.error is None
    numbers, times = numbers_in(recording.paths[0])
    assert (np.diff(numbers) == 1).all()
    assert times[-1] == pytest.approx(0.5, abs=0.15)


@pytest.mark.parametrize("pre_roll_s", [0.0, 1.0])
def test_frames_are_encoded_where_there_are_no_packets(tmp_path, pre_roll_s):
    with recording_from(memory(), pre_roll_s=pre_roll_s) as (recorder, frames):
        at = until(frames, 1.99)
        recording = recorder.begin(tmp_path / "clip", at.time_s - pre_roll_s)
        recording.end(until(frames, 3.0).time_s)
        assert recording.wait(WAIT_S)
        assert not recorder.remuxes
    numbers, times = numbers_in(recording.paths[0])
    begin = at.index - round(pre_roll_s * FPS)
    assert numbers[0] == pytest.approx(begin + 1, abs=1)  # the frame before the call may be gone
    assert numbers == list(range(numbers[0], 75))
    assert np.diff(times) == pytest.approx(1 / FPS, abs=2e-3)


def test_pictures_of_another_size_go_into_a_second_file(tmp_path):
    sizes = [SMALL] * 30 + [(48, 80)] * 30
    images = [Frame(numbered(n, *size), n / FPS, n) for n, size in enumerate(sizes)]
    with recording_from(open_source(images)) as (recorder, frames):
        recording = recorder.begin(tmp_path / "clip", 0.0)
        until(frames, 59 / FPS)
    assert recording.error is None
    assert [path.name for path in recording.paths] == ["clip.mp4", "clip-2.mp4"]
    assert [numbers_in(path)[0] for path in recording.paths] == [
        list(range(30)),
        list(range(30, 60)),
    ]


def test_two_recordings_at_a_time_and_one_that_is_cancelled(tmp_path):
    with recording_from(memory()) as (recorder, frames):
        one, two = (recorder.begin(tmp_path / name, 0.0) for name in ("one", "two"))
        gone = recorder.begin(tmp_path / "gone", 0.0)
        one.end(until(frames, 1.0).time_s)
        gone.cancel()
        until(frames, 2.0)
    for recording, seconds in ((one, 1), (two, 2)):
        numbers, _ = numbers_in(recording.paths[0])
        assert numbers == list(range(len(numbers)))
        assert len(numbers) == pytest.approx(seconds * FPS, abs=1)
    assert gone.wait(WAIT_S)
    assert (gone.paths, gone.error) == ([], None)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.mp4", "two.mp4"]


def test_what_cannot_be_written_is_an_error_of_the_recording_alone(tmp_path):
    (tmp_path / "gone").mkdir()
    with recording_from(memory()) as (recorder, frames):
        kept = recorder.begin(tmp_path / "kept", 0.0)
        lost = recorder.begin(tmp_path / "gone" / "clip", 0.0)
        (tmp_path / "gone").rmdir()
        until(frames, 2.0)
    assert isinstance(lost.error, OutputError)
    assert str(tmp_path / "gone" / "clip.mp4") in str(lost.error)
    assert lost.paths == []
    assert len(numbers_in(kept.paths[0])[0]) >= 2 * FPS


def test_a_full_disk_leaves_no_half_file(tmp_path):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    noise = np.random.default_rng(0).integers(0, 256, (100, 96, 160, 3), np.uint8)
    try:
        with recording_from(MemorySource(noise, FPS)) as (recorder, frames):
            recording = recorder.begin(tmp_path / "clip", 0.0)
            resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, before[1]))
            assert sum(1 for _ in frames) == 100
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert isinstance(recording.error, OutputError)
    assert "File too large" in str(recording.error)
    assert list(tmp_path.iterdir()) == []


def test_a_recording_of_nothing_ends_with_an_error(tmp_path):
    recorder = Recorder(memory())
    recording = recorder.begin(tmp_path / "clip", 0.0)
    recorder.close()
    recorder.close()
    assert recording.wait(WAIT_S)
    assert isinstance(recording.error, SourceError)
    assert recorder.begin(tmp_path / "late", 0.0).wait(0)
    assert list(tmp_path.iterdir()) == []


def test_its_arguments_are_checked():
    with pytest.raises(ArgumentError, match="pre_roll_s must be"):
        Recorder(memory(), pre_roll_s=-1)
