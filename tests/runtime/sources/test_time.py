"""Files as cameras and recorders leave them: every frame is recognised, at the time it is shown."""

import contextlib
import itertools
import json
import time
from fractions import Fraction

import av
import cv2
import numpy as np
import pytest
from artifacts import LABELS, coloured, write_colour_model
from frames import read, warnings_of
from videos import pictures, write_video

from dvfl_runtime import Frame, Grabbed, LiveSource, Recognizer
from dvfl_runtime.app import cli
from dvfl_runtime.sources import open_source
from dvfl_runtime.sources.jetson.decoder import times_shown


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_colour_model(tmp_path_factory.mktemp("model") / "m.onnx", labels=LABELS)


@pytest.fixture(scope="module")
def r(model):
    with Recognizer(model, engine="onnxruntime", num_threads=1) as opened:
        yield opened


def motion_recording(path, colours=("red", "green", "blue", "red", "green", "blue")):
    """A camera that records while something moves: 0.6 s in every 5.5 s, at 25 frames a second."""
    images = coloured(*((colour, 15) for colour in colours), height=32, width=32)
    ticks = [n % 15 + round(5.5 * 25) * (n // 15) for n in range(len(images))]
    return write_video(path, images, ticks=ticks, pix_fmt="yuv444p")


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "mov"])
def test_each_stretch_of_a_motion_recording_has_a_row(r, tmp_path, suffix):
    path = motion_recording(tmp_path / f"motion.{suffix}")
    got = [(p.label, p.start_s, p.end_s) for p in r.stream(path)]
    assert [label for label, _, _ in got] == ["red", "green", "blue"] * 2
    spans = np.array([span for _, *span in got])
    assert spans == pytest.approx(
        np.array([[5.52 * n, 5.52 * n + 0.6] for n in range(6)]), abs=0.01
    )
    assert [s.label for s in r.segments(path)] == ["red", "green", "blue"] * 2


def test_each_picture_of_a_time_lapse_has_a_row(model, tmp_path, capsys):
    images = coloured(("red", 4), ("green", 4), height=32, width=32)
    video = write_video(
        tmp_path / "v.mp4", images, ticks=[125 * n for n in range(8)], pix_fmt="yuv444p"
    )
    folder = tmp_path / "folder"
    folder.mkdir()
    for n, image in enumerate(images):
        cv2.imwrite(str(folder / f"{n}.png"), image[..., ::-1])
    for source in ([str(video)], [str(folder), "--fps", "0.2"]):
        assert cli.main([*source, "--model", str(model)]) == 0
        rows = [line.split() for line in capsys.readouterr().out.splitlines()[2:]]
        assert [row[2] for row in rows] == ["red"] * 4 + ["green"] * 4
        assert [row[0] for row in rows] == [
            *("0.00", "5.00", "10.00", "15.00", "20.00", "25.00", "30.00", "35.00")
        ]


@pytest.mark.parametrize("count", [1, 2, 3, 24, 25, 26, 30, 49, 51])
def test_the_rows_of_a_file_cover_it_from_its_first_frame_to_its_last(r, count):
    spans = [(p.start_s, p.end_s) for p in r.stream(coloured(("red", count), height=8, width=8))]
    assert spans[0][0] == 0
    assert spans[-1][1] > (count - 1) / 25
    assert all(start_s <= end_s for (_, end_s), (start_s, _) in itertools.pairwise(spans))


# --- bare video: no timestamps -----------------------------------------------------------------


def bare(path, rate, codec="libx264", **options):
    """Two seconds of pictures one after another, without a container."""
    images = coloured(("red", rate), ("green", rate), height=48, width=64)
    time_base = Fraction(1, rate)
    return write_video(path, images, codec=codec, rate=rate, time_base=time_base, **options)


@pytest.mark.parametrize("rate", [60, 15])
@pytest.mark.parametrize(
    ("suffix", "codec", "options"),
    [
        ("h264", "libx264", {}),
        ("h264", "libx264", {"x264-params": "tff=1"}),  # interlaced: two fields to a frame
        ("hevc", "libx265", {"x265-params": "log-level=none"}),
        ("m2v", "mpeg2video", {}),
    ],
)
def test_bare_video_is_timed_by_its_headers(tmp_path, caplog, suffix, codec, options, rate):
    if codec not in av.codecs_available:
        pytest.skip(f"this PyAV has no {codec}")
    rate = 30 if (codec, rate) == ("mpeg2video", 15) else rate  # it has no such rate
    frames = read(bare(tmp_path / f"x.{suffix}", rate, codec, options=options))
    np.testing.assert_allclose([f.time_s for f in frames], np.arange(2 * rate) / rate, atol=1e-6)
    assert warnings_of(caplog) == []


def test_bare_video_without_a_rate_asks_for_it(model, tmp_path, caplog, capsys):
    path = bare(tmp_path / "x.mjpeg", 50, "mjpeg", pix_fmt="yuvj420p")
    frames = read(path)
    assert len(frames) == 100
    assert frames[-1].time_s == pytest.approx(99 / 25)
    (message,) = warnings_of(caplog)
    assert str(path) in message
    assert "second it has; 25 is assumed. If that is wrong, put it into" in message
    assert message.endswith(", or pass fps=F")
    caplog.clear()
    assert read(path, fps=50.0)[-1].time_s == pytest.approx(99 / 50)
    assert cli.main([str(path), "--fps", "50", "--model", str(model)]) == 0
    assert warnings_of(caplog) == []
    assert capsys.readouterr().out.splitlines()[-1].split()[1] == "2.00"


def test_who_says_the_rate_of_bare_video_is_right_and_stamps_are_kept(tmp_path):
    path = bare(tmp_path / "x.h264", 60)
    assert read(path, fps=30.0)[-1].time_s == pytest.approx(119 / 30)
    video = write_video(tmp_path / "x.mp4", coloured(("red", 10)))
    assert read(video, fps=5.0)[-1].time_s == pytest.approx(9 / 25)


def test_damage_takes_its_time_in_bare_video_too(tmp_path, caplog):
    path = tmp_path / "x.h264"
    options = {"g": "15", "bf": "0", "sc_threshold": "0"}
    write_video(path, pictures(60), rate=50, time_base=Fraction(1, 50), options=options)
    units = path.read_bytes().split(b"\0\0\1")
    slices = [n for n, unit in enumerate(units) if unit[:1] and unit[0] & 31 in (1, 5)]
    units[slices[20]] = units[slices[20]][:4] + b"\xff" * (len(units[slices[20]]) - 4)
    path.write_bytes(b"\0\0\1".join(units))
    times = [frame.time_s for frame in read(path)]
    assert times == pytest.approx([n / 50 for n in range(60) if not 20 <= n < 30])
    assert len(warnings_of(caplog)) == 1


def test_a_single_picture_needs_no_rate(tmp_path, caplog):
    assert len(read(bare(tmp_path / "x.mjpeg", 1, "mjpeg", pix_fmt="yuvj420p"))) == 2
    assert len(warnings_of(caplog)) == 1
    caplog.clear()
    write_video(tmp_path / "one.mjpeg", coloured(("red", 1)), codec="mjpeg", pix_fmt="yuvj420p")
    assert len(read(tmp_path / "one.mjpeg")) == 1
    assert warnings_of(caplog) == []


# --- the player's clock --------------------------------------------------------------------------


def with_sound(path, images, begin_s):
    """A video at 25 frames a second that begins so much later than its sound."""
    with av.open(str(path), "w") as container:
        sound = container.add_stream("aac", rate=44100, layout="mono")
        video = container.add_stream("libx264", rate=25, options={"preset": "ultrafast"})
        video.height, video.width = images[0].shape[:2]
        video.pix_fmt = "yuv444p"
        for n in range(200):
            samples = np.zeros((1, 1024), np.float32)
            heard = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
            heard.sample_rate, heard.pts, heard.time_base = 44100, 1024 * n, Fraction(1, 44100)
            container.mux(sound.encode(heard))
        for n, image in enumerate(images):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = n + round(25 * begin_s), Fraction(1, 25)
            container.mux(video.encode(frame))
        container.mux([*sound.encode(), *video.encode()])
    return path


@pytest.mark.parametrize("suffix", ["mp4", "mov", "mkv", "ts"])
@pytest.mark.parametrize("begin_s", [4, 0])
def test_times_are_those_of_a_player(tmp_path, suffix, begin_s):
    images = coloured(("red", 25), ("green", 25), height=32, width=32)
    path = with_sound(tmp_path / f"v.{suffix}", images, begin_s)
    source = open_source(path)
    times = [frame.time_s for frame in source.frames()]
    np.testing.assert_allclose(times, begin_s + np.arange(50) / 25, atol=0.06)  # sound has a lead
    assert source.duration_s >= begin_s + 1.95
    np.testing.assert_allclose(list(times_shown(path)), times)  # what a Jetson goes by


def test_every_output_is_on_the_clock_of_a_player(model, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    images = coloured(("red", 50), ("green", 50), height=32, width=32)
    with_sound(tmp_path / "late.mp4", images, 4)
    command = ["late.mp4", "--model", str(model), "--format", "jsonl", "--segments"]
    for name in ("s.srt", "s.csv", "s.json"):
        assert cli.main([*command, name]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert rows[0]["start_s"] == pytest.approx(4, abs=0.06)
    assert rows[-1]["end_s"] == pytest.approx(8, abs=0.06)
    first, second = json.loads((tmp_path / "s.json").read_text())["segments"]
    assert (first["start_s"], second["end_s"]) == (rows[0]["start_s"], rows[-1]["end_s"])
    assert first["end_s"] == pytest.approx(6, abs=0.3)
    assert (tmp_path / "s.csv").read_text().splitlines()[1].startswith(f"{first['start_s']:.3f},")
    assert "00:00:04,0" in (tmp_path / "s.srt").read_text().splitlines()[1]


def test_a_file_begins_where_its_container_does(tmp_path):
    ticks = [250, 251, 252, 253]
    for suffix in ("mkv", "ts"):
        path = write_video(tmp_path / f"late.{suffix}", coloured(("red", 4)), ticks=ticks)
        times = [frame.time_s for frame in read(path)]
        np.testing.assert_allclose(times, [0, 0.04, 0.08, 0.12], atol=1.1e-3)


# --- one array that is filled again and again ----------------------------------------------------


def refilled(colours):
    """Yield one array again and again, filled anew for each picture."""
    buffer = np.empty((16, 16, 3), np.uint8)
    for colour in colours:
        buffer[:] = coloured((colour, 1))[0][0, 0]
        yield buffer


class Refilling:
    """A camera's SDK that hands out its own buffer."""

    def __init__(self, colours):
        self.pictures = refilled(colours)

    def open(self):
        pass

    def read(self):
        time.sleep(0.002)
        picture = next(self.pictures, None)
        return None if picture is None else Grabbed(picture)

    def close(self):
        pass


class Rereadable:
    """A user's data set: each pass fills one array."""

    def __iter__(self):
        return refilled(["red", "green", "blue"])


def test_one_array_that_is_filled_again_and_again(r):
    colours = ["red", "green", "blue"] * 20
    frames = (Frame(image, n / 10, n) for n, image in enumerate(refilled(colours)))
    for source in (refilled(colours), frames):
        assert [p.label for p in r.stream(source, fps=10, window_s=0.05)] == colours
    assert r.classify(refilled(["blue"] + ["red"] * 2 + ["green"] * 30)).label == "green"
    images = [frame.image[0, 0].argmax() for frame in list(open_source(Rereadable()).frames())]
    assert images == [0, 1, 2]


def test_a_grabber_that_fills_one_array(r):
    colours = ["red", "green", "blue"] * 10
    source = LiveSource("sdk", Refilling(colours))
    frames = []
    with contextlib.closing(source):
        for frame in source.frames():
            time.sleep(0.001)  # the next picture is read meanwhile
            frames.append(LABELS[int(frame.image[0, 0].argmax())])
    stats = source.stats
    assert len(frames) == stats.frames - stats.dropped_frames
    if not stats.dropped_frames:
        assert frames == colours
    assert frames[-1] == "blue"
