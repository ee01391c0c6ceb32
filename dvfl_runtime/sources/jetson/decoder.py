"""Decoding by the hardware of NVIDIA Jetson, for files and for RTSP. Not yet run on a Jetson."""

from __future__ import annotations

import logging
import threading
from collections.abc import Generator, Iterator
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
from dvfl_runtime.sources.decoding.picture import Orientations
from dvfl_runtime.sources.frame import Frame
from dvfl_runtime.sources.jetson.pipelines import PARSERS, file_pipeline, is_jetson, rtsp_pipeline
from dvfl_runtime.sources.live.capture import (
    PIPELINE_HINT,
    CaptureGrabber,
    check_gstreamer,
    open_pipeline,
    rgb,
)
from dvfl_runtime.sources.live.rtsp import RtspGrabber, checked
from dvfl_runtime.sources.recorded.video_file import open_video, shown_s
from dvfl_runtime.sources.timestamps import REORDER_DEPTH, next_time

if TYPE_CHECKING:
    import cv2

_logger = logging.getLogger(__name__)


class JetsonFileSource:
    """A video file, decoded by hardware: every frame, upright, when a player shows it.

    PyAV reads what the file holds, how it is turned and when each frame is shown; GStreamer decodes
    it. Its own times are those of the queue before OpenCV, which is some frames ahead, and it does
    not tell damage from the end: a file that ends a second or more too early gives one warning.

    Args:
        path: the file: H.264 or H.265 in MP4, MOV or Matroska.

    Raises:
        SourceError: if this is no Jetson, OpenCV has no GStreamer, or the file is of another kind.
    """

    live = False
    rewindable = True

    def __init__(self, path: Path) -> None:
        check_jetson()
        self.name = printable(str(path))
        self._path = path
        self._closed = threading.Event()
        error, container, stream = open_video(path)
        with container:
            if stream.index != container.streams.video[0].index:
                raise SourceError(
                    f"the hardware decoder reads the first video of a file, and of {self.name} "
                    "another one is shown; pass the path without jetson:"
                )
            kind, codec = container.format.name, stream.codec_context.name
            rate = stream.average_rate or stream.guessed_rate
            self._step_s = float(1 / rate) if rate else 1 / 25
            self.duration_s = container.duration / 1e6 if container.duration else None
            try:
                first = next(container.decode(stream))
            except (error, StopIteration) as err:
                raise SourceError(
                    f"no frame of {self.name} can be decoded; record it again"
                ) from err
            self._orientation = Orientations().of(first)
        pipeline = file_pipeline(path, kind, codec)
        if pipeline is None:
            raise SourceError(
                f"the hardware decoder reads {' or '.join(PARSERS)} in MP4, MOV or Matroska, and "
                f"{self.name} is {codec} in {kind}; pass the path without jetson:"
            )
        self._pipeline = pipeline

    def frames(self) -> Iterator[Frame]:
        """Yields every frame.

        Raises:
            SourceError: if the pipeline does not start or gives no frame.
        """
        if self._closed.is_set():
            raise SourceError(f"{self.name} is closed; open it again")
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
                    image = self._orientation.apply(rgb(np.asarray(bgr, np.uint8)))
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

    def close(self) -> None:
        """Ends a running `frames()` at its next frame."""
        self._closed.set()


def times_shown(path: Path) -> Generator[float, None, None]:
    """Yields when each frame of a file is shown, as on a player's clock, without decoding."""
    error, container, stream = open_video(path)
    waiting: list[int] = []  # stamps in order, as far as frames may be stored out of order
    first: int | None = None
    begin_s = 0.0
    with container, suppress(error):
        packets = (p for p in packets_of(container, stream) if p.size and not p.is_discard)
        for packet in chain(packets, repeat(None, REORDER_DEPTH)):
            if packet is not None and packet.pts is not None:
                heappush(waiting, packet.pts)
            if waiting and (packet is None or len(waiting) > REORDER_DEPTH):
                stamp = heappop(waiting)
                if first is None:
                    first, begin_s = stamp, shown_s(container, stream, stamp)
                yield begin_s + float((stamp - first) * (stream.time_base or Fraction(1, 1000)))


def jetson_rtsp(url: str) -> CaptureGrabber:
    """Returns a grabber of an RTSP stream that is decoded by hardware.

    PyAV connects first, to know the codec and to say why if the connection fails.

    Raises:
        SourceError: if this is no Jetson, OpenCV has no GStreamer, or the URL is not complete.
    """
    check_jetson()
    probe = RtspGrabber(url)

    def opening() -> cv2.VideoCapture:
        try:
            probe.open()
            codec = probe.codec
        finally:
            probe.close()
        pipeline = rtsp_pipeline(checked(url), codec)
        if pipeline is None:
            raise SourceError(
                f"the hardware decoder reads {' or '.join(PARSERS)}, and {shown(url)} is "
                f"{codec}; pass the address without jetson:"
            )
        return open_pipeline(pipeline)

    return CaptureGrabber(shown(url), PIPELINE_HINT, opening)


def check_jetson() -> None:
    """Raises SourceError unless this is a Jetson whose OpenCV has GStreamer."""
    if not is_jetson():
        raise SourceError("jetson: needs an NVIDIA Jetson; pass the source without jetson:")
    check_gstreamer()
