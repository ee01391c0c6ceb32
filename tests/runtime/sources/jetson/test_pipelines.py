"""Pipelines of a Jetson as strings, and their readers with the hardware left out."""

from __future__ import annotations

import itertools
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest
from frames import assert_in_order, warnings_of
from hypothesis import given
from hypothesis import strategies as st
from streams import RtspServer, encode
from system_python import run_system_python, system_python_can
from videos import pictures, shared_clip, write_video

from dvfl_runtime.errors import SourceError
from dvfl_runtime.errors.addresses import shown
from dvfl_runtime.sources import open_source
from dvfl_runtime.sources.jetson import decoder as jetson
from dvfl_runtime.sources.jetson.decoder import times_shown
from dvfl_runtime.sources.jetson.pipelines import (
    CsiCamera,
    file_pipeline,
    is_jetson,
    quoted,
    rtsp_pipeline,
)


def test_csi_cameras():
    assert CsiCamera.parse("csi://1?width=1920&height=1080&fps=29.97&flip=2").pipeline() == (
        "nvarguscamerasrc sensor-id=1 ! "
        "video/x-raw(memory:NVMM),width=1920,height=1080,framerate=2997/100 ! "
        "nvvidconv flip-method=2 ! video/x-raw,format=BGRx ! videoconvert ! "
        "video/x-raw,format=BGR ! appsink drop=true max-buffers=1 sync=false"
    )
    assert CsiCamera.parse("csi://0") == CsiCamera()
    assert "framerate=30/1" in CsiCamera().pipeline()


@given(
    st.integers(0, 9), st.integers(1, 8000), st.integers(1, 8000), st.integers(1, 240),
    st.integers(0, 7),
)  # fmt: skip
def test_csi_addresses_say_what_the_camera_is(sensor, width, height, fps, flip):
    url = f"csi://{sensor}?fps={fps}&flip={flip}&height={height}&width={width}"
    assert CsiCamera.parse(url) == CsiCamera(sensor, width, height, float(fps), flip)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("csi://", "not a number"),
        ("csi://front", "not a number"),
        ("csi://me:secret@0", "not a number"),
        ("csi://[0]", "cannot read"),
        ("csi://0?width=big", "width must be a whole number >= 1, got 'big'"),
        ("csi://0?fps=fast", "fps must be a finite number > 0, got 'fast'"),
        ("csi://0?width=0", "width must be a whole number >= 1"),
        ("csi://0?fps=nan", "fps must be"),
        ("csi://0?flip=8", "flip must be a whole number from 0 to 7"),
        ("csi://-1", "sensor must be"),
        ("csi://0?bitrate=1", "each may be given once"),
        ("csi://0?sensor=1", "each may be given once"),
        ("csi://0?width=1&width=2", "each may be given once"),
        ("csi://0?fps=1&fps=2", "each may be given once"),
        ("csi://0?width", "cannot read"),
        ("csi://0/live", "may follow the number"),
    ],
)
def test_bad_csi_addresses_are_one_clear_line(url, words):
    with pytest.raises(SourceError, match=words) as caught:
        open_source(url)
    assert shown(url) in str(caught.value)
    assert "secret" not in str(caught.value)
    assert "csi://0?width=1280&height=720&fps=30" in str(caught.value)


def test_files_are_decoded_by_hardware():
    mp4, mkv = "mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm"
    assert file_pipeline(Path("/v/my clip.mp4"), mp4, "h264") == (
        'filesrc location="/v/my clip.mp4" ! qtdemux ! h264parse ! nvv4l2decoder ! nvvidconv ! '
        "video/x-raw,format=BGRx ! videoconvert ! video/x-raw,format=BGR ! "
        "appsink drop=false max-buffers=4 sync=false"
    )
    other = file_pipeline(Path("a.mkv"), mkv, "hevc")
    assert other is not None
    assert "matroskademux ! h265parse ! nvv4l2decoder" in other
    assert file_pipeline(Path("a.mp4"), mp4, "av1") is None
    assert file_pipeline(Path("a.avi"), "avi", "h264") is None


def test_streams_are_decoded_by_hardware():
    assert rtsp_pipeline("rtsp://me:pw@cam:8554/x?a=1&b=2", "h264") == (
        'rtspsrc location="rtsp://me:pw@cam:8554/x?a=1&b=2" protocols=tcp latency=100 ! '
        "rtph264depay ! h264parse ! nvv4l2decoder ! nvvidconv ! video/x-raw,format=BGRx ! "
        "videoconvert ! video/x-raw,format=BGR ! appsink drop=true max-buffers=1 sync=false"
    )
    assert "rtph265depay ! h265parse" in str(rtsp_pipeline("rtsp://cam", "hevc", "udp"))
    assert rtsp_pipeline("rtsp://cam", "mjpeg") is None


def test_a_path_cannot_add_elements_to_the_pipeline():
    assert quoted('a" ! filesink location="b\\') == '"a\\" ! filesink location=\\"b\\\\"'


def test_a_jetson_is_known_by_its_release_file_or_its_device_tree(tmp_path):
    assert not is_jetson(tmp_path)
    tree = tmp_path / "proc/device-tree"
    tree.mkdir(parents=True)
    (tree / "compatible").write_bytes(b"raspberrypi,5-model-b\0brcm,bcm2712\0")
    assert not is_jetson(tmp_path)
    (tree / "compatible").write_bytes(b"nvidia,p3768-0000+p3767-0005\0nvidia,tegra234\0")
    assert is_jetson(tmp_path)
    (tree / "compatible").unlink()
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/nv_tegra_release").write_text("# R36 (release)")
    assert is_jetson(tmp_path)


@pytest.mark.parametrize("source", ["jetson:rtsp://cam/1", "jetson:a.mp4"])
def test_hardware_decoding_is_for_a_jetson(source, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_video(tmp_path / "a.mp4", pictures(3))
    with pytest.raises(SourceError, match="needs an NVIDIA Jetson; pass the source without jet"):
        open_source(source)


@pytest.fixture
def software(monkeypatch):
    """Decode the file of the pipeline by OpenCV's FFmpeg instead of the hardware."""

    def opened(pipeline: str) -> cv2.VideoCapture:
        path = pipeline.split('location="')[1].split('"', maxsplit=1)[0]
        capture = cv2.VideoCapture(path, cv2.CAP_FFMPEG)
        capture.set(cv2.CAP_PROP_ORIENTATION_AUTO, 0)  # as GStreamer: the file's own rows
        return capture

    monkeypatch.setattr(jetson, "check_jetson", lambda: None)
    monkeypatch.setattr(jetson, "open_pipeline", opened)


@pytest.mark.parametrize("name", ["mm_demo.mp4", "dec_video_90.mov", "dec_pancake.mkv"])
def test_files_read_by_a_pipeline_are_those_that_pyav_reads(software, name, caplog):
    path = shared_clip(name)
    source = open_source(f"jetson:{path}")
    both = zip(source.frames(), open_source(path).frames(), strict=True)
    for frame, want in itertools.islice(both, 120):
        assert frame.index == want.index
        assert frame.time_s == pytest.approx(want.time_s, abs=2e-3)
        assert frame.image.shape == want.image.shape
        if frame.index % 50 == 0:
            small, wanted = (cv2.resize(i.image, (32, 18)).astype(int) for i in (frame, want))
            assert np.abs(small - wanted).mean() < 4
    assert not source.live
    assert warnings_of(caplog) == []


def test_hardware_reads_the_first_video_of_a_file(software):
    path = shared_clip("tc_nasa_13013.mp4")  # its second one is larger
    with pytest.raises(SourceError, match=r"another one is shown; pass the path without jetson:"):
        open_source(f"jetson:{path}")


def test_times_come_from_the_file_without_decoding(tmp_path):
    ticks = np.cumsum([0, 40, 40, 200, 33, 7, *[40] * 40]).tolist()
    options = {"bf": "3"}  # frames are stored in another order than they are shown
    path = write_video(
        tmp_path / "a.mp4",
        pictures(len(ticks)),
        ticks=ticks,
        time_base=Fraction(1, 1000),
        options=options,
    )
    assert list(times_shown(path)) == pytest.approx([t / 1000 for t in ticks], abs=1e-3)


def test_a_file_that_ends_too_early_gives_a_warning(software, tmp_path, caplog):
    path = write_video(tmp_path / "a.mp4", pictures(90))
    source = open_source(f"jetson:{path}")
    path.write_bytes(write_video(tmp_path / "b.mp4", pictures(30)).read_bytes())
    frames = list(source.frames())
    assert len(frames) == 30
    assert_in_order(frames)
    (message,) = warnings_of(caplog)
    assert "ended after 1.2 s of 3.6 s" in message


def test_what_the_hardware_cannot_decode_is_refused(software, tmp_path):
    with pytest.raises(SourceError, match=r"h264 or hevc in MP4, .* is mpeg4 in avi; pass the pa"):
        open_source(f"jetson:{write_video(tmp_path / 'a.avi', pictures(3), codec='mpeg4')}")


def test_a_pipeline_that_gives_nothing_is_an_error(software, tmp_path):
    path = write_video(tmp_path / "a.mp4", pictures(3))
    source = open_source(f"jetson:{path}")
    path.write_bytes(b"")
    with pytest.raises(SourceError, match=r"gives no frame of .*a\.mp4 .*nvv4l2decoder"):
        list(source.frames())
    source.close()
    with pytest.raises(SourceError, match="is closed"):
        next(source.frames())


HARDWARE, SOFTWARE = "nvv4l2decoder ! nvvidconv", "openh264dec ! videoconvert"
ELEMENTS = "h264parse", "openh264dec", "qtdemux", "rtspsrc", "rtph264depay"
CAN_DECODE = f"""
import cv2, gi
gi.require_version("Gst", "1.0")
from gi.repository import Gst
Gst.init(None)
assert cv2.videoio_registry.hasBackend(cv2.CAP_GSTREAMER)
assert all(Gst.ElementFactory.find(name) for name in {ELEMENTS})
"""
COUNT = """
import sys
from dvfl_runtime.sources.live.capture import open_pipeline
capture = open_pipeline(sys.argv[1])
count = 0
while count < int(sys.argv[2]) and capture.read()[0]:
    count += 1
print(count)
"""


def count_in_software(pipeline: str, at_most: int) -> int:
    """Return how many frames a pipeline gives with a software decoder in it."""
    done = run_system_python(COUNT, pipeline.replace(HARDWARE, SOFTWARE), str(at_most))
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


def test_pipelines_run_with_a_decoder_of_the_processor(tmp_path):
    if not system_python_can(CAN_DECODE):
        pytest.skip("needs Debian's python3-opencv and gstreamer1.0-plugins-bad")
    options = {"profile": "baseline", "bf": "0"}  # all that this decoder reads
    path = write_video(tmp_path / 'a "b" ! c.mp4', pictures(40), options=options)
    pipeline = file_pipeline(path, "mov,mp4,m4a,3gp,3g2,mj2", "h264")
    assert pipeline is not None
    assert HARDWARE in pipeline
    assert count_in_software(pipeline, 100) == 40
    server = RtspServer(tmp_path, encode(tmp_path / "stream", range(50), 96, 160))
    try:
        pipeline = rtsp_pipeline(server.url, "h264")
        assert pipeline is not None
        assert count_in_software(pipeline, 20) == 20
    finally:
        server.kill()
