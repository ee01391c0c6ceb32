"""Bytes and binary file objects as sources."""

from __future__ import annotations

import io
import os

import pytest
from artifacts import coloured, write_colour_model
from frames import warnings_of
from videos import pictures, write_video

from dvfl_runtime import Recognizer
from dvfl_runtime.errors import SourceError
from dvfl_runtime.sources import open_source


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    path = tmp_path_factory.mktemp("media") / "a.mp4"
    return write_video(path, coloured(("red", 50)), pix_fmt="yuv444p")


class Object:
    """A file object of the caller's own, with the least that is needed."""

    def __init__(self, data):
        self._file = io.BytesIO(data)
        self.seek, self.tell = self._file.seek, self._file.tell

    def read(self, size):
        return self._file.read(size)


@pytest.mark.parametrize("make", [bytes, bytearray, memoryview, io.BytesIO, Object])
def test_bytes_and_objects_are_read_as_files(video, make):
    made = make(video.read_bytes())
    source = open_source(made)
    assert (source.name, source.live, source.rewindable) == ("video", False, True)
    for _ in range(2):
        assert len(list(source.frames())) == 50


def test_the_api_reads_an_open_file_and_leaves_it_open(video, tmp_path):
    model = write_colour_model(tmp_path / "m.onnx")
    with Recognizer(model, engine="onnxruntime") as recognizer, video.open("rb") as file:
        file.seek(100)
        assert recognizer.classify(file).source == str(video)
        assert [p.label for p in recognizer.stream(file, hop_s=1)] == ["red", "red"]
        assert [s.label for s in recognizer.segments(file)] == ["red"]
        assert not file.closed
        assert recognizer.classify(video.read_bytes()).source == "video"


class Greedy(Object):
    def read(self, size):
        return bytes(size + 1)


def test_objects_that_cannot_be_read_are_one_clear_line(video):
    data = video.read_bytes()
    closed = io.BytesIO(data)
    closed.close()
    reader, writer = os.pipe()
    with open(writer, "wb"), open(reader, "rb") as pipe, video.open(encoding="latin-1") as text:
        for made, words in (
            (closed, "the file object video is closed; open it again"),
            (text, r"a\.mp4 is open as text; open it with 'rb'"),
            (pipe, r"cannot be read from its beginning again; pass the bytes, file\.read\(\)"),
            (
                Greedy(data),
                r"cannot open the bytes as a video: its read\([0-9]+\) has to return at most",
            ),
            (b"", "cannot open the bytes as a video"),
            (b"no video", "cannot open the bytes as a video"),
        ):
            with pytest.raises(SourceError, match=words):
                open_source(made)


class Failing(Object):
    left = 1 << 30

    def read(self, size):
        data = super().read(min(size, self.left, 500))
        self.left -= len(data)
        if not self.left:
            raise OSError(5, "the disk is gone")
        return data


def test_an_object_that_fails_in_the_middle_costs_the_rest_alone(tmp_path, caplog):
    data = write_video(tmp_path / "a.mp4", pictures(60)).read_bytes()
    failing = Failing(data)
    source = open_source(failing)
    failing.left = len(data) * 3 // 4
    assert 0 < len(list(source.frames())) < 60
    (message,) = warnings_of(caplog)
    assert "the disk is gone" in message
