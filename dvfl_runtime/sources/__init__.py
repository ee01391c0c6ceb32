"""Where frames come from: video files, folders of images, arrays, iterables.

>>> with contextlib.closing(open_source("video.mp4")) as source:
...     for frame in source.frames():
...         frame.image, frame.time_s
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from dvfl_runtime.errors import SourceError
from dvfl_runtime.sources.file import FileSource
from dvfl_runtime.sources.frame import Frame, Source
from dvfl_runtime.sources.images import ImagesSource
from dvfl_runtime.sources.memory import MemorySource

__all__ = ["Frame", "Source", "SourceLike", "open_source"]

SourceLike: TypeAlias = (
    str | os.PathLike[str] | NDArray[Any] | Iterable[NDArray[Any] | Frame] | Source
)

_SUPPORTED = "a video file, a folder of images, an array or an iterable of frames"
_LIVE = re.compile(r"(csi|gst|rtsps?|rtmps?|https?|udp|tcp|srt|mms)(://|:(?=[^/]))", re.I)
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]+://", re.I)  # two letters or more: C:// is a drive


def open_source(source: SourceLike, *, fps: float = 25.0) -> Source:
    """Opens whatever frames can be read from; a `Source` is returned as it is.

    Args:
        source: path of a video file or of a folder of images, an (N, H, W, 3) uint8 RGB array, an
            iterable of (H, W, 3) uint8 RGB arrays or of Frames, or a `Source`.
        fps: the clock of folders, arrays and iterables of arrays, which have no timestamps.

    Raises:
        SourceError: if it does not exist, cannot be opened, or is of a kind that is not supported.
        ClipError: if an array has another type, rank or number of channels.
        ValueError: if `fps` is not a finite number > 0.
    """
    if not (math.isfinite(fps) and fps > 0):
        raise ValueError(f"fps must be a finite number > 0, got {fps}")
    if isinstance(source, (str, os.PathLike)):
        return _open_path(os.fsdecode(source), fps)
    if isinstance(source, (int, np.integer)):
        raise SourceError(
            f"cannot open camera {source}: live sources are not supported by this version; "
            f"pass {_SUPPORTED}"
        )
    if isinstance(source, Source):
        return source
    if isinstance(source, Iterable) and not isinstance(source, (bytes, bytearray, dict)):
        return MemorySource(source, fps)
    raise SourceError(f"cannot read frames from a {type(source).__name__}; pass {_SUPPORTED}")


def _open_path(text: str, fps: float) -> Source:
    if _LIVE.match(text):
        raise SourceError(
            f"cannot open {text}: live and network sources are not supported by this version; "
            f"pass {_SUPPORTED}"
        )
    if scheme := _SCHEME.match(text):
        raise SourceError(f"cannot open {text}: unknown scheme {scheme[0]}; pass {_SUPPORTED}")
    path = Path(text)
    if path.is_dir():
        return ImagesSource(path, fps)
    if not path.exists():
        raise SourceError(f"{text or 'the empty path'} does not exist; check the path")
    if not path.is_file():
        raise SourceError(f"{text} is not a file or a folder; pass {_SUPPORTED}")
    if path.stat().st_size == 0:
        raise SourceError(f"{text} is empty (0 bytes); record or copy it again")
    return FileSource(path)
