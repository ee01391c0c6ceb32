"""Decoding of files and RTSP by the hardware of NVIDIA Jetson.

Experimental: not yet run on a Jetson.
"""

from __future__ import annotations

import logging
from collections.abc import Generator
from contextlib import closing, suppress
from fractions import Fraction
from heapq import heappop, heappush
from itertools import chain, repeat
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dvfl_runtime.errors import SourceError
from dvfl_runtime.errors.addresses import printable, shown
from dvfl_runtime.sources.decoding.container import packets_of
from dvfl_runtime.sources.decoding.picture import OrientationTracker
from dvfl_runtime.sources.frame import Frame
from dvfl_runtime.sources.jetson.pipelines import PARSERS, file_pipeline, is_jetson, rtsp_pipeline
from dvfl_runtime.sources.live.capture import (
    PIPELINE_HINT,
    CaptureGrabber,
    check_gstreamer,
    open_pipeline,
)
from dvfl_runtime.sources.live.rtsp import RtspGrabber, check_address
from dvfl_runtime.sources.opencv import rgb_from_bgr
from dvfl_runtime.sources.recorded.source import RecordedSource
from dvfl_runtime.sources.recorded.video_file import DEFAULT_FPS, open_video, shown_s
from dvfl_runtime.sources.timestamps import REORDER_DEPTH, next_time

if TYPE_CHECKING:
    import cv2

_logger = logging.getLogger(__name__)


class JetsonFileSource(RecordedSource):
    """A video file, decoded by hardware: every frame, upright, when a player shows it.

    PyAV reads the codec, the orientation and the times of the frames; GStreamer decodes. Times from
    GStreamer are not used: they are those of the queue before OpenCV, some frames ahead. It reports
    damage as the end of the file, so a file that ends a second or more too early gives one warning.

    Args:
        path: the file: H.264 or H.265 in MP4, MOV or Matroska.

    Raises:
        SourceError: if this is no Jetson, OpenCV has no GStreamer, or the file is of another kind.
    """

    def __init__(self, path: Path) -> None:
        check_jetson()
        name = printable(str(path))
        self._path = path
        container, stream = open_video(path)
        import av  # after open_video, which raises the error of a missing PyAV

        with container:
            if stream.index != container.streams.video[0].index:
                raise SourceError(
                    f"the hardware decoder reads the first video of a file, and of {name} "
                    "another one is shown; pass the path without jetson:"
                )
            kind, codec = container.format.name, stream.codec_context.name
            rate = stream.average_rate or stream.guessed_rate
            self._step_s = float(1 / (rate or DEFAULT_FPS))
            duration_s = container.duration / 1e6 if container.duration else None
            try:
                first = next(container.decode(stream))
            except (av.FFmpegError, StopIteration) as err:
                raise SourceError(f"no frame of {name} can be decoded; record it again") from err
            self._orientation = OrientationTracker().update(first)
        pipeline = file_pipeline(path, kind, codec)
        if pipeline is None:
            raise SourceError(
                f"the hardware decoder reads {' or '.join(PARSERS)} in MP4, MOV or Matroska, and "
                f"{name} is {codec} in {kind}; pass the path without jetson:"
            )
        self._pipeline = pipeline
        super().__init__(name, duration_s)

    def _read(self) -> Generator[Frame, None, None]:
        index, time_s = 0, 0.0
        capture = open_pipeline(self._pipeline)
        try:
            with closing(times_shown(self._path)) as times:
                while not self._closed.is_set():
                    good, bgr = capture.read()
                    if not good:
                        break
                    stamp_s = next(times, None)
                    time_s = next_time(stamp_s, time_s, self._step_s) if index else stamp_s or 0.0
                    image = self._orientation.apply(rgb_from_bgr(np.asarray(bgr, np.uint8)))
                    yield Frame(image, time_s, index)
                    index += 1
        finally:
            capture.release()
        if self._closed.is_set():
            return
        if index == 0:
            raise SourceError(
                f"the hardware decoder gives no frame of {self.name} (pipeline: {self._pipeline}); "
                "pass the path without jetson:"
            )
        if self.duration_s is not None and self.duration_s - time_s > self._step_s + 1:
            _logger.warning(
                "%s ended after %.1f s of %.1f s: it is damaged or cut off",
                *(self.name, time_s, self.duration_s),
            )


def times_shown(path: Path) -> Generator[float, None, None]:
    """Yield when a player shows each frame of a file, seconds, without decoding."""
    container, stream = open_video(path)
    import av

    # a heap of timestamps: frames are stored in another order than they are shown
    waiting: list[int] = []
    first: int | None = None
    begin_s = 0.0
    with container, suppress(av.FFmpegError):
        packets = (p for p in packets_of(container, stream) if p.size and not p.is_discard)
        for packet in chain(packets, repeat(None, REORDER_DEPTH)):
            if packet is not None and packet.pts is not None:
                heappush(waiting, packet.pts)
            if waiting and (packet is None or len(waiting) > REORDER_DEPTH):
                stamp = heappop(waiting)
                if first is None:
                    first, begin_s = stamp, shown_s(container, stream, stamp)
                yield begin_s + float((stamp - first) * (stream.time_base or Fraction(1, 1000)))


def jetson_rtsp_grabber(url: str) -> CaptureGrabber:
    """Return a grabber of an RTSP stream that is decoded by hardware.

    PyAV connects first, to find the codec and, if the connection fails, the reason.

    Raises:
        SourceError: if this is no Jetson, OpenCV has no GStreamer, or the URL is not complete.
    """
    check_jetson()
    probe = RtspGrabber(url)

    def open_stream() -> cv2.VideoCapture:
        try:
            probe.open()
            codec = probe.codec
        finally:
            probe.close()
        pipeline = rtsp_pipeline(check_address(url), codec)
        if pipeline is None:
            raise SourceError(
                f"the hardware decoder reads {' or '.join(PARSERS)}, and {shown(url)} is "
                f"{codec}; pass the address without jetson:"
            )
        return open_pipeline(pipeline)

    return CaptureGrabber(shown(url), PIPELINE_HINT, open_stream)


def check_jetson() -> None:
    """Raise SourceError unless this is a Jetson whose OpenCV has GStreamer."""
    if not is_jetson():
        raise SourceError("jetson: needs an NVIDIA Jetson; pass the source without jetson:")
    check_gstreamer()
