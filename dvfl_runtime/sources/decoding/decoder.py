"""Decodes the whole pictures of a stream; damaged ones are left out and counted.

After lost packets, a decoding error or a start in the middle of a stream, decoders go on with what
they have, and their pictures show remains of others. Whole pictures come again from a keyframe on,
or where an H.264 stream has refreshed the picture bit by bit.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dvfl_runtime.sources.decoding.loss import LossDetector
from dvfl_runtime.sources.decoding.picture import MAX_PIXELS
from dvfl_runtime.sources.timestamps import REORDER_DEPTH

if TYPE_CHECKING:
    import av
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

MISSING = "a part of it is missing, or it is cut off"
BEGINS = "it begins between two key pictures"

# Decoders that mark keyframes; all others are trusted from their first picture on.
MARK_KEYFRAMES = frozenset({
    *("av1", "flv", "h263", "h264", "hevc", "libdav1d", "mpeg1video", "mpeg2video", "mpeg4"),
    *("msmpeg4", "msmpeg4v1", "msmpeg4v2", "theora", "vc1", "vp8", "vp9", "vvc"),
    *("wmv1", "wmv2", "wmv3"),
})  # fmt: skip
# Decoders that report lost data only if told to treat every fault as an error, even one in the side
# data of a picture. All others mark the pictures that they had to conceal.
SILENT = frozenset({"hevc", "mjpeg", "vvc"})


@dataclass(frozen=True, eq=False)
class _PacketInfo:
    """Travels with a packet through the decoder to its picture; PyAV needs one object for each."""

    number: int  # in decode order
    is_keyframe: bool


class Decoder:
    """Returns the whole pictures of one stream, in the order in which they are shown.

    With threads over frames, FFmpeg reports an error some packets later, if at all. So with threads
    the decoder gives up at the first doubt, and the caller reads again without threads.

    Args:
        stream: the stream, its decoder not yet opened and the number of threads chosen.
        path: the file that it is read from, if it is one.
        first: number of the first packet that will be given.
        strict: any fault that a silent decoder finds is damage; otherwise, only what it cannot
            conceal.

    Attributes:
        left_out: packets whose pictures were left out, counted when the wait for a whole one ends.
        reason: why the first of them were.
    """

    def __init__(
        self,
        stream: VideoStream,
        path: Path | None = None,
        *,
        first: int = 0,
        strict: bool = True,
    ) -> None:
        import av

        codec = stream.codec_context
        self.left_out = 0
        self.reason = ""
        self._is_doubtful = False  # data were lost, or may have been
        self._codec = codec
        self._error = av.FFmpegError
        self._losses = LossDetector(stream, path)
        self._next = first
        self._marks_keyframes = codec.name in MARK_KEYFRAMES
        self._is_exact = codec.thread_count == 1
        self._max_delay = REORDER_DEPTH + codec.thread_count  # packets until a picture comes out
        # Pictures from this packet on are damaged, until one is found that is whole.
        self._damaged_from: int | None = first if self._marks_keyframes else None
        self._later_damage: list[int] = []  # packets of further damage since then
        self._skipped: list[int] = []  # packets of pictures that came out since then
        self._later_reason = ""  # what was wrong while it waited
        self._is_fresh = True  # the decoder has met no damage since it was flushed
        self._keyframe = first  # packet of the last keyframe
        self._keyframe_pts: int | None = None
        self._leading: set[int] = set()  # packets after it that are shown before it
        self._held: list[VideoFrame] = []  # whole, unless one before them in decode order is not
        self._pending: set[int] = set()  # packets whose pictures have not come out yet
        codec.copy_opaque = True
        limit = {"max_pixels": str(MAX_PIXELS)}
        is_strict = strict and codec.name in SILENT
        codec.options = {"err_detect": "explode", **limit} if is_strict else limit

    @property
    def has_given_up(self) -> bool:
        """Whether no more pictures come, because with threads it is unknown which are whole."""
        return self._is_doubtful and not self._is_exact

    def decode(self, packet: av.Packet[VideoStream]) -> list[VideoFrame]:
        """Return the whole pictures that come out when this packet is given."""
        number, self._next = self._next, self._next + 1
        self._follow_keyframe(number, packet)
        loss = self._losses.loss_at(packet)
        whole = self._begin_damage(number, MISSING) if loss else []
        if loss == "inside":
            return whole
        if self._damaged_from is not None and not self._is_fresh and packet.is_keyframe:
            whole += self._accept(self._flush())
        packet.opaque = _PacketInfo(number, packet.is_keyframe)
        try:
            pictures = self._codec.decode(packet)
        except self._error as err:
            if self._is_exact and self._damaged_from is not None and number in self._leading:
                self._skipped.append(number)
                return whole
            return whole + self._begin_damage(number, err.strerror or type(err).__name__)
        if not packet.is_discard:
            self._pending.add(number)
        elif packet.is_keyframe and self._damaged_from is not None:  # decoded, and never shown
            self._end_damage(number)
        return whole + self._accept(pictures)

    def finish(self) -> list[VideoFrame]:
        """Return the whole pictures that are still inside when the stream is over."""
        whole = self._accept(self._flush())
        self._give_up(self._pending)
        if not self.has_given_up:
            whole += self._held
        if self._damaged_from is not None:
            self.reason = self.reason or self._later_reason
            self._count_left_out(self._damaged_from, self._next)
        return whole

    def keyframe_packet(self, raw: VideoFrame) -> int | None:
        """Return the number of a picture's packet if decoding can begin there."""
        return self._info(raw).number if raw.key_frame else None

    def _follow_keyframe(self, number: int, packet: av.Packet[VideoStream]) -> None:
        """Note keyframes and their leading pictures: those that follow one and are shown before it.

        A leading picture may refer to what is before the keyframe. No later picture refers to it.
        """
        if packet.is_keyframe:
            self._keyframe, self._keyframe_pts, self._leading = number, packet.pts, set()
        elif packet.pts is not None and self._keyframe_pts is not None:
            # a lower timestamp further on is that of a clock that restarted
            is_near = number <= self._keyframe + REORDER_DEPTH
            if is_near and packet.pts < self._keyframe_pts:
                self._leading.add(number)

    def _accept(self, pictures: list[VideoFrame]) -> list[VideoFrame]:
        """Take decoded pictures; return those that are certainly whole."""
        for i, raw in enumerate(pictures):
            info = self._info(raw)
            self._pending.discard(info.number)
            if raw.is_corrupt:
                return self._begin_damage(info.number, "a picture is incomplete", pictures[i + 1 :])
            if self._damaged_from is not None:
                if not self._is_whole_from(raw, info):
                    self._skipped.append(info.number)
                    continue
                damaged = self._end_damage(info.number)
                if damaged is not None:
                    return self._begin_damage(damaged, MISSING, pictures[i:])
            self._held.append(raw)
        return self._release()

    def _release(self) -> list[VideoFrame]:
        """Return the held pictures that no later packet can turn out to damage.

        A picture may refer to one that is shown after it and comes out after it, so it waits for
        the pictures of all packets before its own. Some packets never give one: they are given up.
        """
        self._give_up({n for n in self._pending if n < self._next - self._max_delay})
        if self.has_given_up:
            return []
        oldest = min(self._pending, default=self._next)
        late = (i for i, raw in enumerate(self._held) if self._info(raw).number > oldest)
        count = next(late, len(self._held))
        released, self._held = self._held[:count], self._held[count:]
        return released

    def _give_up(self, numbers: set[int]) -> None:
        """Note that these packets give no picture."""
        self._is_doubtful |= bool(numbers)
        self._pending = self._pending - numbers
        # decoders leave out leading pictures that refer to lost ones
        if self.reason and self._damaged_from is None:
            self.left_out += len(numbers & self._leading)

    def _begin_damage(
        self, number: int, reason: str, pictures: list[VideoFrame] | None = None
    ) -> list[VideoFrame]:
        """Note that pictures are damaged from a packet on; return the whole ones before it.

        Args:
            number: number of the packet.
            reason: what is wrong.
            pictures: pictures that came out of the decoder and were not yet accepted.
        """
        self._is_doubtful = True
        if not self._is_exact:
            return []
        if self._damaged_from is not None:
            self._later_reason = self._later_reason or reason
            self._is_fresh = False
            self._later_damage.append(number)
            return self._accept(pictures or [])
        self.reason = self.reason or reason
        inside = [*self._held, *(pictures or []), *self._flush()]
        number = min([number, *(self._info(raw).number for raw in inside if raw.is_corrupt)])
        self._damaged_from, self._held = number, []
        self._skipped = [n for raw in inside if (n := self._info(raw).number) >= number]
        self._pending.clear()
        return [raw for raw in inside if self._info(raw).number < number]

    def _is_whole_from(self, raw: VideoFrame, info: _PacketInfo) -> bool:
        """Return whether this picture and all after it, in both orders, are whole."""
        if raw.key_frame or (info.is_keyframe and not self._marks_keyframes):
            return True
        # after a flush, FFmpeg's H.264 decoder shows nothing before the recovery point
        return self._codec.name == "h264" and self._is_fresh

    def _end_damage(self, number: int) -> int | None:
        """End the wait with this packet; return the first packet after it that is damaged."""
        assert self._damaged_from is not None
        self._count_left_out(self._damaged_from, number)
        later = [n for n in self._later_damage if n > number]
        self._damaged_from, self._later_damage, self._skipped = None, [], []
        return min(later, default=None)

    def _count_left_out(self, begin: int, end: int) -> None:
        """Count the pictures that were left out between two packets, and those shown later."""
        count = end - begin + sum(n > end for n in self._skipped)
        self.left_out += count
        if count:
            self.reason = self.reason or BEGINS

    def _flush(self) -> list[VideoFrame]:
        """Return the pictures inside the decoder and reset it."""
        try:
            pictures = self._codec.decode(None)
        except self._error:
            self._is_doubtful = True
            pictures = []
        self._codec.flush_buffers()
        self._is_fresh = True
        return pictures

    def _info(self, raw: VideoFrame) -> _PacketInfo:
        info = raw.opaque
        return info if isinstance(info, _PacketInfo) else _PacketInfo(self._next - 1, raw.key_frame)


def packet_of(raw: VideoFrame) -> int | None:
    """Return the number of the packet that became a picture; `None` if it is not known."""
    return raw.opaque.number if isinstance(raw.opaque, _PacketInfo) else None
