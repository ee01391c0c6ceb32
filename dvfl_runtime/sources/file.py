"""Video files, decoded by PyAV: every frame, at the container's own times, upright."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from dvfl_runtime.addresses import printable
from dvfl_runtime.errors import SourceError
from dvfl_runtime.packages import MEDIA, needed
from dvfl_runtime.sources.clock import Clock
from dvfl_runtime.sources.container import open_container
from dvfl_runtime.sources.frame import Frame

if TYPE_CHECKING:
    import av
    from av.container import InputContainer
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

_logger = logging.getLogger(__name__)

DEFAULT_FPS = 25  # of what tells no rate
UNTIMED = (
    "%s tells neither when its frames are shown nor how many a second there are: their times are "
    "counted at %d a second; pass --fps F (in Python fps=F)"
)
NO_TIMESTAMPS = 0x80  # libav's flag of formats that store none
MAX_THREADS = 4  # each thread of the codec holds one more decoded picture
MAX_PENDING = MAX_THREADS + 16  # the pictures a decoder may hold: one per thread, 16 to reorder


class FileSource:
    """A video file.

    A frame's time is that on a player's clock: 0.0 is where the file begins, be it with sound. So a
    variable frame rate stays one; missing, repeated and backward stamps are repaired (see `clock`).
    A file of bare video (.h264, .hevc, .mjpeg ...) has no stamps: its frames follow each other at
    `fps`, or at the rate that its headers tell; where none does, at 25 a second, with a warning.
    The rotation that phones write beside the picture is applied. Pixels are taken as square, as in
    training.

    Damage: frames from a decoding error up to the next key frame would show the remains of other
    pictures, so they are left out; the pass goes on with that key frame, and one warning follows
    at the end. `close()` ends a running `frames()` at its next frame, which releases the file.

    Args:
        path: the file.
        fps: frames per second of a file without stamps; `None` for what its headers tell.

    Raises:
        SourceError: if it cannot be opened, or has no video in it.
    """

    live = False
    rewindable = True

    def __init__(self, path: Path, fps: float | None = None) -> None:
        self.name = printable(str(path))
        self._path = path
        self._fps = fps
        self._closed = threading.Event()
        self._warned = False
        decoding = _Decoding(path, 1, fps)
        self._is_timed = decoding.is_timed
        self.duration_s = decoding.duration_s
        decoding.close()

    def frames(self) -> Iterator[Frame]:
        """Yields every frame that can be decoded.

        Raises:
            SourceError: if there is none.
        """
        if self._closed.is_set():
            raise SourceError(f"{self.name} is closed; open it again")
        index = 0
        decoding = _Decoding(self._path, min(MAX_THREADS, os.cpu_count() or 1), self._fps)
        clock: Clock | None = None
        try:
            while True:
                for raw in decoding.frames(skip=index):
                    if self._closed.is_set():
                        return
                    clock = clock or decoding.clock(raw)
                    time_s = clock.time_s(decoding.ticks(raw))
                    if index == 1 and not self._is_timed:  # a single picture needs no rate
                        self._is_timed = True  # once, however often it is read
                        _logger.warning(UNTIMED, self.name, DEFAULT_FPS)
                    yield Frame.later(partial(upright_rgb, raw), time_s, index)
                    index += 1
                if not decoding.tail_lost:
                    break
                decoding.close()
                decoding = _Decoding(self._path, 1, self._fps)
        finally:
            decoding.close()
        if index == 0:
            raise SourceError(
                f"no frame of {self.name} can be decoded ({decoding.codec}): "
                f"{decoding.damage or 'its video stream is empty'}; record or convert it again"
            )
        if decoding.damage and not self._warned:  # once, however often it is read
            self._warned = True
            _logger.warning(
                "%s is damaged after frame %d (%s): %d good frames were read, the frames from the "
                "damage up to the next key frame were left out",
                *(self.name, decoding.damaged_after, decoding.damage, index),
            )

    def close(self) -> None:
        """Ends a running `frames()` at its next frame."""
        self._closed.set()


class _Decoding:
    """One pass over a file: its decoded pictures in display order, damaged ones left out.

    Attributes:
        damage: what the first error said; `None` as long as there was none.
        damaged_after: number of the last good frame before it, -1 for none.
        tail_lost: the pass ended, and its last pictures have to be read by a single thread.
    """

    def __init__(self, path: Path, num_threads: int, fps: float | None) -> None:
        self.damage: str | None = None
        self.damaged_after = -1
        self.tail_lost = False
        self._errors, self._container, self._stream = open_video(path)
        self._num_threads = num_threads
        self._stream.thread_type = "AUTO" if num_threads > 1 else "NONE"
        self._stream.codec_context.thread_count = num_threads
        self._is_avi = self._container.format.name == "avi"
        self._is_bare = is_bare(self._container)
        self._fps = fps if self._is_bare else None
        self._good = 0
        self._wait_for_key = False

    @property
    def codec(self) -> str:
        return self._stream.codec_context.name

    @property
    def time_base(self) -> Fraction:
        return self._stream.time_base or Fraction(1, 1000)

    @property
    def is_timed(self) -> bool:
        """Whether anything tells when a frame is shown: stamps, a header or the caller."""
        return not self._is_bare or self._rate is not None

    @property
    def _rate(self) -> float | None:
        """Frames per second, as far as it is known."""
        if self._fps is not None:
            return self._fps
        rate = self._stream.average_rate or self._stream.guessed_rate
        if self._is_bare:  # that is what libav takes: 25; the decoder knows what the headers tell
            rate = self._stream.codec_context.framerate
        return float(rate) if rate and 0 < rate <= 1000 else None

    def clock(self, first: VideoFrame) -> Clock:
        """Returns what turns stamps into times, beginning with that of the first picture."""
        stamp = first.dts if first.pts is None else first.pts
        begin_s = 0.0 if self._is_bare else shown_s(self._container, self._stream, stamp)
        return Clock(self.time_base, 1 / (self._rate or DEFAULT_FPS), begin_s)

    @property
    def duration_s(self) -> float | None:
        """The container's estimate of when the last frame has been shown, seconds."""
        if self._stream.duration and self._stream.time_base:
            begin_s = shown_s(self._container, self._stream, self._stream.start_time)
            return begin_s + float(self._stream.duration * self._stream.time_base)
        if self._container.duration:
            return self._container.duration / 1e6  # AV_TIME_BASE
        return None

    def ticks(self, raw: VideoFrame) -> int | None:
        """Returns the stamp of a picture in `time_base`; `None` if there is none to go by."""
        if self._fps is not None:
            return None
        # AVI stores no presentation times: those that the decoder reports run backwards at every
        # B-frame, while the decoding times of the pictures as they come out are even.
        if self._is_avi or raw.pts is None:
            return raw.dts
        return raw.pts

    def frames(self, skip: int) -> Iterator[VideoFrame]:
        """Yields the good pictures, without the first `skip` ones."""
        sent = 0
        received = 0
        for packet in self._packets():
            sent += 1
            pictures = self._decode(packet)
            received += len(pictures) if pictures is not None else 1
            yield from self._keep(pictures or [], skip)
        pictures = self._decode(None)
        # Where codec threads meet an error among the last packets, PyAV loses the good pictures
        # that were still inside, sometimes without raising: fewer come out than went in. (Some
        # codecs have packets that are never shown; they show as more than a decoder can hold.)
        if self._num_threads > 1:
            missing = sent - received - len(pictures or [])
            if pictures is None or 0 < missing <= MAX_PENDING:
                self.tail_lost = True
                return
        yield from self._keep(pictures or [], skip)

    def close(self) -> None:
        self._container.close()

    def _packets(self) -> Iterator[av.Packet[VideoStream]]:
        packets = self._container.demux(self._stream)
        while True:
            try:
                packet = next(packets)
            except StopIteration:
                return
            except self._errors as err:
                self._note(err.strerror)
                return
            if not packet.size:  # an empty packet would tell the decoder that the file is over
                continue
            if packet.is_corrupt:
                self._note("the file is cut off or a part of it is missing")
                continue
            yield packet

    def _decode(self, packet: av.Packet[VideoStream] | None) -> list[VideoFrame] | None:
        """Returns the pictures that come out, or `None` after an error."""
        try:
            return self._stream.codec_context.decode(packet)
        except self._errors as err:
            self._note(err.strerror)
            self._wait_for_key = True
            return None

    def _keep(self, pictures: list[VideoFrame], skip: int) -> Iterator[VideoFrame]:
        for raw in pictures:
            if raw.is_corrupt:
                self._note("a picture is incomplete")
                self._wait_for_key = True
            elif raw.key_frame:
                self._wait_for_key = False
            if not self._wait_for_key:
                self._good += 1
                if self._good > skip:
                    yield raw

    def _note(self, reason: str | None) -> None:
        if self.damage is None:
            self.damage = reason or "unknown error"
            self.damaged_after = self._good - 1


def open_video(path: Path) -> tuple[type[av.FFmpegError], InputContainer, VideoStream]:
    """Opens the container and finds its video stream.

    PyAV mutes libav's own log unless the application turns it on, so nothing is set here.
    """
    with needed("reading video files", *MEDIA):
        import av
    try:
        # "file:" keeps a colon in a name from being read as a protocol, and the whitelist keeps
        # playlist files from opening connections.
        container = open_container(f"file:{path}", options={"protocol_whitelist": "file"})
    except (av.FFmpegError, OSError) as err:
        raise SourceError(
            f"cannot open {printable(str(path))} as a video: {err.strerror}; "
            "check that it is a complete video file"
        ) from err
    cover = av.stream.Disposition.attached_pic
    streams = [s for s in container.streams.video if not s.disposition & cover]
    if not len(container.streams):
        problem = "it holds no streams; check that it is a complete video file"
    elif container.format.name == "tty":  # libav draws any .txt file as a terminal
        problem = "it is a text file; pass a video file"
    elif not streams or streams[0].codec_context is None:
        problem = "it has no video stream that can be decoded; pass a file with video"
    else:
        return av.FFmpegError, container, streams[0]
    container.close()
    raise SourceError(f"cannot open {printable(str(path))} as a video: {problem}")


def is_bare(container: InputContainer) -> bool:
    """Says whether these are pictures one after another, in a format that stores no time stamps."""
    form = container.format
    return bool(int(form.flags) & NO_TIMESTAMPS) or form.name.endswith("_pipe")


def shown_s(container: InputContainer, stream: VideoStream, stamp: int | None) -> float:
    """Returns when what has this stamp is shown, seconds from where a player begins to count."""
    if stamp is None or stream.time_base is None or container.start_time is None:
        return 0.0
    return max(0, round(stamp * stream.time_base * 1_000_000) - container.start_time) / 1e6


def upright_rgb(raw: VideoFrame) -> NDArray[np.uint8]:
    """Returns (H, W, 3) uint8 RGB; colour matrix and range are those that the stream states."""
    try:
        # by default PyAV 17 starts threads for each picture: 4.0 ms instead of 0.6 at 1280 x 720 px
        image = np.asarray(raw.to_ndarray(format="rgb24", threads=1), np.uint8)
    except TypeError:  # before 17 there is one thread, and no such argument
        image = np.asarray(raw.to_ndarray(format="rgb24"), np.uint8)
    quarters = round(raw.rotation / 90) % 4  # counterclockwise
    return np.ascontiguousarray(np.rot90(image, quarters))  # without libav's padding of the lines
