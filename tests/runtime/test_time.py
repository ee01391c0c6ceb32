"""Files as cameras and recorders leave them: every frame is recognised, at the time it is shown."""

import contextlib
import itertools
import time

import cv2
import numpy as np
import pytest
from artifacts import LABELS, coloured, write_colour_model
from videos import write_video

from dvfl_runtime import Frame, Grabbed, LiveSource, Recognizer, cli
from dvfl_runtime.sources import open_source


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


def refilled(colours):
    """Yields one array again and again, filled anew for each picture."""
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
    for pictures in (refilled(colours), frames):
        assert [p.label for p in r.stream(pictures, fps=10, window_s=0.05)] == colours
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
