from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import wave
from pathlib import Path

import cv2
import numpy as np
import pytest
from frames import read
from videos import pictures, write_video

from dvfl_runtime.errors import ArgumentError, DvflError, SourceError
from dvfl_runtime.sources import LiveOptions, LiveSource, Source, is_live, open_source
from dvfl_runtime.sources.recorded import file


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


@pytest.mark.parametrize("url", ["rtsp://cam/1", "RTSPS://cam:554/1", "rtsp://[::1]:8554/x"])
def test_addresses_of_streams_are_live_sources(url):
    source = open_source(url)
    assert isinstance(source, LiveSource)
    assert isinstance(source, Source)
    assert (source.name, source.live, source.duration_s) == (url, True, None)
    assert (source.rewindable, source.state) == (False, "connecting")
    source.close()


@pytest.mark.parametrize(
    "url", ["rtsp:", "rtsp://", "rtsp:///path", "rtsp://me:secret@/x", "rtsp://cam:99999/1"]
)
def test_incomplete_addresses(url):
    with pytest.raises(SourceError, match="not a complete address") as caught:
        open_source(url)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("url", ["rtmps://cam/1", "rtmp://cam/1", "udp://@:5000", "srt://cam:9"])
def test_other_network_sources_are_refused_by_name(url):
    with pytest.raises(SourceError, match="only rtsp:// and http:// are supported"):
        open_source(url)


@pytest.mark.parametrize("live", [{"stall_s": 0}, {"max_outage_s": -1}, {"longest_pause_s": 0.1}])
def test_options_of_live_sources_are_checked(live):
    with pytest.raises(ValueError, match=f"{next(iter(live))} must be"):
        LiveOptions(**live)


@pytest.mark.parametrize("source", ["foo://bar", "file:///a.mp4", ""])
def test_other_things_that_are_no_source(source):
    with pytest.raises(SourceError):
        open_source(source)


def test_an_address_of_a_file_is_a_path_without_its_scheme():
    with pytest.raises(SourceError, match=r"pass the path without file://$"):
        open_source("FILE:///a.mp4")


def test_white_space_around_an_address_is_left_out():
    for address in (" rtsp://cam/1", "rtsp://cam/1\n"):
        with contextlib.closing(open_source(address)) as source:
            assert source.name == "rtsp://cam/1"
        assert is_live(address)
    with pytest.raises(SourceError, match=r" a\.mp4 does not exist"):
        open_source(" a.mp4")


@pytest.mark.parametrize("source", [None, 2.5, True, {}, object()])
def test_what_frames_cannot_be_read_from_is_a_wrong_argument(source):
    words = f"cannot read frames from a value of type {type(source).__name__}; "
    with pytest.raises(ArgumentError, match=words):
        open_source(source)


@pytest.mark.parametrize("fps", [0, -1, float("nan"), float("inf")])
def test_fps_is_checked(fps):
    with pytest.raises(ValueError, match="fps must be"):
        open_source([], fps=fps)


@pytest.mark.parametrize(("module", "name"), [("av", "av"), ("cv2", "opencv-python-headless")])
def test_a_missing_library_is_named(tmp_path, monkeypatch, module, name):
    path = write_video(tmp_path / "a.mp4", pictures(2))
    images = tmp_path / "images"
    images.mkdir()
    cv2.imwrite(str(images / "a.png"), np.zeros((4, 4, 3), np.uint8))
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(
        DvflError, match=f"{module}, which is not installed; run: pip install {name}"
    ):
        read(path if module == "av" else images)


def test_import_needs_numpy_alone():
    code = (
        "import sys, dvfl_runtime.sources;"
        "print([m for m in ('av', 'cv2', 'torch', 'onnxruntime') if m in sys.modules])"
    )
    root = Path(__file__).resolve().parents[3]
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_a_file_converts_no_picture_that_nobody_asks_for(tmp_path, monkeypatch):
    made = []
    real = file.upright_rgb
    monkeypatch.setattr(file, "upright_rgb", lambda *raw: made.append(1) or real(*raw))
    video = write_video(tmp_path / "v.mp4", pictures(30))
    frames = list(open_source(video).frames())
    assert made == []
    assert frames[20].image.shape == (64, 96, 3)  # also when the file is closed
    assert made == [1]


def test_live_sources_are_known_by_their_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "1").touch()
    for name in (
        "0",
        "rtsp://h/x",
        "RTSPS://h/x",
        "csi://0",
        "gst:videotestsrc",
        "jetson:rtsp://h",
    ):
        assert is_live(name)
    for name in ("1", "a.mp4", "jetson:a.mp4", "rtsp.mp4", "-1", ""):
        assert not is_live(name)
