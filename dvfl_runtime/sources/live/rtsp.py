"""RTSP cameras and servers, read by PyAV.

PyAV rather than OpenCV: it gives the stream's own timestamps, says why a connection failed, and has
time-outs, where OpenCV's FFmpeg backend waits 30 s and then returns False without a reason.

Experimental: tested against a server on loopback, not yet run with camera hardware.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Literal
from urllib.parse import urlsplit

from dvfl_runtime.errors import SourceError
from dvfl_runtime.errors.addresses import complete_address, shown
from dvfl_runtime.errors.checks import check_choice, check_number, wrong
from dvfl_runtime.sources.decoding.container import open_container
from dvfl_runtime.sources.live.stream import StreamGrabber, libav_reason
from dvfl_runtime.sources.web import READ_TIMEOUT_S

if TYPE_CHECKING:
    from av.container import InputContainer

# the only ones that libav may use for the connection, wherever a server redirects it
PROTOCOLS = "rtsp,rtp,srtp,udp,tcp,tls,http,https,httpproxy"


class RtspGrabber(StreamGrabber):
    """Reads an RTSP stream.

    Args:
        url: rtsp:// or rtsps://, with name and password if the server wants them.
        transport: "tcp" loses nothing; "udp" is for a network where late is worse than lost.
        read_timeout_s: the connection is given up after so long without data, seconds.

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
        super().__init__(check_address(url), read_timeout_s)
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
            return self._open_container(allowed_media_types="video")
        except (av.error.HTTPUnauthorizedError, av.error.HTTPForbiddenError) as err:
            raise SourceError(
                f"{name} refuses the connection ({libav_reason(err)}); check the name and the "
                "password: rtsp://NAME:PASSWORD@HOST/PATH"
            ) from err
        except av.error.HTTPNotFoundError as err:
            raise SourceError(f"{name}: {libav_reason(err)}; check the path of the stream") from err
        except av.FFmpegError as err:
            if isinstance(err, av.error.HTTPClientError) and self._has_no_video():
                raise SourceError(f"{name} has sound and no video; check its path") from err
            reason = _unknown_host(self._url) if err.errno == errno.EIO else ""
            raise ConnectionError(f"cannot connect: {reason or libav_reason(err)}") from err

    def _open_container(self, **options: str) -> InputContainer:
        import av

        try:
            options = {**self._options, **options}
            return open_container(self._url, options=options, timeout=self._timeout_s)
        except av.FFmpegError as err:
            err.args = err.args[:2]  # without the address, which holds the password
            raise

    def _has_no_video(self) -> bool:
        """Return whether the server offers other media alone, which its error may not tell."""
        import av

        try:
            with self._open_container() as container:
                return not container.streams.video
        except av.FFmpegError:
            return False


def check_address(url: str) -> str:
    """Return the address with name and password escaped, as libav and GStreamer read them.

    Raises:
        SourceError: if it names no host or an impossible port.
    """
    address = complete_address(url)
    if address is None:
        raise SourceError(f"{shown(url)} is not a complete address; pass rtsp://HOST:PORT/PATH")
    return address


def _unknown_host(address: str) -> str:
    """Return why the host name is unknown, which libav reports as EIO; "" if it is known."""
    import socket

    try:
        socket.getaddrinfo(urlsplit(address).hostname, None)
    except (socket.gaierror, UnicodeError) as err:  # UnicodeError: no name can be like that
        reason = getattr(err, "strerror", None) or "it is none"
        return f"the host name is not known ({reason})"
    return ""
