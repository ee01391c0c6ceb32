"""Where packets of a stream are missing, as far as its container or its codec tells."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from dvfl_runtime.sources.decoding.h264 import FrameNumbers

if TYPE_CHECKING:
    import av
    from av.video.stream import VideoStream

SYNC = 0x47  # the first byte of each packet of a transport stream
# sizes of such packets, and where that byte is: plain, after times (.m2ts), with check bytes
LAYOUTS = ((188, 0), (192, 4), (204, 0))
NEARBY = 3  # FFmpeg marks a packet that is up to two before the damaged one
MOST_BYTES = 16 << 20  # of one picture, to be looked through

Loss = Literal["", "before", "inside"]


class Losses:
    """Follows the packets of one stream and finds where something is missing.

    FFmpeg marks a packet of a transport stream when the counters around it do not fit: the damage
    comes after it, or there is none, where two recordings were joined. So the file is looked at
    itself, and of a stream that is no file the packets that follow are taken for damaged. In other
    containers the marked packet is the damaged one.

    Args:
        stream: the stream.
        path: the file that it is read from, if it is one.
    """

    def __init__(self, stream: VideoStream, path: Path | None = None) -> None:
        codec = stream.codec_context
        self._numbers = FrameNumbers(codec.extradata or b"") if codec.name == "h264" else None
        self._is_transport = stream.container.format.name == "mpegts"
        self._path, self._id = path, stream.id
        self._nearby = 0  # packets that are still looked at
        self._ended = False  # the packet before was the last one before a break

    def of(self, packet: av.Packet[VideoStream]) -> Loss:
        """Returns whether something is missing "before" this packet, or "inside" it, or ""."""
        before, self._ended = self._ended, False
        if self._numbers is not None:
            before |= self._numbers.gap_before(bytes(packet))
        if packet.is_corrupt and not self._is_transport:
            return "inside"
        if packet.is_corrupt:
            self._nearby = NEARBY
        if self._nearby:
            seen = self._seen(packet)
            self._nearby -= 1
            if seen == "broken":
                return "inside"
            self._ended = seen == "last"
        return "before" if before else ""

    def _seen(self, packet: av.Packet[VideoStream]) -> str:
        if self._path is not None and packet.pos is not None:
            return look(self._path, self._id, packet.pos)
        return "whole" if self._nearby == NEARBY else "broken"


def look(path: Path, stream_id: int, position: int) -> str:
    """Looks at the packets of a transport stream that carry one picture (ISO/IEC 13818-1, 2.4.3).

    Args:
        path: the file.
        stream_id: the stream's identifier (PID).
        position: where its first packet begins, bytes.

    Returns:
        "whole" if the counters go on up to the next picture; "last" if it is whole and the counter
        breaks after it; "broken" if a part of it may be missing.
    """
    try:
        with path.open("rb") as file:
            file.seek(position)
            data = file.read(MOST_BYTES)
    except OSError:
        return "broken"
    fits = (lo for lo in LAYOUTS if data[lo[1] : lo[1] + lo[0] + 1 : lo[0]] == bytes([SYNC, SYNC]))
    size, first = next(fits, LAYOUTS[0])
    counter: int | None = None
    filled = True  # the packet before had no stuffing: the picture may go on
    for at in range(first, len(data) - 187, size):
        head = data[at : at + 6]
        if head[0] != SYNC:
            return "broken"
        if (head[1] & 31) << 8 | head[2] != stream_id or not head[3] & 16:
            continue
        now, begins = head[3] & 15, bool(head[1] & 64)
        if counter is not None and now != counter:
            follows = now == (counter + 1) % 16
            if begins:
                return "whole" if follows else "broken" if filled else "last"
            if not follows:
                return "broken"
        elif counter is not None and begins:  # sixteen packets are missing, or it is sent twice
            return "broken" if filled else "last"
        counter = now
        only_a_clock = head[4] == 7 and bool(head[5] & 16)
        filled = not head[3] & 32 or only_a_clock
    return "whole"
