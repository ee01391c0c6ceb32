"""TimedPacket: a compressed picture on its way to the decoder, for those who keep it as it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    import av
    from av.video.stream import VideoStream


@dataclass(frozen=True, eq=False)
class TimedPacket:
    """One compressed picture of a source.

    Attributes:
        packet: as it came; it stays valid.
        stream: that it belongs to, another one in each connection; open during the call only.
        time_s: when its picture is shown, on the clock of the source's frames, seconds.
    """

    packet: av.Packet[VideoStream]
    stream: VideoStream
    time_s: float

    @property
    def decode_s(self) -> float:
        """When it has to be decoded, on the same clock; earlier where pictures refer ahead."""
        pts, dts, base = self.packet.pts, self.packet.dts, self.packet.time_base
        if pts is None or dts is None or base is None:
            return self.time_s
        return self.time_s - float((pts - dts) * base)


PacketObserver: TypeAlias = Callable[[TimedPacket], object]
