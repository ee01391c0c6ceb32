from __future__ import annotations

import contextlib
import itertools
import logging
import os
import subprocess
import sys
import threading
import tracemalloc
import wave
import weakref
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from videos import damage_packets, pictures, shared_clip, write_video

from dvfl_runtime.errors import ClipError, SourceError
from dvfl_runtime.sources import Frame, Source, open_source
from dvfl_runtime.sources.clock import Clock, next_time
from dvfl_runtime.sources.images import natural_key

# True counts: packets of the video stream, and the pictures that a plain single-threaded PyAV loop
# decodes; cv2 reads as many, but for AV1 (none). Where the header says something else, it is noted.
FRAME_COUNTS = {
    "dec_corrupted.mp4": 28,  # header 50: packet 30 is damaged, and no key frame follows
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
    "mm_ntu.avi": 103,  # 42 of its presentation stamps run backwards
    "mm_spatiotemporal.mp4": 57,
    "tc_av1_video.mkv": 125,  # no count in the header
    "tc_bt709_full_range.mp4": 30,
    "tc_h264_10bits.mp4": 30,
    "tc_h265_10bits.mp4": 30,
    "tc_h265_video.mp4": 10,
    "tc_nasa_13013.mp4": 325,
    "ucf_ApplyEyeMakeup.avi": 164,  # 54 of its presentation stamps run backwards
    "ucf_BaseballPitch.avi": 107,
}


def read(source: object, **kwargs: float) -> list[Frame]:
    with contextlib.closing(open_source(source, **kwargs)) as opened:
        return list(opened.frames())


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]


def assert_in_order(frames: list[Frame]) -> None:
    assert [f.index for f in frames] == list(range(len(frames)))
    assert frames[0].time_s == 0.0
    assert (np.diff([f.time_s for f in frames]) > 0).all()


def small(image: np.ndarray) -> np.ndarray:
    return cv2.resize(image, (32, 18), interpolation=cv2.INTER_AREA).astype(float)


# --- video files -----------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "count"), FRAME_COUNTS.items())
def test_every_frame_of_every_real_clip(name, count, caplog):
    path = shared_clip(name)
    frames = []
    for frame in open_source(path).frames():  # pictures of one clip may be 640 MB
        frames.append(Frame(frame.image[:1, :1], frame.time_s, frame.index))
        assert frame.image.dtype == np.uint8
        assert frame.image.shape[2] == 3
        assert frame.image.flags.c_contiguous
    assert len(frames) == count
    assert_in_order(frames)
    assert len(warnings_of(caplog)) == (1 if name == "dec_corrupted.mp4" else 0)


@pytest.mark.parametrize(
    ("name", "rate"), [("mm_ntu.avi", 30), ("ucf_ApplyEyeMakeup.avi", 25), ("tc_av1_video.mkv", 25)]
)
def test_constant_rate_gives_even_times(name, rate):
    times = [f.time_s for f in open_source(shared_clip(name)).frames()]
    np.testing.assert_allclose(times, np.arange(len(times)) / rate, atol=1e-3)


@pytest.mark.parametrize("angle", [0, 90, 180, 270])
def test_rotation_is_applied(angle):
    path = shared_clip(f"dec_video_{angle}.mov")
    with av.open(str(path)) as container:
        coded = next(container.decode(video=0)).to_ndarray(format="rgb24")
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
        raw = next(container.decode(video=0))
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
    assert np.abs(image.astype(float) - bgr[..., ::-1]).mean() < 2


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_variable_frame_rate_is_kept(tmp_path, suffix):
    ticks = np.cumsum([0, 40, 40, 200, 33, 7, 1000, 40]).tolist()
    path = write_video(
        tmp_path / f"vfr{suffix}", pictures(8), ticks=ticks, time_base=Fraction(1, 1000)
    )
    frames = read(path)
    np.testing.assert_allclose([f.time_s for f in frames], np.array(ticks) / 1000, atol=1.1e-3)


def test_times_start_at_zero(tmp_path):
    path = write_video(tmp_path / "late.mkv", pictures(4), ticks=[250, 251, 252, 253])
    np.testing.assert_allclose([f.time_s for f in read(path)], [0, 0.04, 0.08, 0.12], atol=1e-3)


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


def test_a_colon_in_a_name_is_no_protocol(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_video(tmp_path / "a.mp4", pictures(3)).rename("take:1 %03d.mp4")
    assert len(read("take:1 %03d.mp4")) == 3


# --- damage ----------------------------------------------------------------------------------


def test_corrupt_file_ends_with_one_warning(caplog, capfd):
    path = shared_clip("dec_corrupted.mp4")
    frames = read(path)
    assert len(frames) == 28
    (message,) = warnings_of(caplog)
    assert str(path) in message
    assert "after frame 27" in message
    assert "Invalid data" in message
    assert capfd.readouterr().err == ""  # libav's own log stays silent


@pytest.mark.parametrize("threads", [1, 2, 4])
@pytest.mark.parametrize("damaged", [[20], [86], [88], [89], [20, 89], [0]])
def test_damage_costs_frames_up_to_the_next_key_frame_only(
    tmp_path, caplog, monkeypatch, damaged, threads
):
    monkeypatch.setattr(os, "cpu_count", lambda: threads)
    path = write_video(tmp_path / "a.mp4", pictures(90), options={"bf": "0", "sc_threshold": "0"})
    whole = read(path)
    frames = read(damage_packets(path, damaged))
    lost = [i for i in range(90) if any(d <= i < d - d % 15 + 15 for d in damaged)]
    kept = [f for f in whole if f.index not in lost]
    assert len(frames) == len(kept)
    for got, want in zip(frames, kept, strict=True):
        if damaged != [0]:  # there the clock starts with the first good frame
            assert got.time_s == pytest.approx(want.time_s)
        np.testing.assert_array_equal(got.image, want.image)
    assert len(warnings_of(caplog)) == 1


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_b_frames_and_damage_do_not_depend_on_the_number_of_threads(tmp_path, monkeypatch, threads):
    path = damage_packets(write_video(tmp_path / "a.mp4", pictures(90)), [87])
    monkeypatch.setattr(os, "cpu_count", lambda: threads)
    assert len(read(path)) == 85


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_cut_mp4_gives_the_frames_that_are_there(tmp_path, caplog, monkeypatch, threads):
    monkeypatch.setattr(os, "cpu_count", lambda: threads)
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


# --- what cannot be opened -------------------------------------------------------------------


def audio_only(path: Path) -> None:
    with wave.open(str(path), "wb") as audio:
        audio.setnchannels(1)
        audio.setsampwidth(2)
        audio.setframerate(8000)
        audio.writeframes(bytes(16000))


@pytest.mark.parametrize(
    ("name", "make", "message"),
    [
        ("gone.mp4", lambda p: None, "does not exist"),
        ("text.mp4", lambda p: p.write_text("hello\n" * 500), "cannot open"),
        ("text.txt", lambda p: p.write_text("hello\n" * 500), "text file"),
        ("list.m3u8", lambda p: p.write_text("#EXTM3U\n#EXTINF:1,\nhttp://x/a.ts\n"), "."),
        ("zero.mp4", lambda p: p.touch(), "is empty"),
        ("empty", lambda p: p.mkdir(), "holds no images"),
        ("sound.wav", audio_only, "has no video stream"),
        ("pipe", os.mkfifo, "not a file or a folder"),
    ],
)
def test_bad_paths_are_one_clear_line(tmp_path, name, make, message):
    make(tmp_path / name)
    with pytest.raises(SourceError, match=message) as caught:
        open_source(tmp_path / name)
    assert str(tmp_path / name) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("source", [0, np.int64(1), "rtsp://cam/1", "csi://0?fps=30", "gst:v ! x"])
def test_live_sources_are_refused_by_name(source):
    with pytest.raises(SourceError, match="not supported by this version") as caught:
        open_source(source)
    assert str(source) in str(caught.value)


@pytest.mark.parametrize("source", ["foo://bar", "file:///tmp/a.mp4", "", None, 2.5, b"a.mp4"])
def test_other_things_that_are_no_source(source):
    with pytest.raises(SourceError):
        open_source(source)


@pytest.mark.parametrize("fps", [0, -1, float("nan"), float("inf")])
def test_fps_is_checked(fps):
    with pytest.raises(ValueError, match="fps must be"):
        open_source([], fps=fps)


@pytest.mark.parametrize(("module", "words"), [("av", "PyAV"), ("cv2", "OpenCV")])
def test_a_missing_library_names_the_extra(tmp_path, monkeypatch, module, words):
    path = write_video(tmp_path / "a.mp4", pictures(2))
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((4, 4, 3), np.uint8))
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(SourceError, match=rf"{words} is needed.*pip install 'dvfl\[cpu\]'"):
        read(path if module == "av" else tmp_path)


def test_import_needs_numpy_alone():
    code = (
        "import sys, dvfl_runtime.sources;"
        "print([m for m in ('av', 'cv2', 'torch', 'onnxruntime') if m in sys.modules])"
    )
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


# --- opening, closing, memory ----------------------------------------------------------------


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


# --- folders of images -----------------------------------------------------------------------


def image_folder(folder: Path, names: list[str]) -> Path:
    folder.mkdir(exist_ok=True)
    for i, name in enumerate(names):
        image = np.full((8 + i, 12, 3), (0, 0, 10 * i), np.uint8)  # BGR: pure red
        assert cv2.imwrite(str(folder / name), image)
    return folder


def test_images_come_in_natural_order_as_rgb(tmp_path):
    folder = image_folder(tmp_path / "f", ["frame2.png", "frame10.png", "frame1.png"])
    (folder / "notes.txt").write_text("no image")
    (folder / "._frame0.png").write_bytes(b"left by a Mac")
    source = open_source(folder, fps=10)
    frames = list(source.frames())
    assert [f.image[0, 0].tolist() for f in frames] == [[20, 0, 0], [0, 0, 0], [10, 0, 0]]
    assert [f.image.shape[0] for f in frames] == [10, 8, 9]  # sizes may differ
    np.testing.assert_allclose([f.time_s for f in frames], [0, 0.1, 0.2])
    assert source.duration_s == pytest.approx(0.3)
    assert (source.name, source.live, source.rewindable) == (str(folder), False, True)
    assert len(list(source.frames())) == 3
    source.close()
    with pytest.raises(SourceError, match="is closed"):
        next(source.frames())


def test_natural_order_of_mixed_names():
    names = ["b1.png", "a10.png", "a2.png", "10.png", "9.png", "A1.png"]
    ordered = sorted((Path(n) for n in names), key=natural_key)
    assert [p.name for p in ordered] == [
        "9.png", "10.png", "A1.png", "a2.png", "a10.png", "b1.png",
    ]  # fmt: skip


def test_unreadable_images_are_counted_in_one_warning(tmp_path, caplog):
    folder = image_folder(tmp_path / "f", [f"{i}.png" for i in range(5)])
    (folder / "1.png").write_bytes(b"")
    (folder / "3.png").write_bytes(b"not an image")
    frames = read(folder, fps=1)
    assert [(f.index, f.time_s) for f in frames] == [(0, 0.0), (1, 2.0), (2, 4.0)]
    (message,) = warnings_of(caplog)
    assert "2 of 5" in message
    assert "1.png" in message


def test_folder_without_a_readable_image(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"nothing")
    with pytest.raises(SourceError, match=r"none of the 1 images"):
        read(tmp_path)


# --- memory ----------------------------------------------------------------------------------


def test_array_is_a_source(tmp_path):
    clip = np.stack(list(pictures(6)))
    source = open_source(clip, fps=2)
    assert (source.name, source.live, source.rewindable) == ("frames", False, True)
    assert source.duration_s == 3.0
    frames = list(source.frames())
    assert_in_order(frames)
    assert [f.time_s for f in frames] == [0, 0.5, 1, 1.5, 2, 2.5]
    np.testing.assert_array_equal(np.stack([f.image for f in frames]), clip)


def test_iterator_is_read_once_and_lazily():
    taken = []

    def camera() -> Iterator[np.ndarray]:
        for i, image in enumerate(pictures(5)):
            taken.append(i)
            yield image

    source = open_source(camera())
    assert not source.rewindable
    assert source.duration_s is None
    frames = source.frames()
    next(frames)
    assert taken == [0]
    assert len(list(frames)) == 4
    with pytest.raises(SourceError, match="only once"):
        next(source.frames())


def test_list_can_be_read_twice():
    source = open_source(list(pictures(3)))
    assert source.rewindable
    assert len(list(source.frames())) == len(list(source.frames())) == 3


def test_frames_keep_their_times_and_are_numbered():
    image = next(iter(pictures(1)))
    given_frames = [Frame(image, 10.0, 7), Frame(image, 10.5, 9)]
    assert [(f.time_s, f.index) for f in read(given_frames)] == [(10.0, 0), (10.5, 1)]


@pytest.mark.parametrize("times", [[0.0, 0.0], [1.0, 0.5], [0.0, float("nan")]])
def test_times_of_frames_must_increase(times):
    image = next(iter(pictures(1)))
    with pytest.raises(ClipError, match="frame 1: time_s"):
        read([Frame(image, t, i) for i, t in enumerate(times)])


GOOD = np.zeros((4, 5, 3), np.uint8)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (GOOD.astype(np.float32), "frame 1 must be uint8"),
        (GOOD[..., 0], r"frame 1 must have the shape \(H, W, 3\), got \(4, 5\)"),
        (np.zeros((4, 5, 4), np.uint8), r"frame 1 .*got \(4, 5, 4\)"),
        (np.zeros((0, 5, 3), np.uint8), r"frame 1 .*got \(0, 5, 3\)"),
        ("a.png", "frame 1 must be .* got str"),
        (Frame(GOOD[..., :1], 9.0, 0), r"frame 1 .*got \(4, 5, 1\)"),
    ],
)
def test_bad_frames_are_named(bad, message):
    with pytest.raises(ClipError, match=message):
        read([GOOD, bad])


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (GOOD, r"\(N, H, W, 3\).*image\[None\]"),
        (GOOD[None].astype(float), "uint8"),
        (GOOD[None, ..., :2], r"\(N, H, W, 3\)"),
    ],
)
def test_bad_arrays_are_refused_at_once(array, message):
    with pytest.raises(ClipError, match=message):
        open_source(array)


@pytest.mark.parametrize("nothing", [[], iter(()), np.zeros((0, 4, 5, 3), np.uint8)])
def test_no_frames(nothing):
    with pytest.raises(SourceError, match="no frames"):
        read(nothing)


def test_closed_memory_source_ends():
    source = open_source(list(pictures(4)))
    frames = source.frames()
    next(frames)
    source.close()
    source.close()
    assert list(frames) == []


# --- the clock -------------------------------------------------------------------------------

STEPS = st.floats(1e-3, 1.0)
TICKS = st.integers(-(10**9), 10**9)


def times(ticks: list[int | None], step_s: float) -> list[float]:
    clock = Clock(Fraction(1, 1000), step_s)
    return [clock.time_s(t) for t in ticks]


@given(st.lists(st.none() | TICKS, min_size=1, max_size=50), STEPS)
def test_repaired_times_start_at_zero_and_strictly_increase(ticks, step_s):
    result = times(ticks, step_s)
    assert result[0] == 0.0
    assert all(a < b for a, b in itertools.pairwise(result))


@given(st.lists(TICKS, min_size=1, max_size=50, unique=True).map(sorted), STEPS)
def test_increasing_times_are_untouched(ticks, step_s):
    assert times(ticks, step_s) == [float(Fraction(t - ticks[0], 1000)) for t in ticks]


@given(st.none() | st.floats(-1e9, 1e9), st.floats(-1e9, 1e9), STEPS)
def test_next_time_is_later(stamp_s, last_s, step_s):
    assert next_time(stamp_s, last_s, step_s) > last_s


def test_repairs():
    assert times([0, 40, 40, 80], 0.04) == [0, 0.04, 0.06, 0.08]  # a repeated stamp
    assert times([0, None, 80], 0.04) == [0, 0.04, 0.08]  # a missing one
    assert times([None, None, 500, 540], 0.04) == pytest.approx([0, 0.04, 0.08, 0.12])
    restarted = times([0, 40, 2000, 0, 40], 0.04)
    assert restarted == pytest.approx([0, 0.04, 2.0, 2.04, 2.08])
