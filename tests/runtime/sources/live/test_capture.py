"""Cameras and pipelines: OpenCV is real and reads files, for there is no camera here."""

from __future__ import annotations

import contextlib
import json
import os
import stat
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from system_python import run_system_python, system_python_can
from videos import pictures, shared_clip, write_video

from dvfl_runtime.errors import DvflError, SourceError
from dvfl_runtime.sources import Grabber, LiveSource, is_live, open_source
from dvfl_runtime.sources.live import capture
from dvfl_runtime.sources.live.capture import CaptureGrabber, check_device

LINUX = pytest.mark.skipif(not Path("/dev").is_dir(), reason="needs /dev")
NO_GSTREAMER = pytest.mark.skipif(
    cv2.videoio_registry.hasBackend(cv2.CAP_GSTREAMER), reason="this OpenCV has GStreamer"
)


def grabber_of(path: Path) -> Grabber:
    hint = "is another program using it?"
    return CaptureGrabber("camera 0", hint, lambda: cv2.VideoCapture(str(path), cv2.CAP_FFMPEG))


def test_pictures_are_rgb_with_opencvs_stamps(tmp_path):
    path = write_video(tmp_path / "a.mp4", pictures(20))
    grabber = grabber_of(path)
    grabber.open()
    grabbed = [grabber.read() for _ in range(20)]
    assert grabber.read() is None  # a file has a length, so this is its end
    grabber.close()
    grabber.close()
    stamps = [g.stamp_s for g in grabbed]
    assert stamps[0] is None  # OpenCV's 0 may mean both the start and "I do not know"
    np.testing.assert_allclose(stamps[1:], np.arange(1, 20) / 25, atol=1e-3)
    want = next(open_source(path).frames()).image
    got = grabbed[0].image()
    assert np.abs(got.astype(int) - want).mean() < 2
    red = write_video(tmp_path / "red.mp4", [np.full((64, 64, 3), (200, 0, 0), np.uint8)] * 2)
    grabber = grabber_of(red)
    grabber.open()
    assert grabber.read().image()[32, 32].tolist() == pytest.approx([200, 0, 0], abs=8)
    grabber.close()


@pytest.mark.parametrize("name", ["mm_ntu.avi", "ucf_ApplyEyeMakeup.avi", "mm_demo.mp4"])
def test_opencvs_stamps_of_real_clips_become_increasing_times(name):
    source = LiveSource(name, grabber_of(shared_clip(name)))
    with contextlib.closing(source):
        times = [frame.time_s for frame in source.frames()]
    assert (np.diff(times) > 0).all()


def test_a_device_that_does_not_open_is_tried_again(tmp_path):
    grabber = grabber_of(tmp_path / "nothing.mp4")
    with pytest.raises(ConnectionError, match=r"camera 0 cannot be opened; is another program"):
        grabber.open()
    grabber.close()


@pytest.mark.parametrize("path", ["/dev/video7", "/dev/v4l/by-id/usb-Acme_Cam_1-video-index0"])
def test_a_camera_is_opened_by_its_path(path, monkeypatch, tmp_path):
    video = write_video(tmp_path / "a.mp4", pictures(5))
    asked = []
    monkeypatch.setattr(capture, "check_device", lambda device: asked.append(str(device)))
    real = cv2.VideoCapture
    monkeypatch.setattr(cv2, "VideoCapture", lambda *how: asked.append(how) or real(str(video)))
    assert is_live(path)
    with contextlib.closing(open_source(Path(path))) as source:
        assert (source.name, source.live) == (path, True)
        assert list(source.frames())
    assert asked == [path, path, (path, cv2.CAP_V4L2)]


@LINUX
def test_paths_of_cameras_that_are_none(tmp_path):
    with pytest.raises(SourceError, match=r"there is no camera /dev/video97"):
        open_source("/dev/video97")
    with pytest.raises(SourceError, match=r"no camera /dev/v4l/by-id/gone"):
        open_source("/dev/v4l/by-id/gone")
    with pytest.raises(SourceError, match="/dev/null is not a file or a folder"):
        open_source("/dev/null")
    assert not is_live("/dev/null")
    link = tmp_path / "front door"
    try:
        os.mknod(tmp_path / "device", 0o600 | stat.S_IFCHR, os.makedev(81, 250))
    except PermissionError:
        pytest.skip("needs the right to make devices")
    link.symlink_to(tmp_path / "device")
    assert is_live(str(link))


@LINUX
@pytest.mark.parametrize("camera", [97, "97", np.int64(97)])
def test_a_camera_that_is_not_there_is_an_error_at_once(camera):
    with pytest.raises(SourceError, match=r"there is no camera /dev/video97"):
        open_source(camera)


def test_errors_of_devices(tmp_path, monkeypatch):
    (tmp_path / "video2").touch()
    check_device(tmp_path / "video2")
    with pytest.raises(SourceError, match=r"no camera .*video0; there are .*video2"):
        check_device(tmp_path / "video0")
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(SourceError, match=r"no permission to use .*video2; add the user"):
        check_device(tmp_path / "video2")


@pytest.mark.parametrize("camera", [-1, np.int32(-2)])
def test_negative_indices(camera):
    with pytest.raises(SourceError, match="index must be >= 0"):
        open_source(camera)


def test_a_name_of_digits_may_be_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_video(tmp_path / "7.mp4", pictures(3)).rename("7")
    assert open_source("7").live is False


def test_a_camera_is_a_live_source(monkeypatch, tmp_path):
    path = write_video(tmp_path / "a.mp4", pictures(5))
    monkeypatch.setattr(capture, "check_device", lambda device: None)
    real = cv2.VideoCapture
    monkeypatch.setattr(cv2, "VideoCapture", lambda index, *_: real(str(path)))
    with contextlib.closing(open_source("3")) as source:
        assert isinstance(source, LiveSource)
        assert source.name == "camera 3"
        frames = list(source.frames())
    assert sum(f.dropped for f in frames) + len(frames) == 5


@NO_GSTREAMER
@pytest.mark.parametrize("source", ["gst:videotestsrc", "csi://0?width=640&height=480&fps=30"])
def test_an_opencv_without_gstreamer_says_what_is_missing(source):
    with pytest.raises(SourceError, match=r"OpenCV .* has no GStreamer.*use the system's"):
        open_source(source)


def test_an_empty_pipeline():
    with pytest.raises(SourceError, match="the pipeline is empty"):
        open_source("gst: ")


@pytest.mark.parametrize(
    ("module", "source", "words"),
    [
        ("cv2", "gst:videotestsrc", "reading cameras needs cv2"),
        ("av", "rtsp://cam/1", "reading streams needs av"),
    ],
)
def test_a_missing_library_is_named(monkeypatch, module, source, words):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(DvflError, match=f"{words}, which is not installed; run: pip install "):
        open_source(source)


HAS_GSTREAMER = "import cv2; assert cv2.videoio_registry.hasBackend(cv2.CAP_GSTREAMER)"
READ_PIPELINE = """
import itertools, json
from dvfl_runtime.sources import open_source

pipeline = "videotestsrc is-live=true ! video/x-raw,width=320,height=240,framerate=30/1"
source = open_source("gst:" + pipeline)
frames = list(itertools.islice(source.frames(), 20))
source.close()
print(json.dumps({
    "times": [f.time_s for f in frames], "dropped": [f.dropped for f in frames],
    "pixel": frames[9].image[20, 70].tolist(), "shape": frames[9].image.shape,
    "repaired": source.stats.repaired_timestamps, "state": source.state,
}))
"""


def test_a_pipeline_in_an_opencv_that_has_gstreamer():
    """By the system's Python, for no OpenCV from pip has GStreamer."""
    if not system_python_can(HAS_GSTREAMER):
        pytest.skip("needs Debian's python3-opencv")
    done = run_system_python(READ_PIPELINE)
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert seen["shape"] == [240, 320, 3]
    assert seen["pixel"] == pytest.approx([255, 255, 0], abs=4)  # the second bar is yellow
    steps = np.diff(seen["times"]) / (1 + np.array(seen["dropped"][1:]))
    np.testing.assert_allclose(steps, 1 / 30, rtol=0.02)
    assert (seen["repaired"], seen["state"]) == (0, "ended")
