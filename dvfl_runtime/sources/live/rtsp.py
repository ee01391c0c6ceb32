"""RTSP cameras and servers, read by PyAV.

PyAV rather than OpenCV: it gives the stream's own timestamps, says why a connection failed, and has
time-outs, where OpenCV's FFmpeg backend waits 30 s and then returns False without a reason.
"""

from __future__ import annotations

import errno
import logging
import time
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Literal
from urllib.parse import urlsplit

from dvfl_runtime.errors import SourceError
from dvfl_runtime.errors.addresses import complete_address, shown
from dvfl_runtime.errors.checks import check_choice, check_number, wrong
from dvfl_runtime.errors.packages import MEDIA, needed
from dvfl_runtime.sources.decoding.container import open_container, packets_of
from dvfl_runtime.sources.decoding.decoder import Decoder
from dvfl_runtime.sources.decoding.losses import Losses
from dvfl_runtime.sources.decoding.picture import Orientations, upright_rgb
from dvfl_runtime.sources.live.grabber import Grabbed

if TYPE_CHECKING:
    import av
    from av.container import InputContainer
    from av.video.frame import VideoFrame

_logger = logging.getLogger(__name__)

READ_TIMEOUT_S = 4.0  # a server that hangs is noticed within 5 s
NO_PICTURE_S = 30.0  # some cameras send a key frame only every 10 s or 20 s

QUIET_S = 60.0  # between two warnings of one connection
LEFT_OUT = "%s: %d pictures that would show remains of others were left out, after lost packets"

# to which libav connects for it, wherever a server sends it
PROTOCOLS = "rtsp,rtp,srtp,udp,tcp,tls,http,https,httpproxy"


class StreamGrabber:
    """Reads the video of a connection, which a subclass makes.

    Pictures that show the remains of others, after lost packets or a decoding error, are left out
    (see `decoding`). The size may change from picture to picture.

    Args:
        url: the address.
        read_timeout_s: the connection is given up when nothing came for so long, seconds.

    Raises:
        DvflError: if PyAV is missing.
    """

    def __init__(self, url: str, read_timeout_s: float = READ_TIMEOUT_S) -> None:
        _require_av()
        self._url = url
        self._name = shown(url)
        self._timeout_s = read_timeout_s
        self._container: InputContainer | None = None
        self._orientations = Orientations()
        self._pictures: Iterator[VideoFrame] = iter(())

    @property
    def codec(self) -> str:
        """Libav's name of the codec; only while it is open."""
        assert self._container is not None
        return self._container.streams.video[0].codec_context.name

    def open(self) -> None:
        """Connects.

        Raises:
            SourceError: if the server does not know the path, refuses the password, or sends
                nothing that can be decoded.
            OSError: if it cannot be reached or does not answer in time.
        """
        import av

        self._container = self._connect()
        streams = self._container.streams.video
        if not streams or streams[0].codec_context is None:
            raise SourceError(
                f"{self._name} has no video stream that can be decoded; check its path"
            )
        # Threads over frames would hold a picture back each, and with threads over slices FFmpeg
        # does not notice lost ones: of 48 damaged pictures with four slices it missed 47.
        codec = streams[0].codec_context
        codec.thread_type, codec.thread_count = "NONE", 1
        self._pictures = self._decode(self._container, av.FFmpegError)

    def read(self) -> Grabbed:
        """Returns the next good picture.

        Raises:
            OSError: if the stream ended, was lost, or nothing came in time.
        """
        for raw in self._pictures:
            return Grabbed(
                partial(upright_rgb, raw, self._orientations.of(raw)), self._stamp_s(raw)
            )
        raise ConnectionError("the server ended the stream")

    def close(self) -> None:
        """Disconnects."""
        container, self._container, self._pictures = self._container, None, iter(())
        if container is not None:
            container.close()

    def _connect(self) -> InputContainer:
        """Returns the open connection; raises what `open` may raise."""
        raise NotImplementedError

    def _stamp_s(self, raw: VideoFrame) -> float | None:
        """Returns the server's own time of a picture, seconds."""
        return raw.time

    def _decode(
        self, container: InputContainer, errors: type[av.FFmpegError]
    ) -> Iterator[VideoFrame]:
        stream = container.streams.video[0]
        decoder = Decoder(stream.codec_context, errors, Losses(stream))
        packets = packets_of(container, stream)
        told: int | None = None
        last_s = quiet_until_s = time.monotonic()
        while True:
            asked_s = time.monotonic()
            try:
                packet = next(packets, None)
            except errors as err:
                raise ConnectionError(f"the connection is lost: {_reason(err)}") from err
            # libav hands out what it still held when a read took too long, and fails at the next
            if time.monotonic() - asked_s >= self._timeout_s:
                raise TimeoutError(f"nothing came for {self._timeout_s:.1f} s")
            if packet is None or not packet.size:  # PyAV ends with an empty packet
                return
            for raw in decoder.decode(packet):
                last_s = time.monotonic()
                told = decoder.left_out if told is None else told  # before the first one is no loss
                yield raw
            if told is not None and decoder.left_out > told and time.monotonic() > quiet_until_s:
                _logger.warning(LEFT_OUT, self._name, decoder.left_out - told)
                told, quiet_until_s = decoder.left_out, time.monotonic() + QUIET_S
            if time.monotonic() - last_s > NO_PICTURE_S:
                raise TimeoutError(f"no good picture within {NO_PICTURE_S:.0f} s")


class RtspGrabber(StreamGrabber):
    """Reads an RTSP stream.

    Args:
        url: rtsp:// or rtsps://, with name and password if the server wants them.
        transport: "tcp" loses nothing; "udp" is for a network where late is worse than lost.
        read_timeout_s: the connection is given up when nothing came for so long, seconds.

    Raises:
        SourceError: if the URL has no host or a wrong port.
        DvflError: if PyAV is missing.
        ArgumentError: if another argument is wrong.
    """

    def __init__(
        self,
        url: str,
        *,
        transport: Literal["tcp", "udp"] = "tcp",
        read_timeout_s: float = READ_TIMEOUT_S,
    ) -> None:
        check_choice("transport", transport, ("tcp", "udp"))
        check_number("read_timeout_s", read_timeout_s, above=0)
        if not isinstance(url, str):  # its value may hold a password
            raise wrong("url", "an address, rtsp://HOST/PATH", type(url))
        super().__init__(checked(url), read_timeout_s)
        self._options = {
            "protocol_whitelist": PROTOCOLS,
            "rtsp_transport": transport,
            # measured on loopback: 0.4 s to the first picture, and 1.2 s with libav's guess of the
            # frame rate, which live sources do not need
            "fpsprobesize": "0",
        }

    def _connect(self) -> InputContainer:
        import av

        name = self._name
        try:
            return self._ask(allowed_media_types="video")
        except (av.error.HTTPUnauthorizedError, av.error.HTTPForbiddenError) as err:
            raise SourceError(
                f"{name} refuses the connection ({_reason(err)}); check the name and the password: "
                "rtsp://NAME:PASSWORD@HOST/PATH"
            ) from err
        except av.error.HTTPNotFoundError as err:
            raise SourceError(f"{name}: {_reason(err)}; check the path of the stream") from err
        except av.FFmpegError as err:
            if isinstance(err, av.error.HTTPClientError) and self._has_no_video():
                raise SourceError(f"{name} has sound and no video; check its path") from err
            reason = _unknown_host(self._url) if err.errno == errno.EIO else ""
            raise ConnectionError(f"cannot connect: {reason or _reason(err)}") from err

    def _ask(self, **options: str) -> InputContainer:
        import av

        try:
            options = {**self._options, **options}
            return open_container(self._url, options=options, timeout=self._timeout_s)
        except av.FFmpegError as err:
            err.args = err.args[:2]  # what follows is the address, with the password
            raise

    def _has_no_video(self) -> bool:
        """Says whether the server offers other media alone, which it may not say by itself."""
        import av

        try:
            with self._ask() as container:
                return not container.streams.video
        except av.FFmpegError:
            return False


def checked(url: str) -> str:
    """Returns the address with name and password in escapes, as libav and GStreamer read them.

    Raises:
        SourceError: unless it names a host and, if at all, a possible port.
    """
    address = complete_address(url)
    if address is None:
        raise SourceError(f"{shown(url)} is not a complete address; pass rtsp://HOST:PORT/PATH")
    return address


def _unknown_host(address: str) -> str:
    """Returns why the name of the host is not known, "" if it is: libav says EIO of that."""
    import socket

    try:
        socket.getaddrinfo(urlsplit(address).hostname, None)
    except (socket.gaierror, UnicodeError) as err:  # UnicodeError: no name can be like that
        reason = getattr(err, "strerror", None) or "it is none"
        return f"the host name is not known ({reason})"
    return ""


def _reason(err: av.FFmpegError) -> str:
    if err.strerror == "Immediate exit requested":  # what libav calls a read that took too long
        return "no answer in time"
    return err.strerror or type(err).__name__


def _require_av() -> None:
    with needed("reading streams", *MEDIA):
        import av  # noqa: F401
