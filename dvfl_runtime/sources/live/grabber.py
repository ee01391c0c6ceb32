"""Grabber: the small protocol between a live source and the device or connection it reads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from dvfl_runtime.sources.frame import Image

if TYPE_CHECKING:
    import av
    from av.video.stream import VideoStream


@dataclass(frozen=True, eq=False)
class Grabbed:
    """One picture as a grabber reads it.

    Attributes:
        image: (H, W, 3) uint8 RGB, or a function that makes it. An array is copied, so the next
            picture may be written into the same memory. The function is called only for a picture
            that is handed out, so a dropped one costs no conversion. It is called some pictures
            later, so its input must stay as it is.
        stamp_s: the device's own time of the picture, seconds from any origin; `None` if unknown.
    """

    image: Image | Callable[[], Image] = field(repr=False)
    stamp_s: float | None = None


@dataclass(frozen=True, eq=False)
class GrabbedPacket:
    """One compressed picture as a grabber receives it, before it is decoded.

    Attributes:
        packet: as it came.
        stream: that it belongs to, another one in each connection; open during the call only.
        stamp_s: the device's own time of the picture, on the clock of `Grabbed.stamp_s`.
    """

    packet: av.Packet[VideoStream]
    stream: VideoStream
    stamp_s: float | None = None


@runtime_checkable
class Grabber(Protocol):
    """Reads pictures from a camera or a connection; a `LiveSource` makes a source of it.

        class MyCamera:
            def open(self):
                self._device = my_sdk.connect("10.0.0.7")  # raises OSError while it is away

            def read(self):
                return Grabbed(self._device.next_rgb())  # raises OSError if it went away

            def close(self):
                self._device.disconnect()

        recognizer.stream(LiveSource("door", MyCamera()))

    All three are called in one thread, in turn: `open`, `read` until it fails, `close`, and the
    same again after a pause. Neither `open` nor `read` may block for longer than a few seconds:
    raise `TimeoutError` if a picture does not come in time.
    """

    def open(self) -> None:
        """Connect.

        Raises:
            OSError: (and so ConnectionError, TimeoutError) if it may work later.
            SourceError: if it can never work, such as with a wrong address. A grabber that has
                worked before is tried again nevertheless.
        """
        ...

    def read(self) -> Grabbed | None:
        """Return the next picture, or `None` at the regular end of the stream.

        Raises:
            OSError: if the connection is lost or no picture came in time.
        """
        ...

    def close(self) -> None:
        """Disconnect; also called after `open` has failed."""
        ...


@runtime_checkable
class PacketGrabber(Grabber, Protocol):
    """A grabber that receives compressed pictures, and shows them before it decodes them.

    Attributes:
        on_packet: called with each packet, in the thread that reads.
    """

    on_packet: Callable[[GrabbedPacket], object] | None
