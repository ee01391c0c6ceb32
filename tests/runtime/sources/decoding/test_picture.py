"""Pictures as FFmpeg's own player shows them: the best stream, upright, in the stated colours."""

from __future__ import annotations

import gc
import struct
from pathlib import Path

import av
import numpy as np
import pytest
from av.bitstream import BitStreamFilterContext
from frames import read
from videos import pictures, write_video

from dvfl_runtime.errors import SourceError
from dvfl_runtime.sources import open_source
from dvfl_runtime.sources.decoding import picture
from dvfl_runtime.sources.decoding.picture import Orientation, upright_rgb
from dvfl_runtime.sources.recorded import video_file

ONE = 1 << 16  # of a fixed-point number with 16 bits after the point
PLAIN = {"preset": "ultrafast", "bf": "0"}


def images(path: Path) -> list[np.ndarray]:
    return [frame.image for frame in read(path)]


@pytest.fixture
def video(tmp_path) -> Path:
    return write_video(tmp_path / "a.mp4", pictures(12), options=PLAIN)


# What `ffmpeg -i a.mp4 out.png` (5.1) makes of the stored picture x for each matrix of the track.
TURNS = {
    (1, 0, 0, 1): lambda x: x,
    (-1, 0, 0, 1): np.fliplr,
    (1, 0, 0, -1): np.flipud,
    (-1, 0, 0, -1): lambda x: np.rot90(x, 2),
    (0, 1, -1, 0): lambda x: np.rot90(x, -1),
    (0, -1, 1, 0): np.rot90,
    (0, 1, 1, 0): lambda x: x.swapaxes(0, 1),
    (0, -1, -1, 0): lambda x: np.rot90(x, 2).swapaxes(0, 1),
}


def test_no_picture_outlives_its_use(video):
    """PyAV can make reference cycles of pictures, which only a garbage collection frees."""

    def count() -> int:
        return sum(type(found) is av.VideoFrame for found in gc.get_objects())

    gc.collect()
    gc.disable()
    try:
        before = count()
        assert sum(1 for frame in open_source(video).frames() if frame.image.any()) > 10
        assert count() == before
    finally:
        gc.enable()


@pytest.mark.parametrize("matrix", TURNS)
def test_the_matrix_of_a_track_is_applied(video, matrix):
    stored = images(video)
    data = bytearray(video.read_bytes())
    a, b, c, d = (ONE * value for value in matrix)
    struct.pack_into(">9i", data, data.index(b"tkhd") + 44, a, b, 0, c, d, 0, 0, 0, 1 << 30)
    video.write_bytes(data)
    for got, plain in zip(images(video), stored, strict=True):
        np.testing.assert_array_equal(got, TURNS[matrix](plain))
        assert got.flags.c_contiguous


@pytest.mark.parametrize(
    ("how", "turn"),
    [
        ("flip=horizontal", np.fliplr),
        ("flip=vertical", np.flipud),
        ("rotate=90", np.rot90),
        ("flip=horizontal:rotate=90", lambda x: np.rot90(np.fliplr(x))),
    ],
)
def test_the_orientation_inside_an_h264_stream_is_applied(video, tmp_path, how, turn):
    stored = images(video)
    turned = tmp_path / "turned.mp4"
    with av.open(str(video)) as source, av.open(str(turned), "w") as target:
        stream = source.streams.video[0]
        copy = target.add_stream_from_template(stream)
        change = BitStreamFilterContext(f"h264_metadata=display_orientation=insert:{how}", stream)
        for packet in source.demux(stream):
            for changed in change.filter(packet if packet.size else None):
                changed.stream = copy
                target.mux(changed)
    for got, plain in zip(images(turned), stored, strict=True):
        np.testing.assert_array_equal(got, turn(plain))


def add_stream(container: av.container.OutputContainer, codec: str, size: tuple[int, int]):
    stream = container.add_stream(codec, rate=25)
    stream.height, stream.width = size
    stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
    return stream


@pytest.mark.parametrize("suffix", [".mov", ".mkv", ".mp4"])
def test_a_still_beside_a_video_is_not_the_video(tmp_path, suffix):
    with av.open(str(tmp_path / f"a{suffix}"), "w") as container:
        still = add_stream(container, "mjpeg", (240, 320))
        video = add_stream(container, "libx264", (64, 96))
        for stream, count in ((still, 1), (video, 12)):
            for image in pictures(count, stream.height, stream.width):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(image)))
            container.mux(stream.encode())
    assert [f.image.shape for f in read(tmp_path / f"a{suffix}")] == [(64, 96, 3)] * 12


@pytest.mark.parametrize("suffix", [".ts", ".mkv"])
def test_the_largest_of_equal_streams_is_read(tmp_path, suffix):
    with av.open(str(tmp_path / f"a{suffix}"), "w") as container:
        streams = [add_stream(container, "libx264", size) for size in ((32, 48), (64, 96))]
        for stream in streams:
            stream.disposition = 0
            for image in pictures(12, stream.height, stream.width):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(image)))
            container.mux(stream.encode())
    assert [f.image.shape for f in read(tmp_path / f"a{suffix}")] == [(64, 96, 3)] * 12


def test_pictures_of_an_absurd_size_are_refused_before_they_are_decoded(video, monkeypatch, caplog):
    monkeypatch.setattr(video_file, "MAX_PIXELS", 64 * 96 - 1)
    with pytest.raises(SourceError, match=r"its pictures of 96 x 64 px are larger than"):
        open_source(video)


# --- colours --------------------------------------------------------------------------------------

BARS = np.array([(r, g, b) for r in (40, 200) for g in (40, 200) for b in (40, 200)], float)
MATRICES = {1: (0.2126, 0.0722), 5: (0.299, 0.114), 7: (0.212, 0.087), 9: (0.2627, 0.0593)}


def bars(matrix: int, *, full: bool, width: int, height: int) -> av.VideoFrame:
    """Return colour bars as YCbCr by the formulas of the standards."""
    kr, kb = MATRICES.get(matrix, MATRICES[5])
    r, g, b = BARS.T
    y = kr * r + (1 - kr - kb) * g + kb * b
    u, v = (b - y) / (2 - 2 * kb), (r - y) / (2 - 2 * kr)
    luma, chroma, black = (1, 1, 0) if full else (219 / 255, 224 / 255, 16)
    frame = av.VideoFrame(width, height, "yuv420p")
    for plane, values in zip(
        frame.planes, (y * luma + black, u * chroma + 128, v * chroma + 128), strict=True
    ):
        line = np.zeros(plane.line_size, np.uint8)
        line[: plane.width] = values.round().repeat(plane.width // 8)
        plane.update(line.tobytes() * plane.height)
    frame.colorspace, frame.color_range = matrix, 2 if full else 1
    return frame


@pytest.mark.parametrize("size", [(1280, 720), (320, 240)])
@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("matrix", [1, 2, 5, 6, 7, 9])
def test_colours_are_those_of_the_stated_matrix(matrix, full, size):
    raw = bars(matrix, full=full, width=size[0], height=size[1])
    got = upright_rgb(raw, Orientation())[size[1] // 2, size[0] // 16 :: size[0] // 8]
    np.testing.assert_allclose(got, BARS, atol=3)
    # and by the arguments that PyAV before 17 needs
    old = raw.to_ndarray(format="rgb24", **picture._colours(raw))
    np.testing.assert_allclose(old[size[1] // 2, size[0] // 16 :: size[0] // 8], BARS, atol=3)
