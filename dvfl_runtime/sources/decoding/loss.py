"""Finds where packets of a stream are missing, as far as its container or its codec tells."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from dvfl_runtime.sources.decoding.h264 import FrameNumbers

if TYPE_CHECKING:
    import av
    from av.video.stream import VideoStream

SYNC_BYTE = 0x47  # the first byte of each packet of a transport stream
# Their size, and where that byte is in it: plain, after a time (.m2ts), before check bytes
PACKET_LAYOUTS = ((188, 0), (192, 4), (204, 0))
NEARBY = 3  # FFmpeg marks a packet that is up to two before the damaged one
MAX_PICTURE_BYTES = 16 << 20  # the search in the file ends after so many

Loss = Literal["", "before", "inside"]


class LossDetector:
    """Follows the packets of one stream and finds where data are missing.

    In most containers the packet that FFmpeg marks as corrupt is the damaged one. In a transport
    stream it marks one where the continuity counters do not fit. The damage comes after that
    packet, or there is none because two recordings were joined. So the detector checks the counters
    in the file itself; where there is no file, it takes the packets that follow for damaged.

    Args:
        stream: the stream.
        path: the file that it is read from, if it is one.
    """

    def __init__(self, stream: VideoStream, path: Path | None = None) -> None:
        codec = stream.codec_context
        self._numbers = FrameNumbers(codec.extradata or b"") if codec.name == "h264" else None
        self._is_transport = stream.container.format.name == "mpegts"
        self._path, self._pid = path, stream.id
        self._nearby = 0  # packets still to check after a marked one
        self._is_break_next = False  # data are missing after the packet before

    def loss_at(self, packet: av.Packet[VideoStream]) -> Loss:
        """Return whether data are missing "before" this packet, "inside" it, or "" if neither."""
        before, self._is_break_next = self._is_break_next, False
        if self._numbers is not None:
            before |= self._numbers.gap_before(bytes(packet))
        if packet.is_corrupt and not self._is_transport:
            return "inside"
        if packet.is_corrupt:
            self._nearby = NEARBY
        if self._nearby:
            state = self._state_of(packet)
            self._nearby -= 1
            if state == "broken":
                return "inside"
            self._is_break_next = state == "last"
        return "before" if before else ""

    def _state_of(self, packet: av.Packet[VideoStream]) -> str:
        if self._path is not None and packet.pos is not None:
            return transport_state(self._path, self._pid, packet.pos)
        return "whole" if self._nearby == NEARBY else "broken"


def transport_state(path: Path, pid: int, position: int) -> Literal["whole", "last", "broken"]:
    """Check the transport stream packets that carry one picture (ISO/IEC 13818-1, 2.4.3).

    Args:
        path: the file.
        pid: identifier of the stream.
        position: where the first of the packets begins, bytes.

    Returns:
        "whole" if the counters go on up to the next picture; "last" if the picture is whole and the
        counter breaks after it; "broken" if a part of it may be missing.
    """
    try:
        with path.open("rb") as file:
            file.seek(position)
            data = file.read(MAX_PICTURE_BYTES)
    except OSError:
        return "broken"
    two_syncs = bytes([SYNC_BYTE, SYNC_BYTE])
    fitting = ((n, at) for n, at in PACKET_LAYOUTS if data[at : at + n + 1 : n] == two_syncs)
    size, first = next(fitting, PACKET_LAYOUTS[0])
    last_counter: int | None = None
    may_continue = True  # the packet before has no stuffing, so the picture may go on
    for at in range(first, len(data) - 187, size):
        head = data[at : at + 6]
        if head[0] != SYNC_BYTE:
            return "broken"
        if (head[1] & 31) << 8 | head[2] != pid or not head[3] & 16:  # no payload of this stream
            continue
        counter, begins = head[3] & 15, bool(head[1] & 64)
        if last_counter is not None and counter != last_counter:
            follows = counter == (last_counter + 1) % 16
            if begins:
                return "whole" if follows else "broken" if may_continue else "last"
            if not follows:
                return "broken"
        elif last_counter is not None and begins:  # sixteen packets are missing, or it is repeated
            return "broken" if may_continue else "last"
        last_counter = counter
        has_clock_alone = head[4] == 7 and bool(head[5] & 16)
        may_continue = not head[3] & 32 or has_clock_alone
    return "whole"
