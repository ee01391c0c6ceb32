"""Reads the video of a network connection by PyAV; subclasses make the connection."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING

from dvfl_runtime.errors import SourceError
from dvfl_runtime.errors.addresses import shown
from dvfl_runtime.errors.packages import MEDIA, needed
from dvfl_runtime.sources.decoding.container import packets_of
from dvfl_runtime.sources.decoding.decoder import Decoder
from dvfl_runtime.sources.decoding.picture import OrientationTracker, upright_rgb
from dvfl_runtime.sources.live.grabber import Grabbed, GrabbedPacket
from dvfl_runtime.sources.web import READ_TIMEOUT_S

if TYPE_CHECKING:
    import av
    from av.container import InputContainer
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

_logger = logging.getLogger(__name__)

NO_PICTURE_S = 30.0  # some cameras send a keyframe only every 10 s or 20 s
WARNING_INTERVAL_S = 60.0  # between two warnings of one connection
LEFT_OUT = "%s: %d pictures that would show remains of others were left out, after lost packets"


class StreamGrabber:
    """Reads the video of a connection, which a subclass makes.

    Pictures that show the remains of others, after lost packets or a decoding error, are left out
    (see `decoder`). The size may change from picture to picture.

    Args:
        url: the address.
        read_timeout_s: the connection is given up after so long without data, seconds.

    Attributes:
        on_packet: called with each packet before it is decoded.

    Raises:
        DvflError: if PyAV is missing.
    """

    def __init__(self, url: str, read_timeout_s: float = READ_TIMEOUT_S) -> None:
        with needed("reading streams", *MEDIA):
            import av  # noqa: F401
        self.on_packet: Callable[[GrabbedPacket], object] | None = None
        self._url = url
        self._name = shown(url)
        self._timeout_s = read_timeout_s
        self._container: InputContainer | None = None
        self._orientation = OrientationTracker()
        self._pictures: Iterator[VideoFrame] = iter(())

    @property
    def codec(self) -> str:
        """Libav's name of the codec; only while it is open."""
        assert self._container is not None
        return self._container.streams.video[0].codec_context.name

    def open(self) -> None:
        """Connect.

        Raises:
            SourceError: if the server does not know the path, refuses the password, or sends
                nothing that can be decoded.
            OSError: if it cannot be reached or does not answer in time.
        """
        self._container = self._connect()
        streams = self._container.streams.video
        if not streams or streams[0].codec_context is None:
            raise SourceError(
                f"{self._name} has no video stream that can be decoded; check its path"
            )
        # Each frame thread would hold a picture back, and with slice threads FFmpeg does not notice
        # lost slices: of 48 damaged pictures with four slices it missed 47.
        codec = streams[0].codec_context
        codec.thread_type, codec.thread_count = "NONE", 1
        self._pictures = self._decode(self._container)

    def read(self) -> Grabbed:
        """Return the next whole picture.

        Raises:
            OSError: if the stream ended, was lost, or nothing came in time.
        """
        raw = next(self._pictures, None)
        if raw is None:
            raise ConnectionError("the server ended the stream")
        return Grabbed(partial(upright_rgb, raw, self._orientation.update(raw)), self._stamp_s(raw))

    def close(self) -> None:
        """Disconnect."""
        container, self._container, self._pictures = self._container, None, iter(())
        if container is not None:
            container.close()

    def _connect(self) -> InputContainer:
        """Return the open connection; raise what `open` may raise."""
        raise NotImplementedError

    def _stamp_s(self, raw: VideoFrame) -> float | None:
        """Return the server's own time of a picture, seconds."""
        return raw.time

    def _packet_stamp_s(self, packet: av.Packet[VideoStream]) -> float | None:
        """Return the server's own time of a picture that is not yet decoded, seconds."""
        if packet.pts is None or packet.time_base is None:
            return None
        return float(packet.pts * packet.time_base)

    def _decode(self, container: InputContainer) -> Iterator[VideoFrame]:
        stream = container.streams.video[0]
        decoder = Decoder(stream)
        warned: int | None = None  # pictures left out at the last warning; None before the first
        last_s = next_warning_s = time.monotonic()
        for packet in self._packets(container):
            for raw in decoder.decode(packet):
                last_s = time.monotonic()
                # those left out before the first whole picture are no loss
                warned = decoder.left_out if warned is None else warned
                yield raw
            now_s = time.monotonic()
            if warned is not None and decoder.left_out > warned and now_s > next_warning_s:
                _logger.warning(LEFT_OUT, self._name, decoder.left_out - warned)
                warned, next_warning_s = decoder.left_out, now_s + WARNING_INTERVAL_S
            if now_s - last_s > NO_PICTURE_S:
                raise TimeoutError(f"no good picture within {NO_PICTURE_S:.0f} s")

    def _packets(self, container: InputContainer) -> Iterator[av.Packet[VideoStream]]:
        import av

        stream = container.streams.video[0]
        packets = packets_of(container, stream)
        while True:
            began_s = time.monotonic()
            try:
                packet = next(packets, None)
            except av.FFmpegError as err:
                raise ConnectionError(f"the connection is lost: {libav_reason(err)}") from err
            # after a read that took too long, libav hands out what it has and fails at the next
            if time.monotonic() - began_s >= self._timeout_s:
                raise TimeoutError(f"nothing came for {self._timeout_s:.1f} s")
            if packet is None or not packet.size:  # PyAV ends with an empty packet
                return
            if self.on_packet is not None:
                self.on_packet(GrabbedPacket(packet, stream, self._packet_stamp_s(packet)))
            yield packet


def libav_reason(err: av.FFmpegError) -> str:
    """Return the reason in an error of libav, in words for a user."""
    if err.strerror == "Immediate exit requested":  # what libav calls a read that took too long
        return "no answer in time"
    return err.strerror or type(err).__name__
