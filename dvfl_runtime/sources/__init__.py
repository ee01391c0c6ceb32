"""Where frames come from: files, folders of images, arrays, iterables, cameras and streams.

>>> with contextlib.closing(open_source("video.mp4")) as source:
...     for frame in source.frames():
...         frame.image, frame.time_s
"""

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
from dvfl_runtime.sources.folders import is_image, is_video
from dvfl_runtime.sources.frame import Frame, Image, Source
from dvfl_runtime.sources.jetson.decoder import JetsonFileSource, jetson_rtsp
from dvfl_runtime.sources.jetson.pipelines import CsiCamera
from dvfl_runtime.sources.live.capture import camera, is_camera, pipeline
from dvfl_runtime.sources.live.grabber import Grabbed, Grabber
from dvfl_runtime.sources.live.http import WebVideo, camera_or_file, path_of
from dvfl_runtime.sources.live.reconnect import LiveOptions
from dvfl_runtime.sources.live.rtsp import RtspGrabber
from dvfl_runtime.sources.live.source import LiveSource, SourceState, SourceStats
from dvfl_runtime.sources.recorded.file import FileSource
from dvfl_runtime.sources.recorded.images import ImagesSource
from dvfl_runtime.sources.recorded.media import FileObject, Readable, is_media, media_name
from dvfl_runtime.sources.recorded.memory import MemorySource
from dvfl_runtime.sources.recorded.stills import is_still
from dvfl_runtime.sources.recorded.video_file import DEFAULT_FPS

__all__ = [
    "Frame",
    "Grabbed",
    "Grabber",
    "Image",
    "LiveOptions",
    "LiveSource",
    "RtspGrabber",
    "Source",
    "SourceLike",
    "SourceState",
    "SourceStats",
    "display_name",
    "is_live",
    "open_source",
]

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

_NAMES = (
    "a video file, a folder of images, a camera's number or device, rtsp://, http://, csi:// or "
    "gst:PIPELINE"
)
_NETWORK = re.compile(r"(rtmps?|udp|tcp|srt|mms)(://|:(?=[^/]))", re.I)
_HTTP = re.compile(r"https?:", re.I)
_LIVE = re.compile(r"(rtsps?|csi|gst|jetson:rtsps?):", re.I)
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]+://", re.I)  # two letters or more: C:// is a drive


def open_source(
    source: SourceLike,
    *,
    fps: float | None = None,
    live: LiveOptions | None = None,
    on_state: Callable[[SourceState], None] | None = None,
) -> Source:
    """Opens whatever frames can be read from; a `Source` is returned as it is.

    Live sources are cameras, `rtsp://`, `csi://` and `gst:`. They connect when `frames()` is
    called; what can be known before, such as a camera that is not there, is an error at once. A
    server at http:// is asked at once: pictures one after another make a live source, all else is a
    file. A camera may be away, and comes later; a file may not.

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
            bytes or a binary file object, which holds a video file;
            a `Source`.
        fps: frames per second of what has no timestamps: folders, arrays and iterables of arrays
            (25 by default), and files of bare video, such as .h264 (what their headers tell).
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
    if isinstance(source, (int, np.integer)) and not isinstance(source, bool):
        return LiveSource(f"camera {source}", camera(int(source)), options=live, on_state=on_state)
    if not isinstance(source, (str, os.PathLike)):
        return _open_object(source, fps)
    text = _stripped(os.fsdecode(source))
    found = camera_or_file(text) if _HTTP.match(text) else _live_grabber(text)
    if isinstance(found, WebVideo):
        return FileSource(found, fps)
    if found is not None:
        return LiveSource(text, found, options=live, on_state=on_state)
    return _open_path(text, fps)


def is_live(name: str) -> bool:
    """Says whether what is called so is a live source, without opening it."""
    name = _stripped(name)
    if _HTTP.match(name):  # a server may say something else when it is asked
        return not is_video(Path(path_of(name))) and not is_image(Path(path_of(name)))
    if name.isdecimal():
        return not os.path.lexists(name)
    return bool(_LIVE.match(name)) or is_camera(name)


def display_name(source: SourceLike) -> str:
    """Return the name by which people are told of a source, which need not be open."""
    if isinstance(source, Source):
        return source.name
    if isinstance(source, (str, int, os.PathLike)):
        return shown(f"camera {source}" if isinstance(source, int) else os.fsdecode(source))
    return media_name(source) if is_media(source) else "frames"


def _stripped(text: str) -> str:
    """Returns an address without white space around it; names of files keep theirs."""
    address = text.strip()
    return address if any(kind.match(address) for kind in (_HTTP, _LIVE, _SCHEME)) else text


def _live_grabber(text: str) -> Grabber | None:
    """Returns what reads this live source, or `None` if it is none."""
    scheme, colon, rest = text.partition(":")
    scheme = scheme.lower() if colon else ""
    if scheme in ("rtsp", "rtsps"):
        return RtspGrabber(text)
    if scheme == "csi":
        return pipeline(CsiCamera.parse(text).pipeline())
    if scheme == "gst":
        return pipeline(rest)
    if is_camera(text):
        return camera(text)
    if scheme == "jetson" and rest.lower().startswith(("rtsp:", "rtsps:")):
        return jetson_rtsp(rest)
    return None


def _open_object(source: object, fps: float | None) -> Source:
    if isinstance(source, (bytes, bytearray, memoryview)):
        source = io.BytesIO(source)
    if isinstance(source, Readable):
        return FileSource(FileObject(source), fps)
    if isinstance(source, Iterable) and not isinstance(source, dict):
        return MemorySource(source, fps or DEFAULT_FPS)
    raise ArgumentError(
        f"cannot read frames from a value of type {type(source).__name__}; pass {_NAMES}, bytes, "
        "a binary file object, an array or an iterable of frames"
    )


def _open_path(text: str, fps: float | None) -> Source:
    name = shown(text)
    if _NETWORK.match(text):
        raise SourceError(
            f"cannot open {name}: of addresses only rtsp:// and http:// are supported; "
            f"pass {_NAMES}"
        )
    if scheme := _SCHEME.match(text):
        is_file = scheme[0].lower() == "file://"
        problem = f"unknown scheme {scheme[0]}; pass {_NAMES}"
        raise SourceError(
            f"cannot open {name}: {'pass the path without file://' if is_file else problem}"
        )
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
