"""Where frames come from: files, folders of images, arrays, iterables, cameras and streams.

>>> with contextlib.closing(open_source("video.mp4")) as source:
...     for frame in source.frames():
...         frame.image, frame.time_s
"""

from __future__ import annotations

from dvfl_runtime.sources.frame import Frame, Image, Source
from dvfl_runtime.sources.live.grabber import Grabbed, Grabber
from dvfl_runtime.sources.live.reconnect import LiveOptions
from dvfl_runtime.sources.live.rtsp import RtspGrabber
from dvfl_runtime.sources.live.source import LiveSource, SourceState, SourceStats
from dvfl_runtime.sources.opening import SourceLike, display_name, is_live, open_source
from dvfl_runtime.sources.recorded.memory import MemorySource

__all__ = [
    "Frame",
    "Grabbed",
    "Grabber",
    "Image",
    "LiveOptions",
    "LiveSource",
    "MemorySource",
    "RtspGrabber",
    "Source",
    "SourceLike",
    "SourceState",
    "SourceStats",
    "display_name",
    "is_live",
    "open_source",
]
