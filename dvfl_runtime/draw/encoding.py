"""Video files that every player shows: H.264 in yuv420p, each picture at a given time."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

from dvfl_runtime.errors import OutputError
from dvfl_runtime.errors.packages import MEDIA, needed
from dvfl_runtime.sources import Image

if TYPE_CHECKING:
    from av.container import OutputContainer
    from av.video.stream import VideoStream

Planes: TypeAlias = NDArray[np.uint8]  # (3/2 H, W): yuv420p, the planes Y, U and V after each other

# exact for 24, 25, 30, 29.97, 50 and 60 frames per second, and below the limit of the mpeg4 encoder
TICKS_HZ = 60_000
# the most ticks between two pictures, 1.2 hours: MP4 has 31 bits, also for reordered pictures
MAX_STEP = 2**28
MAX_RATE_HZ = 240
SINGLE_PICTURE_S = 1 / 25  # the distance that an encoder is told where there is only one picture
# best first; builds of PyAV differ: mpeg4 is in all of them, and H.264 plays everywhere
ENCODERS = {
    "libx264": {"preset": "veryfast", "crf": "21"},
    "libopenh264": {"b": "6000000"},
    "mpeg4": {"qscale": "3", "flags": "+qscale"},
}
BT601, STUDIO = 6, 1  # colour matrix and range of `to_yuv`, by libav's numbers


class VideoWriter:
    """A video that is written picture by picture.

    The file is opened with the second picture, because the encoder is told the distance of the
    first two as its frame rate. The times of all pictures are kept as they are.

    Args:
        path: the file; its suffix names the container.

    Raises:
        OutputError: if PyAV is not installed.
    """

    def __init__(self, path: Path) -> None:
        with needed("writing video", *MEDIA, error=OutputError):
            import av
        self._av = av
        self._path = path
        self._first: tuple[Planes, float] | None = None
        self._first_s = 0.0
        self._last_tick = -1
        self._last: Planes | None = None
        self._output: tuple[OutputContainer, VideoStream] | None = None
        self._finished = False

    def add(self, planes: Planes, time_s: float) -> None:
        """Write a picture that is shown from `time_s` on; all have one size.

        Raises:
            OSError: if the file cannot be written.
        """
        if self._first is None:
            self._first = planes, time_s
            return
        if self._output is None:
            self._begin(*self._first, time_s - self._first[1])
        self._encode(planes, time_s)

    def finish(self) -> None:
        """Complete the file; further calls do nothing.

        Raises:
            OutputError: if there was no picture.
            OSError: if the file cannot be written.
        """
        if self._finished:
            return
        if self._first is None:
            raise OutputError(f"no video to write to {self._path.name}: there was no picture")
        container, stream = self._output or self._begin(*self._first, SINGLE_PICTURE_S)
        with self._translating_errors():
            container.mux(stream.encode())
            self._finished = True
            container.close()

    def close(self) -> None:
        """Close the file, complete or not."""
        if self._output is not None and not self._finished:
            self._finished = True
            with contextlib.suppress(self._av.FFmpegError):  # the error has been reported
                self._output[0].close()

    def _begin(
        self, planes: Planes, time_s: float, step_s: float
    ) -> tuple[OutputContainer, VideoStream]:
        """Open the file and encode the first picture."""
        rate = Fraction(min(max(1 / step_s, 1e-3), MAX_RATE_HZ)).limit_denominator(1001)
        codec = next(name for name in ENCODERS if name in self._av.codecs_available)
        with self._translating_errors():
            # "file:" keeps a colon in a name from being read as a protocol
            options = {"movflags": "faststart"} if self._path.suffix.lower() != ".mkv" else {}
            container = self._av.open(f"file:{self._path}", "w", options=options)
            stream = container.add_stream(codec, rate=rate, options=ENCODERS[codec])
            assert isinstance(stream, self._av.VideoStream)
            self._output = container, stream
            stream.width, stream.height = planes.shape[1], planes.shape[0] * 2 // 3
            stream.pix_fmt = "yuv420p"
            stream.codec_context.time_base = Fraction(1, TICKS_HZ)
            stream.codec_context.colorspace = BT601
            stream.codec_context.color_range = STUDIO
        self._first_s = time_s
        self._encode(planes, time_s)
        return self._output

    def _encode(self, planes: Planes, time_s: float) -> None:
        tick = max(round((time_s - self._first_s) * TICKS_HZ), self._last_tick + 1)
        while self._last is not None and tick - self._last_tick > MAX_STEP:
            self._encode_at(self._last, self._last_tick + MAX_STEP)  # repeated: it is still shown
        self._encode_at(planes, tick)

    def _encode_at(self, planes: Planes, tick: int) -> None:
        assert self._output is not None
        container, stream = self._output
        self._last, self._last_tick = planes, tick
        frame = self._av.VideoFrame.from_ndarray(planes, format="yuv420p")
        frame.pts, frame.time_base = tick, Fraction(1, TICKS_HZ)
        frame.colorspace, frame.color_range = BT601, STUDIO
        with self._translating_errors():
            container.mux(stream.encode(frame))

    @contextlib.contextmanager
    def _translating_errors(self) -> Iterator[None]:
        """Turn libav's errors into OSErrors, which the owner of the file explains with its name."""
        try:
            yield
        except self._av.FFmpegError as err:
            raise OSError(err.errno, err.strerror) from err


def to_yuv(image: Image, size: tuple[int, int] | None = None) -> Planes:
    """Convert a picture to yuv420p, the input of encoders, which takes half the memory of RGB.

    Args:
        image: (h, w, 3) RGB uint8.
        size: (width, height) to scale to, both even; by default the picture's own, where an odd
            side is made even by repeating its last line.

    Returns:
        (3/2 H, W) uint8: the planes Y, U and V one after another, BT.601, studio range.
    """
    import cv2

    height, width = image.shape[:2]
    if size is not None and (width + width % 2, height + height % 2) != size:
        image = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
    elif width % 2 or height % 2:
        image = np.pad(image, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    # (H, W, 3) -> (3/2 H, W)
    return np.asarray(cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2YUV_I420), np.uint8)


def enlarged(planes: Planes, times: int) -> Planes:
    """Return a picture in yuv420p with all its sides so many times as long."""
    import cv2

    if times == 1:
        return planes
    height, width = planes.shape[0] * 2 // 3, planes.shape[1]
    size = (times * width, times * height)
    rgb = np.asarray(cv2.cvtColor(planes, cv2.COLOR_YUV2RGB_I420), np.uint8)
    return to_yuv(np.asarray(cv2.resize(rgb, size, interpolation=cv2.INTER_CUBIC), np.uint8))


def stacked(*pictures: Planes) -> Planes:
    """Return pictures of one width in yuv420p as one, below each other."""
    width = pictures[0].shape[1]
    parts = [np.split(one.reshape(-1), (one.size * 2 // 3, one.size * 5 // 6)) for one in pictures]
    return np.concatenate([plane for kind in zip(*parts, strict=True) for plane in kind]).reshape(
        -1, width
    )
