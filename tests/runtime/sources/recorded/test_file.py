from __future__ import annotations

import contextlib
import os
import threading
import tracemalloc
import weakref
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from frames import assert_in_order, read, warnings_of
from videos import damage_packets, pictures, shared_clip, write_video

from dvfl_runtime.errors import SourceError
from dvfl_runtime.sources import Frame, Source, open_source
from dvfl_runtime.sources.decoding.container import packets_of
from dvfl_runtime.sources.decoding.picture import Orientation, upright_rgb

# True counts: packets of the video stream, and the pictures that a plain single-threaded PyAV loop
# decodes; cv2 reads as many, but for AV1 (none). Other counts in headers are noted.
FRAME_COUNTS = {
    # header 50: packet 30 is damaged and packet 29 with it, and no keyframe follows; one of the
    # good pictures waits in the decoder, after the damage
    "dec_corrupted.mp4": 29,
    "dec_pancake.mkv": 310,  # no count in the header; cv2 guesses 311 from the duration
    "dec_unordered.mov": 4,
    "dec_video_0.mov": 3,
    "dec_video_90.mov": 3,
    "dec_video_180.mov": 3,
    "dec_video_270.mov": 3,
    "dvfl_basketball.gif": 8,
    "dvfl_benchpress.gif": 8,
    "dvfl_golfswing.gif": 8,
    "dvfl_mixing.gif": 8,
    "dvfl_playingguitar.gif": 8,
    "dvfl_playingtabla.gif": 8,
    "dvfl_pullups.gif": 8,
    "dvfl_skiing.gif": 8,
    "felix_exercise.avi": 393,
    "mm_demo.mp4": 280,
    "mm_demo_skeleton.mp4": 72,
    "mm_ntu.avi": 103,  # 42 of its presentation timestamps run backwards
    "mm_spatiotemporal.mp4": 57,
    "tc_av1_video.mkv": 125,  # no count in the header
    "tc_bt709_full_range.mp4": 30,
    "tc_h264_10bits.mp4": 30,
    "tc_h265_10bits.mp4": 30,
    "tc_h265_video.mp4": 10,
    "tc_nasa_13013.mp4": 390,  # of the larger one of its two video streams
    "ucf_ApplyEyeMakeup.avi": 164,  # 54 of its presentation timestamps run backwards
    "ucf_BaseballPitch.avi": 107,
}


# As a player shows them: AVI stores no presentation times, and a decoder of B-frames is one behind.
FIRST_S = {"mm_ntu.avi": 1 / 30, "ucf_ApplyEyeMakeup.avi": 1 / 25}


def small(image: np.ndarray) -> np.ndarray:
    return cv2.resize(image, (32, 18), interpolation=cv2.INTER_AREA).astype(float)


@pytest.mark.parametrize(("name", "count"), FRAME_COUNTS.items())
def test_every_frame_of_every_real_clip(name, count, caplog):
    path = shared_clip(name)
    frames = []
    for frame in open_source(path).frames():  # pictures of one clip may be 640 MB
        if frame.index % 10 == 0:
            assert frame.image.dtype == np.uint8
            assert frame.image.shape[2] == 3
            assert frame.image.flags.c_contiguous
        frames.append(Frame(np.zeros((1, 1, 3), np.uint8), frame.time_s, frame.index))
    assert len(frames) == count
    assert_in_order(frames, FIRST_S.get(name, 0.0))
    assert len(warnings_of(caplog)) == (1 if name == "dec_corrupted.mp4" else 0)


@pytest.mark.parametrize(
    ("name", "rate"), [("mm_ntu.avi", 30), ("ucf_ApplyEyeMakeup.avi", 25), ("tc_av1_video.mkv", 25)]
)
def test_constant_rate_gives_even_times(name, rate):
    times = [f.time_s for f in open_source(shared_clip(name)).frames()]
    begin_s = FIRST_S.get(name, 0.0)
    np.testing.assert_allclose(times, begin_s + np.arange(len(times)) / rate, atol=1e-3)


@pytest.mark.parametrize("angle", [0, 90, 180, 270])
def test_rotation_is_applied(angle):
    path = shared_clip(f"dec_video_{angle}.mov")
    with av.open(str(path)) as container:
        coded = upright_rgb(next(container.decode(video=0)), Orientation())
    image = read(path)[0].image
    # A phone filmed one keyboard in four positions; by eye, all letters stand upright after these.
    np.testing.assert_array_equal(image, np.rot90(coded, {0: 0, 90: 3, 180: 2, 270: 1}[angle]))
    _, bgr = cv2.VideoCapture(str(path)).read()
    assert image.shape == bgr.shape
    assert np.abs(small(image) - small(bgr[..., ::-1])).mean() < 1


@pytest.mark.parametrize(
    "name", ["tc_bt709_full_range.mp4", "tc_nasa_13013.mp4", "mm_demo.mp4", "tc_h265_video.mp4"]
)
def test_colours_follow_the_stated_matrix_and_range(name):
    path = shared_clip(name)
    image = next(open_source(path).frames()).image
    with av.open(str(path)) as container:
        raw = next(container.decode(container.streams.best("video")))
        planes = raw.to_ndarray()
        full_range = raw.color_range == 2
        kr, kb = (0.2126, 0.0722) if raw.colorspace == 1 else (0.299, 0.114)
    height, width = image.shape[:2]
    y = planes[:height].astype(float)
    chroma = planes[height:].reshape(2, height // 2, width // 2).astype(float) - 128
    u, v = (c.repeat(2, 0).repeat(2, 1) for c in chroma)
    if not full_range:
        y, u, v = (y - 16) * 255 / 219, u * 255 / 224, v * 255 / 224
    red, blue = y + 2 * (1 - kr) * v, y + 2 * (1 - kb) * u
    green = (y - kr * red - kb * blue) / (1 - kr - kb)
    expected = np.clip(np.stack([red, green, blue], -1), 0, 255)
    assert np.abs(image - expected).mean() < 1.5
    np.testing.assert_allclose(image.mean((0, 1)), expected.mean((0, 1)), atol=1.6)


def test_ten_bit_frames_look_like_cv2s():
    path = shared_clip("tc_h265_10bits.mp4")
    _, bgr = cv2.VideoCapture(str(path)).read()
    image = next(open_source(path).frames()).image
    assert np.abs(image.astype(float) - bgr[..., ::-1]).mean() < 3


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_variable_frame_rate_is_kept(tmp_path, suffix):
    ticks = np.cumsum([0, 40, 40, 200, 33, 7, 1000, 40]).tolist()
    path = write_video(
        tmp_path / f"vfr{suffix}", pictures(8), ticks=ticks, time_base=Fraction(1, 1000)
    )
    frames = read(path)
    np.testing.assert_allclose([f.time_s for f in frames], np.array(ticks) / 1000, atol=1.1e-3)


def test_file_source_describes_itself(tmp_path):
    path = write_video(tmp_path / "a.mp4", pictures(50))
    source = open_source(path)
    assert isinstance(source, Source)
    assert (source.name, source.live, source.rewindable) == (str(path), False, True)
    assert source.duration_s == pytest.approx(2.0, abs=0.05)
    first, second = list(source.frames()), list(source.frames())
    assert len(first) == len(second) == 50
    np.testing.assert_array_equal(first[7].image, second[7].image)
    assert open_source(str(path)).name == str(path)
    assert open_source(source) is source


def test_a_stream_that_comes_later_does_not_end_in_an_index_error():
    """PyAV then looks for it at the end of the file, after the list of the known streams."""

    class Container:
        calls = 0

        def demux(self, stream):
            self.calls += 1
            yield from ("packet", "packet") if self.calls == 1 else ("end",)
            if self.calls == 1:
                raise IndexError("list index out of range")

    assert list(packets_of(Container(), None)) == ["packet", "packet", "end"]


def test_a_colon_in_a_name_is_no_protocol(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_video(tmp_path / "a.mp4", pictures(3)).rename("take:1 %03d.mp4")
    assert len(read("take:1 %03d.mp4")) == 3


# --- damage ---------------------------------------------------------------------------------------


def test_damage_is_told_once_however_often_a_file_is_read(tmp_path, caplog):
    path = damage_packets(write_video(tmp_path / "a.mp4", pictures(30)), [5])
    source = open_source(path)
    assert len(list(source.frames())) == len(list(source.frames())) < 30
    assert len(warnings_of(caplog)) == 1


def test_corrupt_file_ends_with_one_warning(caplog, capfd):
    path = shared_clip("dec_corrupted.mp4")
    frames = read(path)
    assert len(frames) == 29
    (message,) = warnings_of(caplog)
    assert str(path) in message
    assert "after frame 28" in message
    assert "Invalid data" in message
    assert capfd.readouterr().err == ""  # libav's own log stays silent


@pytest.mark.parametrize("cores", [1, 2, 4])
@pytest.mark.parametrize("damaged", [[20], [86], [88], [89], [20, 89], [0]])
def test_damage_costs_frames_up_to_the_next_key_frame_only(
    tmp_path, caplog, monkeypatch, damaged, cores
):
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    path = write_video(tmp_path / "a.mp4", pictures(90), options={"bf": "0", "sc_threshold": "0"})
    whole = read(path)
    frames = read(damage_packets(path, damaged))
    lost = [i for i in range(90) if any(d <= i < d - d % 15 + 15 for d in damaged)]
    kept = [f for f in whole if f.index not in lost]
    assert len(frames) == len(kept)
    for got, want in zip(frames, kept, strict=True):
        assert got.time_s == pytest.approx(want.time_s)
        np.testing.assert_array_equal(got.image, want.image)
    assert len(warnings_of(caplog)) == 1


@pytest.mark.parametrize("cores", [1, 2, 4])
def test_b_frames_and_damage_do_not_depend_on_the_number_of_cores(tmp_path, monkeypatch, cores):
    path = damage_packets(write_video(tmp_path / "a.mp4", pictures(90)), [87])
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    assert len(read(path)) == 87


@pytest.mark.parametrize("cores", [1, 2, 4])
def test_cut_mp4_gives_the_frames_that_are_there(tmp_path, caplog, monkeypatch, cores):
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    path = write_video(tmp_path / "a.mp4", pictures(90))
    with av.open(str(path)) as container:
        packets = [p for p in container.demux(video=0) if p.size]
        end = packets[44].pos + packets[44].size // 2
    path.write_bytes(path.read_bytes()[:end])
    assert len(read(path)) == 44
    (message,) = warnings_of(caplog)
    assert "cut off" in message


@pytest.mark.parametrize("kept_of_moov", [-4, 8])
def test_mp4_without_its_index(tmp_path, kept_of_moov):
    path = write_video(tmp_path / "a.mp4", pictures(10))
    data = path.read_bytes()
    path.write_bytes(data[: data.index(b"moov") + kept_of_moov])
    with pytest.raises(SourceError, match=r"cannot open .*a\.mp4.*complete video file"):
        open_source(path)


def test_no_decodable_frame(tmp_path, caplog):
    path = damage_packets(write_video(tmp_path / "a.mp4", pictures(20)), range(20))
    with pytest.raises(SourceError, match=r"no frame of .*a\.mp4 can be decoded \(h264\)"):
        read(path)
    assert warnings_of(caplog) == []


# --- opening, closing, memory ---------------------------------------------------------------------


def is_open(path: Path) -> bool:
    fds = Path("/proc/self/fd")
    if not fds.is_dir():
        pytest.skip("needs /proc")
    links = []
    for fd in fds.iterdir():
        with contextlib.suppress(OSError):
            links.append(os.readlink(fd))
    return str(path) in links


def test_closing_the_generator_releases_the_file(tmp_path):
    path = write_video(tmp_path / "a.mp4", pictures(30))
    source = open_source(path)
    assert not is_open(path)
    frames = source.frames()
    next(frames)
    assert is_open(path)
    frames.close()
    assert not is_open(path)


def test_close_from_another_thread_ends_the_frames(tmp_path):
    path = write_video(tmp_path / "a.mp4", pictures(60))
    source = open_source(path)
    frames = source.frames()
    next(frames)
    thread = threading.Thread(target=source.close)
    thread.start()
    thread.join()
    source.close()
    assert list(frames) == []
    assert not is_open(path)
    with pytest.raises(SourceError, match="is closed"):
        next(source.frames())


def test_memory_stays_bounded(tmp_path):
    path = write_video(
        tmp_path / "long.mp4",
        (np.full((48, 64, 3), i % 256, np.uint8) for i in range(3000)),
        options={"preset": "ultrafast"},
    )
    alive: weakref.WeakSet[Frame] = weakref.WeakSet()
    most = count = 0
    tracemalloc.start()
    try:
        for frame in open_source(path).frames():
            alive.add(frame)
            most = max(most, len(alive))
            count += 1
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert count == 3000
    assert most <= 2
    assert peak < 3e6  # all pictures together are 28 MB
