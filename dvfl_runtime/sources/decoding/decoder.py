"""Decoding of whole pictures: what shows remains of other pictures is left out, and counted.

After lost packets, a decoding error or a start in the middle of a stream, decoders go on with what
they have, and their pictures show it. Whole ones come again from a key picture on, or where an
H.264 stream has refreshed the picture bit by bit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from dvfl_runtime.sources.decoding.losses import Losses
from dvfl_runtime.sources.decoding.picture import MAX_PIXELS
from dvfl_runtime.sources.timestamps import REORDER_DEPTH

if TYPE_CHECKING:
    import av
    from av.video.codeccontext import VideoCodecContext
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

MISSING = "a part of it is missing, or it is cut off"
BEGINS = "it begins between two key pictures"

# Decoders that mark key pictures; all others are trusted from the first picture on.
MARK_KEYS = frozenset(
    {
        *("av1", "flv", "h263", "h264", "hevc", "libdav1d", "mpeg1video", "mpeg2video", "mpeg4"),
        *("msmpeg4", "msmpeg4v1", "msmpeg4v2", "theora", "vc1", "vp8", "vp9", "vvc"),
        *("wmv1", "wmv2", "wmv3"),
    }
)
# Decoders that tell of lost data only where any fault is an error to them, be it one in a note
# beside the picture. The others mark the pictures that they had to mend.
SILENT = frozenset({"hevc", "mjpeg", "vvc"})


@dataclass(frozen=True, eq=False)
class _Sent:
    """Travels with a packet through the decoder to its picture; PyAV wants one object for each."""

    number: int  # in decode order
    is_key: bool


class Decoder:
    """Gives the whole pictures of one stream, in the order in which they are shown.

    With threads over frames a decoder tells of an error some packets later, if at all. Then the
    first doubt is the end: no picture comes any more, and the caller reads again without threads.

    Args:
        codec: the decoder, not yet opened, its threads chosen.
        errors: what it raises for a packet that it cannot decode.
        losses: where packets are missing.
        first: number of the first packet that will be given.
        strict: a fault that a silent decoder finds is damage; without, only what it cannot mend.

    Attributes:
        left_out: packets whose pictures were left out, counted when the wait for a whole one ends.
        reason: why the first of them were.
        doubtful: something was lost, or may have been.
    """

    def __init__(
        self,
        codec: VideoCodecContext,
        errors: type[av.FFmpegError],
        losses: Losses,
        *,
        first: int = 0,
        strict: bool = True,
    ) -> None:
        self.left_out = 0
        self.reason = ""
        self.doubtful = False
        self._codec = codec
        self._errors = errors
        self._losses = losses
        self._next = first
        self._marks_keys = codec.name in MARK_KEYS
        self._is_exact = codec.thread_count == 1
        self._depth = REORDER_DEPTH + codec.thread_count
        # Pictures from this packet on are not whole, until one is found that is.
        self._lost: int | None = first if self._marks_keys else None
        self._again: list[int] = []  # packets of further damage since then
        self._passed: list[int] = []  # packets of pictures that came out since then
        self._fault = ""  # what was wrong while it waited
        self._is_fresh = True  # the decoder has met no damage since it began anew
        self._key = first  # packet of the last key picture
        self._key_pts: int | None = None  # when it is shown
        self._leading: set[int] = set()  # packets after it that are shown before it
        self._held: list[VideoFrame] = []  # whole, unless one before them in decode order is not
        self._unseen: set[int] = set()  # packets whose pictures did not come out yet
        codec.copy_opaque = True
        limit = {"max_pixels": str(MAX_PIXELS)}
        is_strict = strict and codec.name in SILENT
        codec.options = {"err_detect": "explode", **limit} if is_strict else limit

    def decode(self, packet: av.Packet[VideoStream]) -> list[VideoFrame]:
        """Returns the whole pictures that come out when this packet is given."""
        number, self._next = self._next, self._next + 1
        self._follow_key(number, packet)
        loss = self._losses.of(packet)
        whole = self._lose(number, MISSING) if loss else []
        if loss == "inside":
            return whole
        if self._lost is not None and not self._is_fresh and packet.is_keyframe:
            whole += self._take(self._empty())
        packet.opaque = _Sent(number, packet.is_keyframe)
        try:
            pictures = self._codec.decode(packet)
        except self._errors as err:
            if self._is_exact and self._lost is not None and number in self._leading:
                self._passed.append(number)
                return whole
            return whole + self._lose(number, err.strerror or type(err).__name__)
        if not packet.is_discard:
            self._unseen.add(number)
        elif packet.is_keyframe and self._lost is not None:  # decoded, and never shown
            self._found(number)
        return whole + self._take(pictures)

    def finish(self) -> list[VideoFrame]:
        """Returns the whole pictures that are still inside when the stream is over."""
        whole = self._take(self._empty())
        self._give_up(self._unseen)
        if self._is_exact or not self.doubtful:
            whole += self._held
        if self._lost is not None:
            self.reason = self.reason or self._fault
            self._count(self._next)
        return whole

    def key_of(self, raw: VideoFrame) -> int | None:
        """Returns the number of its packet if a picture is one to begin with."""
        return self._sent(raw).number if raw.key_frame else None

    def _follow_key(self, number: int, packet: av.Packet[VideoStream]) -> None:
        """Notes key pictures, and those that follow one and are shown before it.

        The latter may refer to what is before the key picture. No picture after it refers to them.
        """
        if packet.is_keyframe:
            self._key, self._key_pts, self._leading = number, packet.pts, set()
        elif packet.pts is not None and self._key_pts is not None:
            near = number <= self._key + REORDER_DEPTH  # further on the times have begun anew
            if near and packet.pts < self._key_pts:
                self._leading.add(number)

    def _take(self, pictures: list[VideoFrame]) -> list[VideoFrame]:
        """Takes what came out; returns the pictures that are whole for sure."""
        for i, raw in enumerate(pictures):
            sent = self._sent(raw)
            self._unseen.discard(sent.number)
            if raw.is_corrupt:
                return self._lose(sent.number, "a picture is incomplete", pictures[i + 1 :])
            if self._lost is not None:
                if not self._is_start(raw, sent):
                    self._passed.append(sent.number)
                    continue
                damage = self._found(sent.number)
                if damage is not None:
                    return self._lose(damage, MISSING, pictures[i:])
            self._held.append(raw)
        return self._released()

    def _released(self) -> list[VideoFrame]:
        """Returns the pictures to which nothing can happen any more.

        A picture may refer to one that is shown after it and comes out after it, so it waits for
        all that were given before it. Some packets never give a picture: those are given up.
        """
        self._give_up({n for n in self._unseen if n < self._next - self._depth})
        if self.doubtful and not self._is_exact:
            return []
        oldest = min(self._unseen, default=self._next)
        count = next(
            (i for i, raw in enumerate(self._held) if self._sent(raw).number > oldest),
            len(self._held),
        )
        released, self._held = self._held[:count], self._held[count:]
        return released

    def _give_up(self, numbers: set[int]) -> None:
        """Notes that these packets give no picture."""
        self.doubtful |= bool(numbers)
        self._unseen = self._unseen - numbers
        if self.reason and self._lost is None:  # decoders leave out what refers to lost pictures
            self.left_out += len(numbers & self._leading)

    def _lose(
        self, number: int, reason: str, pictures: list[VideoFrame] | None = None
    ) -> list[VideoFrame]:
        """Notes that pictures from a packet on are not whole; returns those before it.

        Args:
            number: of the packet.
            reason: why.
            pictures: what came out of the decoder and was not yet looked at.
        """
        self.doubtful = True
        if not self._is_exact:
            return []
        if self._lost is not None:
            self._fault = self._fault or reason
            self._is_fresh = False
            self._again.append(number)
            return self._take(pictures or [])
        self.reason = self.reason or reason
        inside = [*self._held, *(pictures or []), *self._empty()]
        number = min([number, *(self._sent(raw).number for raw in inside if raw.is_corrupt)])
        self._lost, self._held = number, []
        self._passed = [n for raw in inside if (n := self._sent(raw).number) >= number]
        self._unseen.clear()
        return [raw for raw in inside if self._sent(raw).number < number]

    def _is_start(self, raw: VideoFrame, sent: _Sent) -> bool:
        """Says whether all pictures after this one, in both orders, are whole."""
        if raw.key_frame or (sent.is_key and not self._marks_keys):
            return True
        # FFmpeg's H.264 decoder shows nothing before the recovery point when it begins anew
        return self._codec.name == "h264" and self._is_fresh

    def _found(self, number: int) -> int | None:
        """Ends the wait with this packet; returns the first packet after it that is damaged."""
        self._count(number)
        later = [n for n in self._again if n > number]
        self._lost, self._again, self._passed = None, [], []
        return min(later, default=None)

    def _count(self, end: int) -> None:
        """Counts what was left out since the wait began, up to this packet."""
        assert self._lost is not None
        count = end - self._lost + sum(n > end for n in self._passed)
        self.left_out += count
        if count:
            self.reason = self.reason or BEGINS

    def _empty(self) -> list[VideoFrame]:
        """Returns what the decoder holds, and lets it begin anew."""
        try:
            pictures = self._codec.decode(None)
        except self._errors:
            self.doubtful = True
            pictures = []
        self._codec.flush_buffers()
        self._is_fresh = True
        return pictures

    def _sent(self, raw: VideoFrame) -> _Sent:
        sent = raw.opaque
        return sent if isinstance(sent, _Sent) else _Sent(self._next - 1, raw.key_frame)
