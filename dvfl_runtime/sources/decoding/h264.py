"""Missing pictures of an H.264 stream, found by the numbers that its slices carry.

FFmpeg shows a copy of another picture where a whole one is missing, and reports nothing. H.264
numbers the pictures that others refer to (ITU-T H.264, 7.4.3, `frame_num`), which shows gaps.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

SLICE, IDR_SLICE, SPS, PPS = 1, 5, 7, 8  # kinds of NAL units
MAX_SPS_BYTES = 4096  # with all its lists it has fewer
HIGH_PROFILES = frozenset({100, 110, 122, 244, 44, 83, 86, 118, 128, 138, 139, 134, 135})


class FrameNumbers:
    """Follows the frame numbers of the packets of one stream, in decode order.

    Args:
        extradata: the stream's own, or empty.
    """

    def __init__(self, extradata: bytes) -> None:
        self._length_size = 0  # of the size before each NAL unit; 0: start codes
        self._widths: dict[int, tuple[int, bool] | None] = {}  # by SPS: bits, colour planes apart
        self._sps_of: dict[int, int] = {}  # by PPS
        self._last: int | None = None
        with suppress(IndexError):
            if extradata[:1] == b"\x01":  # an avcC box: parameter sets with their lengths
                self._length_size = (extradata[4] & 3) + 1
                for unit in _sets_of_avcc(extradata):
                    self._learn(unit)
            else:
                for unit in _after_start_codes(extradata):
                    self._learn(unit)

    def gap_before(self, data: bytes) -> bool:
        """Says whether pictures are missing before this packet; an odd one is never a gap."""
        units = (
            _after_lengths(data, self._length_size)
            if self._length_size
            else _after_start_codes(data)
        )
        with suppress(IndexError, KeyError):
            for unit in units:
                kind, used = unit[0] & 31, unit[0] >> 5 & 3 > 0
                if kind in (SLICE, IDR_SLICE):
                    return self._follow(unit, used, is_idr=kind == IDR_SLICE)
                self._learn(unit)
        return False

    def _learn(self, unit: bytes) -> None:
        kind = unit[0] & 31
        if kind == SPS:
            number, about = _read_sps(_Bits(unit[1:MAX_SPS_BYTES]))
            self._widths[number] = about
        elif kind == PPS:
            bits = _Bits(unit[1:32])
            self._sps_of[bits.golomb()] = bits.golomb()

    def _follow(self, unit: bytes, used: bool, is_idr: bool) -> bool:
        bits = _Bits(unit[1:48])
        bits.golomb()  # first_mb_in_slice
        bits.golomb()  # slice_type
        about = self._widths[self._sps_of[bits.golomb()]]
        if about is None:
            return False
        width, colour_planes_apart = about
        if colour_planes_apart:
            bits.read(2)
        number, last = bits.read(width), self._last
        if used or last is None:
            self._last = number
        # A field has the number of the other field, and one that no other refers to does not count.
        return not (is_idr or last is None or number in (last, (last + 1) % (1 << width)))


class _Bits:
    """Bits of a NAL unit, from the first on; IndexError after the last."""

    def __init__(self, data: bytes) -> None:
        clean = data.replace(b"\0\0\3", b"\0\0")
        self._value, self._left = int.from_bytes(clean, "big"), 8 * len(clean)

    def read(self, count: int) -> int:
        self._left -= count
        if self._left < 0:
            raise IndexError
        return self._value >> self._left & ((1 << count) - 1)

    def golomb(self) -> int:
        """Reads an unsigned Exp-Golomb code (9.1)."""
        zeros = 0
        while not self.read(1):
            zeros += 1
        return (1 << zeros) - 1 + self.read(zeros)

    def signed_golomb(self) -> int:
        code = self.golomb()
        return (code + 1) // 2 if code % 2 else -code // 2


def _read_sps(bits: _Bits) -> tuple[int, tuple[int, bool] | None]:
    """Returns the number of an SPS and what a slice needs of it; `None` where gaps are allowed."""
    profile = bits.read(8)
    bits.read(16)  # constraints and level
    number, colour_planes_apart = bits.golomb(), False
    if profile in HIGH_PROFILES:
        chroma = bits.golomb()
        if chroma == 3:
            colour_planes_apart = bool(bits.read(1))
        bits.golomb(), bits.golomb(), bits.read(1)  # depths, transform bypass
        if bits.read(1):
            for i in range(12 if chroma == 3 else 8):
                if bits.read(1):
                    _skip_scaling_list(bits, 16 if i < 6 else 64)
    width = bits.golomb() + 4
    order = bits.golomb()
    if order == 0:
        bits.golomb()
    elif order == 1:
        bits.read(1), bits.golomb(), bits.golomb()
        for _ in range(bits.golomb()):
            bits.golomb()
    bits.golomb()  # how many pictures may be referred to
    gaps_allowed = bool(bits.read(1))
    return number, None if gaps_allowed else (width, colour_planes_apart)


def _skip_scaling_list(bits: _Bits, size: int) -> None:
    last = following = 8
    for _ in range(size):
        if following:
            following = (last + bits.signed_golomb()) % 256
        last = following or last


def _after_start_codes(data: bytes) -> Iterator[bytes]:
    begin = data.find(b"\0\0\1")
    while begin >= 0:
        end = data.find(b"\0\0\1", begin + 3)
        yield data[begin + 3 : end if end >= 0 else len(data)]
        begin = end


def _after_lengths(data: bytes, length_size: int) -> Iterator[bytes]:
    at = 0
    while at + length_size < len(data):
        size = int.from_bytes(data[at : at + length_size], "big")
        at += length_size
        yield data[at : at + size]
        at += size


def _sets_of_avcc(data: bytes) -> Iterator[bytes]:
    at = 5
    for mask in (31, 255):  # the SPS, then the PPS
        count = data[at] & mask
        at += 1
        for _ in range(count):
            size = int.from_bytes(data[at : at + 2], "big")
            yield data[at + 2 : at + 2 + size]
            at += 2 + size
