"""Where frames come from: files, folders of images, arrays, iterables, cameras and streams.

>>> with contextlib.closing(open_source("video.mp4")) as source:
...     for frame in source.frames():
...         frame.image, frame.time_s
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from dvfl_runtime.addresses import shown
from dvfl_runtime.checks import check_number, check_type
from dvfl_runtime.errors import ArgumentError, SourceError
from dvfl_runtime.sources.capture import camera, pipeline
from dvfl_runtime.sources.file import FileSource
from dvfl_runtime.sources.frame import Frame, Source
from dvfl_runtime.sources.grabber import Grabbed, Grabber
from dvfl_runtime.sources.images import ImagesSource
from dvfl_runtime.sources.jetson import JetsonFileSource, jetson_rtsp
from dvfl_runtime.sources.live import LiveSource, SourceState, SourceStats
from dvfl_runtime.sources.memory import MemorySource
from dvfl_runtime.sources.pipelines import CsiCamera
from dvfl_runtime.sources.reconnect import LiveOptions
from dvfl_runtime.sources.rtsp import RtspGrabber
from dvfl_runtime.sources.stills import is_still
from dvfl_runtime.sources.video_file import DEFAULT_FPS

__all__ = [
    "Frame",
    "Grabbed",
    "Grabber",
    "LiveOptions",
    "LiveSource",
    "RtspGrabber",
    "Source",
    "SourceLike",
    "SourceState",
    "SourceStats",
    "is_live",
    "open_source",
]

SourceLike: TypeAlias = (
    int | str | os.PathLike[str] | NDArray[Any] | Iterable[NDArray[Any] | Frame] | Source
)

_SUPPORTED = (
    "a video file, a folder of images, a camera's index, rtsp://, csi://, gst:PIPELINE, an array "
    "or an iterable of frames"
)
_NETWORK = re.compile(r"(rtmps?|https?|udp|tcp|srt|mms)(://|:(?=[^/]))", re.I)
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

    Live sources are those with an index, `rtsp://`, `csi://` and `gst:`. They connect when
    `frames()` is called; what can be known before, such as a camera that is not there, is an error
    at once.

    Args:
        source: one of
            a path of a video file or of a folder of images;
            a camera's index, as a number or as text where no file has that name;
            rtsp://HOST/PATH or rtsps://, with NAME:PASSWORD@ before the host if needed;
            csi://0?width=1280&height=720&fps=30&flip=0, a camera of a Jetson;
            gst:PIPELINE, GStreamer by OpenCV;
            jetson:PATH or jetson:rtsp://..., decoded by a Jetson's hardware;
            an (N, H, W, 3) uint8 RGB array, or an iterable of (H, W, 3) uint8 RGB arrays or Frames;
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
    if isinstance(source, str) and source.isdecimal() and is_live(source):
        source = int(source)
    if isinstance(source, (int, np.integer)) and not isinstance(source, bool):
        return LiveSource(f"camera {source}", camera(int(source)), options=live, on_state=on_state)
    if isinstance(source, (str, os.PathLike)):
        text = os.fsdecode(source)
        if (grabber := _live_grabber(text)) is not None:
            return LiveSource(text, grabber, options=live, on_state=on_state)
        return _open_path(text, fps)
    if isinstance(source, Source):
        return source
    if isinstance(source, Iterable) and not isinstance(source, (bytes, bytearray, dict)):
        return MemorySource(source, fps or DEFAULT_FPS)
    raise ArgumentError(f"cannot read frames from a {type(source).__name__}; pass {_SUPPORTED}")


def is_live(name: str) -> bool:
    """Says whether what is called so is a live source, without opening it."""
    return bool(_LIVE.match(name)) or (name.isdecimal() and not os.path.lexists(name))


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
    if scheme == "jetson" and rest.lower().startswith(("rtsp:", "rtsps:")):
        return jetson_rtsp(rest)
    return None


def _open_path(text: str, fps: float | None) -> Source:
    name = shown(text)
    if _NETWORK.match(text):
        raise SourceError(
            f"cannot open {name}: of network sources only rtsp:// is supported; pass {_SUPPORTED}"
        )
    if scheme := _SCHEME.match(text):
        raise SourceError(f"cannot open {name}: unknown scheme {scheme[0]}; pass {_SUPPORTED}")
    if not text.strip():
        raise SourceError(f"the source is an empty text; pass {_SUPPORTED}")
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
        raise SourceError(f"{name} is not a file or a folder; pass {_SUPPORTED}")
    if about.st_size == 0:
        raise SourceError(f"{name} is empty (0 bytes); record or copy it again")
    if text.startswith("jetson:"):
        return JetsonFileSource(path)
    return ImagesSource(path, fps or DEFAULT_FPS) if is_still(path) else FileSource(path, fps)
