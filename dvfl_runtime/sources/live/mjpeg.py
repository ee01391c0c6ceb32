"""Cameras that send MJPEG over http:// and https://.

Experimental: tested against a server on loopback, not yet run with camera hardware.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from dvfl_runtime.errors import SourceError
from dvfl_runtime.sources.decoding.container import open_container
from dvfl_runtime.sources.live.stream import NO_PICTURE_S, StreamGrabber
from dvfl_runtime.sources.web import READ_TIMEOUT_S, failure_reason, request

if TYPE_CHECKING:
    from http.client import HTTPResponse

    import av
    from av.container import InputContainer
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream


class MjpegGrabber(StreamGrabber):
    """Reads a camera that sends one JPEG picture after another (multipart/x-mixed-replace).

    Args:
        url: http:// or https://, with name and password if the camera wants them.

    Raises:
        DvflError: if PyAV is missing.
    """

    _body: _Body | None = None

    def _connect(self) -> InputContainer:
        import av

        answer = request(self._url)
        try:
            if not is_mjpeg(answer):
                raise SourceError(
                    f"{self._name} sends {answer.headers.get_content_type()} and no pictures one "
                    "after another (multipart/x-mixed-replace); open it again if it is a file"
                )
            options = {"protocol_whitelist": "none", "fpsprobesize": "0"}
            self._body = _Body(answer)
            return open_container(self._body, format="mpjpeg", options=options)
        except BaseException as err:
            answer.close()
            if isinstance(err, av.FFmpegError) and not isinstance(err, OSError):
                raise ConnectionError(f"no pictures come: {err.strerror}") from err
            raise

    def close(self) -> None:
        """Disconnect."""
        super().close()
        if self._body is not None:  # PyAV does not close it
            self._body.close()

    def _stamp_s(self, raw: VideoFrame) -> float | None:
        assert self._body is not None
        self._body.picture_s = time.monotonic()
        return None  # libav counts 25 a second, at whatever rate they arrive

    def _packet_stamp_s(self, packet: av.Packet[VideoStream]) -> float | None:
        return None


class _Body:
    """The body of an answer, handed to libav as it arrives.

    Attributes:
        picture_s: when the last picture was found in it, seconds of `time.monotonic`.
    """

    def __init__(self, answer: HTTPResponse) -> None:
        self._answer = answer
        self.picture_s = time.monotonic()

    def read(self, size: int) -> bytes:
        from http.client import HTTPException

        if time.monotonic() - self.picture_s > NO_PICTURE_S:  # libav would search for ever
            raise TimeoutError(f"no good picture within {NO_PICTURE_S:.0f} s")
        try:
            return self._answer.read1(size)
        except TimeoutError as err:
            raise TimeoutError(f"nothing came for {READ_TIMEOUT_S:.1f} s") from err
        except (OSError, HTTPException) as err:
            raise ConnectionError(f"the connection is lost: {failure_reason(err)}") from err

    def close(self) -> None:
        self._answer.close()


def is_mjpeg(answer: HTTPResponse) -> bool:
    """Return whether an answer is a camera's and not a file."""
    return answer.headers.get_content_maintype() == "multipart"
