"""open_source: finds the source that reads what the caller names or passes."""

from __future__ import annotations

import io
import os
import re
import stat
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from dvfl_runtime.errors import ArgumentError, SourceError
from dvfl_runtime.errors.addresses import shown
from dvfl_runtime.errors.checks import check_number, check_type
from dvfl_runtime.sources.decoding.stills import is_still
from dvfl_runtime.sources.folders import is_image, is_video
from dvfl_runtime.sources.frame import Frame, Source
from dvfl_runtime.sources.jetson.decoder import JetsonFileSource, jetson_rtsp_grabber
from dvfl_runtime.sources.jetson.pipelines import CsiCamera
from dvfl_runtime.sources.live.capture import camera_grabber, is_camera, pipeline_grabber
from dvfl_runtime.sources.live.grabber import Grabber
from dvfl_runtime.sources.live.mjpeg import MjpegGrabber, is_mjpeg
from dvfl_runtime.sources.live.reconnect import LiveOptions
from dvfl_runtime.sources.live.rtsp import RtspGrabber
from dvfl_runtime.sources.live.source import LiveSource, SourceState
from dvfl_runtime.sources.recorded.file import FileSource
from dvfl_runtime.sources.recorded.images import ImagesSource
from dvfl_runtime.sources.recorded.media import FileObject, Readable, media_name
from dvfl_runtime.sources.recorded.memory import MemorySource
from dvfl_runtime.sources.recorded.video_file import DEFAULT_FPS
from dvfl_runtime.sources.recorded.web_video import WebVideo
from dvfl_runtime.sources.web import path_of, request

SourceLike: TypeAlias = (
    int
    | str
    | os.PathLike[str]
    | bytes
    | Readable
    | NDArray[Any]
    | Iterable[NDArray[Any] | Frame]
    | Source
)

# Beginning of an address, in small letters -> what reads it
LIVE_ADDRESSES: dict[str, Callable[[str], Grabber]] = {
    "rtsp:": RtspGrabber,
    "rtsps:": RtspGrabber,
    "csi:": lambda address: pipeline_grabber(CsiCamera.parse(address).pipeline()),
    "gst:": lambda address: pipeline_grabber(address[len("gst:") :]),
    "jetson:rtsp:": lambda address: jetson_rtsp_grabber(address[len("jetson:") :]),
    "jetson:rtsps:": lambda address: jetson_rtsp_grabber(address[len("jetson:") :]),
}
HTTP = ("http:", "https:")
BYTES = (bytes, bytearray, memoryview)
_UNSUPPORTED = re.compile(r"(rtmps?|udp|tcp|srt|mms)(://|:(?=[^/]))", re.I)
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]+://", re.I)  # two letters or more: C:// is a drive
_NAMES = (
    "a video file, a folder of images, a camera's number or device, rtsp://, http://, csi:// or "
    "gst:PIPELINE"
)


def open_source(
    source: SourceLike,
    *,
    fps: float | None = None,
    live: LiveOptions | None = None,
    on_state: Callable[[SourceState], None] | None = None,
) -> Source:
    """Open anything that frames can be read from; a `Source` is returned as it is.

    Live sources are cameras, `rtsp://`, `csi://` and `gst:`. They connect when `frames()` is
    called, but what can be known before, such as a missing camera, is an error at once. A server at
    http:// is asked at once: a series of pictures makes a live source, anything else is a file. If
    the server cannot be reached, a file is an error; a camera is tried again later.

    Args:
        source: one of
            a path of a video file or of a folder of images;
            a camera's index, as a number or as text where no file has that name, or the path of its
            device, such as /dev/video0 or one in /dev/v4l/by-id;
            rtsp://HOST/PATH or rtsps://, with NAME:PASSWORD@ before the host if needed;
            http://HOST/PATH or https://, likewise: a camera that sends MJPEG, or a video file;
            csi://0?width=1280&height=720&fps=30&flip=0, a camera of a Jetson;
            gst:PIPELINE, GStreamer by OpenCV;
            jetson:PATH or jetson:rtsp://..., decoded by a Jetson's hardware;
            an (N, H, W, 3) uint8 RGB array, or an iterable of (H, W, 3) uint8 RGB arrays or Frames;
            bytes or a binary file object that hold a video file;
            a `Source`.
        fps: frames per second of sources without timestamps: folders, arrays and iterables of
            arrays (25 by default), and files of bare video, such as .h264 (by default the rate in
            their headers).
        live: time limits of a live source.
        on_state: called with each new state of a live source, from any thread.

    Raises:
        SourceError: if it does not exist, cannot be opened, or its address is not supported.
        ClipError: if an array has another type, rank or number of channels.
        ArgumentError: if frames cannot be read from its type, or another argument is wrong.
    """
    if fps is not None:
        check_number("fps", fps, above=0)
    if live is not None:
        check_type("live", live, LiveOptions, "LiveOptions")
    if isinstance(source, Source):
        return source
    if isinstance(source, str) and source.isdecimal() and is_live(source):
        source = int(source)
    found: Source | Grabber
    if isinstance(source, (int, np.integer)) and not isinstance(source, bool):
        name, found = f"camera {source}", camera_grabber(int(source))
    elif isinstance(source, (str, os.PathLike)):
        name = _stripped(os.fsdecode(source))
        found = _open_name(name, fps)
    else:
        return _open_object(source, fps)
    if isinstance(found, Source):
        return found
    return LiveSource(name, found, options=live, on_state=on_state)


def is_live(name: str) -> bool:
    """Return whether this is the name of a live source, without opening it."""
    name = _stripped(name)
    if _begins_with(name, HTTP):  # a guess: the server is not asked
        path = Path(path_of(name))
        return not is_video(path) and not is_image(path)
    if name.isdecimal():
        return not os.path.lexists(name)
    return _begins_with(name, LIVE_ADDRESSES) or is_camera(name)


def display_name(source: SourceLike) -> str:
    """Return the name of a source in messages; it need not be open."""
    if isinstance(source, Source):
        return source.name
    if isinstance(source, (str, int, os.PathLike)):
        return shown(f"camera {source}" if isinstance(source, int) else os.fsdecode(source))
    return media_name(source) if isinstance(source, (*BYTES, Readable)) else "frames"


def _stripped(text: str) -> str:
    """Return an address without white space around it; file names keep theirs."""
    address = text.strip()
    is_address = _begins_with(address, [*HTTP, *LIVE_ADDRESSES]) or _SCHEME.match(address)
    return address if is_address else text


def _begins_with(text: str, beginnings: Iterable[str]) -> bool:
    return text.lower().startswith(tuple(beginnings))


def _open_name(name: str, fps: float | None) -> Source | Grabber:
    if _begins_with(name, HTTP):
        return _open_http(name, fps)
    for beginning, grabber_of in LIVE_ADDRESSES.items():
        if _begins_with(name, [beginning]):
            return grabber_of(name)
    return camera_grabber(name) if is_camera(name) else _open_path(name, fps)


def _open_http(url: str, fps: float | None) -> Source | Grabber:
    """Ask the server what it sends."""
    try:
        with request(url) as answer:
            is_camera = is_mjpeg(answer)
    except OSError as err:
        if is_video(Path(path_of(url))):
            raise SourceError(f"cannot open {shown(url)}: {err}; check the address") from err
        is_camera = True  # switched off, perhaps
    return MjpegGrabber(url) if is_camera else FileSource(WebVideo(url), fps)


def _open_object(source: object, fps: float | None) -> Source:
    if isinstance(source, BYTES):
        source = io.BytesIO(source)
    if isinstance(source, Readable):
        return FileSource(FileObject(source), fps)
    if isinstance(source, Iterable) and not isinstance(source, dict):
        return MemorySource(source, fps or DEFAULT_FPS)
    raise ArgumentError(
        f"cannot read frames from a value of type {type(source).__name__}; pass {_NAMES}, bytes, "
        "a binary file object, an array or an iterable of frames"
    )


def _address_problem(text: str) -> str:
    """Return why an address cannot be opened; "" for a path."""
    if _UNSUPPORTED.match(text):
        return f"of addresses only rtsp:// and http:// are supported; pass {_NAMES}"
    if _begins_with(text, ["file://"]):
        return "pass the path without file://"
    scheme = _SCHEME.match(text)
    return f"unknown scheme {scheme[0]}; pass {_NAMES}" if scheme else ""


def _open_path(text: str, fps: float | None) -> Source:
    name = shown(text)
    if problem := _address_problem(text):
        raise SourceError(f"cannot open {name}: {problem}")
    if not text.strip():
        raise SourceError(f"the source is an empty text; pass {_NAMES}")
    path = Path(text.removeprefix("jetson:"))
    try:
        about = path.stat()
    except (FileNotFoundError, NotADirectoryError) as err:
        raise SourceError(f"{name} does not exist; check the path") from err
    except (OSError, ValueError) as err:
        reason = getattr(err, "strerror", None) or err
        raise SourceError(f"cannot open {name}: {reason}; check the path") from err
    if stat.S_ISDIR(about.st_mode):
        return ImagesSource(path, fps or DEFAULT_FPS)
    if not stat.S_ISREG(about.st_mode):
        raise SourceError(f"{name} is not a file or a folder; pass {_NAMES}")
    if about.st_size == 0:
        raise SourceError(f"{name} is empty (0 bytes); record or copy it again")
    if text.startswith("jetson:"):
        return JetsonFileSource(path)
    return ImagesSource(path, fps or DEFAULT_FPS) if is_still(path) else FileSource(path, fps)
