"""Packets for sources that have none: their frames, encoded as they come."""

from __future__ import annotations

import io
from collections.abc import Iterator
from fractions import Fraction
from typing import TYPE_CHECKING

from dvfl_runtime.draw.encoding import to_yuv
from dvfl_runtime.errors import OutputError
from dvfl_runtime.errors.packages import MEDIA, needed
from dvfl_runtime.record.packet_file import StreamTemplate
from dvfl_runtime.record.ring import StoredPacket
from dvfl_runtime.sources import Frame

if TYPE_CHECKING:
    import av
    from av.video.codeccontext import VideoCodecContext
    from av.video.stream import VideoStream

MAX_SIDE_PX = 1280  # larger pictures are made smaller: models look at less, and devices are slow
KEY_S = 1.0  # between two key pictures
TICKS_HZ = 60_000  # below the limit of the mpeg4 encoder
USUAL_RATE = 30  # what encoders are told; the times are those of the frames
RAW_FORMATS = {"h264": "h264", "mpeg4": "m4v"}  # of a packet without a container, by its codec
# best first, each at its fastest and without delay; builds of PyAV differ, mpeg4 is in all of them
ENCODERS = {
    "libx264": {"preset": "ultrafast", "tune": "zerolatency", "crf": "23", "forced-idr": "1"},
    "libopenh264": {"b": "4000000"},
    "mpeg4": {"qscale": "4", "flags": "+qscale"},
}


class PacketEncoder:
    """Makes packets of frames; a key picture comes first, once a second and when the size changes.

    Raises:
        OutputError: if PyAV is not installed.
    """

    def __init__(self) -> None:
        with needed("recording video", *MEDIA, error=OutputError):
            import av
        self._av = av
        self._codec: VideoCodecContext | None = None
        self._template: StreamTemplate | None = None
        self._size = (0, 0)
        self._origin_s = self._key_s = 0.0
        self._last_ticks = -1

    def encode(self, frame: Frame) -> Iterator[StoredPacket]:
        """Yield the packets that a frame completes."""
        height, width = frame.image.shape[:2]
        scale = min(1.0, MAX_SIDE_PX / max(height, width))
        size = max(2, round(width * scale / 2) * 2), max(2, round(height * scale / 2) * 2)
        if self._codec is None or size != self._size:
            self._begin(size, frame.time_s)
        assert self._codec is not None
        raw = self._av.VideoFrame.from_ndarray(to_yuv(frame.image, size), format="yuv420p")
        ticks = max(round((frame.time_s - self._origin_s) * TICKS_HZ), self._last_ticks + 1)
        raw.pts, raw.time_base = ticks, Fraction(1, TICKS_HZ)
        if self._last_ticks < 0 or frame.time_s - self._key_s >= KEY_S:
            raw.pict_type, self._key_s = self._av.video.frame.PictureType.I, frame.time_s
        self._last_ticks = ticks
        for packet in self._codec.encode(raw):
            assert packet.pts is not None
            assert packet.time_base is not None
            data, is_key = bytes(packet), packet.is_keyframe
            time_s = self._origin_s + float(packet.pts * packet.time_base)
            template = self._template = self._template or self._template_of(packet)
            yield StoredPacket(data, time_s, time_s, is_key, template)

    def reset(self) -> None:
        """Begin anew with the next frame."""
        self._codec = self._template = None

    def _begin(self, size: tuple[int, int], time_s: float) -> None:
        self._codec, self._template = self._opened(size), None
        self._size, self._origin_s, self._key_s, self._last_ticks = size, time_s, time_s, -1

    def _opened(self, size: tuple[int, int]) -> VideoCodecContext:
        name = next(name for name in ENCODERS if name in self._av.codecs_available)
        codec = self._av.CodecContext.create(name, "w")
        assert isinstance(codec, self._av.VideoCodecContext)
        codec.width, codec.height = size
        codec.pix_fmt = "yuv420p"
        codec.time_base, codec.framerate = Fraction(1, TICKS_HZ), Fraction(USUAL_RATE)
        codec.gop_size = 10 * USUAL_RATE  # key pictures are asked for by time
        codec.options = ENCODERS[name]
        return codec

    def _template_of(self, packet: av.Packet[VideoStream]) -> StreamTemplate:
        """Return how an encoder's packets are coded, as a reader of its first one finds it."""
        assert self._codec is not None
        with self._av.open(
            io.BytesIO(bytes(packet)), format=RAW_FORMATS[self._codec.codec.canonical_name]
        ) as read:
            return StreamTemplate(read.streams.video[0])
