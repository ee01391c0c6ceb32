"""A video file that is written from packets, without encoding."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

from dvfl_runtime.errors import OutputError
from dvfl_runtime.errors.packages import MEDIA, needed
from dvfl_runtime.files import Replacement
from dvfl_runtime.record.ring import StoredPacket

if TYPE_CHECKING:
    from av.container import OutputContainer
    from av.video.stream import VideoStream

TICKS_HZ = 90_000  # of the times in a file: those of RTSP
USUAL_STEP = TICKS_HZ // 25
# what players expect in MP4; all else goes into Matroska, which holds anything
MP4_CODECS = frozenset({"av1", "h264", "hevc", "mjpeg", "mpeg4", "vp9"})


class StreamTemplate:
    """How the packets of a stream are coded: what a file has to say before the first of them.

    It outlives the connection or the encoder that the stream belongs to.

    Args:
        stream: of an open container.
    """

    def __init__(self, stream: VideoStream) -> None:
        import av

        codec = stream.codec_context
        self.codec = codec.codec.canonical_name
        self._signature = (self.codec, bytes(codec.extradata or b""), codec.width, codec.height)
        # a container that nothing is written to keeps a copy of the description
        self._holder = av.open(io.BytesIO(), "w", format="matroska")
        self._stream = copied_stream(self._holder, stream)

    @property
    def suffix(self) -> str:
        """The suffix of a file for such packets."""
        return ".mp4" if self.codec in MP4_CODECS else ".mkv"

    def is_like(self, other: StreamTemplate) -> bool:
        """Return whether packets of the two can follow each other in one file."""
        return self is other or self._signature == other._signature

    def add_to(self, container: OutputContainer) -> VideoStream:
        """Add such a stream to a new file."""
        return copied_stream(container, self._stream)


class PacketFile:
    """Writes packets to a file, which takes its place when it is complete.

    A player shows an MP4 file from `begin_s` on: the packets between the key picture and `begin_s`
    are in it, because decoding has to begin there, and its edit list leaves them out. Matroska has
    no such list, so there they are shown.

    Args:
        stem: the path without its suffix, which follows from the codec.
        template: how the packets are coded.
        begin_s: when the file begins, on the source's clock, seconds.

    Attributes:
        path: of the complete file.
        template: see above.
        last_s: `decode_s` of the last packet, seconds; `None` before the first.

    Raises:
        OutputError: if nothing can be written there, here and later.
    """

    def __init__(self, stem: Path, template: StreamTemplate, begin_s: float) -> None:
        with needed("recording video", *MEDIA, error=OutputError):
            import av
        self._av = av
        self.path = stem.with_name(stem.name + template.suffix)
        self.template = template
        self.last_s: float | None = None
        self._begin_s = begin_s
        self._last_ticks: int | None = None
        self._file = Replacement(self.path)
        try:
            with self._explaining():
                # "file:" keeps a colon in a name from being read as a protocol
                self._container = av.open(f"file:{self._file.part}", "w")
                self._stream = template.add_to(self._container)
        except BaseException:
            self._file.discard()
            raise

    def add(self, packet: StoredPacket) -> None:
        """Write the next packet."""
        decode, step = round((packet.decode_s - self._begin_s) * TICKS_HZ), USUAL_STEP
        if self._last_ticks is not None:
            decode = max(decode, self._last_ticks + 1)
            step = decode - self._last_ticks
        made = self._av.Packet(packet.data)
        made.time_base = Fraction(1, TICKS_HZ)
        made.dts = self._last_ticks = decode
        made.pts = max(decode, round((packet.time_s - self._begin_s) * TICKS_HZ))
        made.duration = step  # the file ends so long after the last picture
        made.is_keyframe = packet.is_key
        made.stream = self._stream
        self.last_s = packet.decode_s
        with self._explaining():
            self._container.mux(made)

    def finish(self) -> Path:
        """Complete the file, put it in place and return its path."""
        with self._explaining():
            self._container.close()
        self._file.put_in_place()
        return self.path

    def discard(self) -> None:
        """Remove what was written."""
        with suppress(self._av.FFmpegError, OSError):
            self._container.close()
        self._file.discard()

    @contextmanager
    def _explaining(self) -> Iterator[None]:
        """Turn errors of libav and of the disk into one line about this file."""
        with self._file.explaining():
            try:
                yield
            except self._av.FFmpegError as err:
                raise OSError(err.errno, err.strerror) from err


def copied_stream(container: OutputContainer, stream: VideoStream) -> VideoStream:
    """Add a stream to a container that takes packets of another one; no encoder is needed."""
    return container.add_stream_from_template(stream, opaque=True)
