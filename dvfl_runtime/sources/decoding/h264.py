"""Finds missing pictures of an H.264 stream by the numbers in its slices.

Where a whole picture is missing, FFmpeg shows a copy of another one and reports nothing. H.264
numbers its reference pictures (ITU-T H.264, 7.4.3, `frame_num`), so a gap shows in the numbers.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import NamedTuple

SLICE, IDR_SLICE, SPS, PPS = 1, 5, 7, 8  # types of NAL units (table 7-1)
MAX_SPS_BYTES = 4096  # an SPS with all its scaling lists has fewer
HIGH_PROFILES = frozenset({100, 110, 122, 244, 44, 83, 86, 118, 128, 138, 139, 134, 135})


class FrameNumbers:
    """Follows the frame numbers of the packets of one stream, in decode order.

    Args:
        extradata: the stream's parameter sets; empty if they are in its packets.
    """

    def __init__(self, extradata: bytes) -> None:
        self._length_size = 0  # bytes of the size before each NAL unit; 0 for start codes
        self._formats: dict[int, _NumberFormat | None] = {}  # by SPS
        self._sps_of: dict[int, int] = {}  # by PPS
        self._last: int | None = None  # frame_num of the last reference picture
        with suppress(IndexError):
            is_avcc = extradata[:1] == b"\x01"  # an avcC box, as in MP4
            self._length_size = (extradata[4] & 3) + 1 if is_avcc else 0
            units = _units_in_avcc(extradata) if is_avcc else _units_by_start_code(extradata)
            for unit in units:
                self._read_parameter_set(unit)

    def gap_before(self, data: bytes) -> bool:
        """Return whether pictures are missing before this packet; `False` if it is unreadable."""
        size = self._length_size
        units = _units_by_length(data, size) if size else _units_by_start_code(data)
        with suppress(IndexError, KeyError):
            for unit in units:
                if unit[0] & 31 in (SLICE, IDR_SLICE):
                    return self._is_gap_before_slice(unit)
                self._read_parameter_set(unit)
        return False

    def _read_parameter_set(self, unit: bytes) -> None:
        kind = unit[0] & 31
        if kind == SPS:
            number, number_format = _read_sps(_Bits(unit[1:MAX_SPS_BYTES]))
            self._formats[number] = number_format
        elif kind == PPS:
            bits = _Bits(unit[1:32])
            self._sps_of[bits.golomb()] = bits.golomb()

    def _is_gap_before_slice(self, unit: bytes) -> bool:
        is_idr, is_reference = unit[0] & 31 == IDR_SLICE, unit[0] >> 5 & 3 > 0
        bits = _Bits(unit[1:48])
        bits.golomb()  # first_mb_in_slice
        bits.golomb()  # slice_type
        number_format = self._formats[self._sps_of[bits.golomb()]]
        if number_format is None:
            return False
        if number_format.has_separate_planes:
            bits.read(2)  # colour_plane_id
        number, last = bits.read(number_format.width), self._last
        if is_reference or last is None:
            self._last = number
        if is_idr or last is None:
            return False
        # The two fields of a frame share a number, and only reference pictures count it up.
        return number not in (last, (last + 1) % (1 << number_format.width))


class _NumberFormat(NamedTuple):
    """How slices write `frame_num`: its bits, and whether the id of a colour plane precedes it."""

    width: int
    has_separate_planes: bool


class _Bits:
    """Reads the bits of a NAL unit in order; raises IndexError after the last."""

    def __init__(self, data: bytes) -> None:
        clean = data.replace(b"\0\0\3", b"\0\0")  # without emulation prevention bytes (7.4.1)
        self._value, self._left = int.from_bytes(clean, "big"), 8 * len(clean)

    def read(self, count: int) -> int:
        self._left -= count
        if self._left < 0:
            raise IndexError
        return self._value >> self._left & ((1 << count) - 1)

    def golomb(self) -> int:
        """Read an unsigned Exp-Golomb code (9.1)."""
        zeros = 0
        while not self.read(1):
            zeros += 1
        return (1 << zeros) - 1 + self.read(zeros)

    def signed_golomb(self) -> int:
        code = self.golomb()
        return (code + 1) // 2 if code % 2 else -code // 2


def _read_sps(bits: _Bits) -> tuple[int, _NumberFormat | None]:
    """Return an SPS's id and format of `frame_num`; `None` where gaps are allowed (7.3.2.1.1)."""
    profile = bits.read(8)
    bits.read(16)  # constraint flags and level
    number, has_separate_planes = bits.golomb(), False
    if profile in HIGH_PROFILES:
        chroma = bits.golomb()
        if chroma == 3:
            has_separate_planes = bool(bits.read(1))
        bits.golomb(), bits.golomb(), bits.read(1)  # bit depths, transform bypass
        if bits.read(1):  # scaling lists: six of 4x4 and, after them, those of 8x8
            for i in range(12 if chroma == 3 else 8):
                if bits.read(1):
                    _skip_scaling_list(bits, 16 if i < 6 else 64)
    width = bits.golomb() + 4
    order_type = bits.golomb()
    if order_type == 0:
        bits.golomb()
    elif order_type == 1:
        bits.read(1), bits.golomb(), bits.golomb()
        for _ in range(bits.golomb()):
            bits.golomb()
    bits.golomb()  # max_num_ref_frames
    has_gaps = bool(bits.read(1))
    return number, None if has_gaps else _NumberFormat(width, has_separate_planes)


def _skip_scaling_list(bits: _Bits, size: int) -> None:
    last = following = 8
    for _ in range(size):
        if following:
            following = (last + bits.signed_golomb()) % 256
        last = following or last


def _units_by_start_code(data: bytes) -> Iterator[bytes]:
    begin = data.find(b"\0\0\1")
    while begin >= 0:
        end = data.find(b"\0\0\1", begin + 3)
        yield data[begin + 3 : end if end >= 0 else len(data)]
        begin = end


def _units_by_length(data: bytes, length_size: int) -> Iterator[bytes]:
    at = 0
    while at + length_size < len(data):
        size = int.from_bytes(data[at : at + length_size], "big")
        at += length_size
        yield data[at : at + size]
        at += size


def _units_in_avcc(data: bytes) -> Iterator[bytes]:
    at = 5
    for mask in (31, 255):  # the SPS, then the PPS
        count = data[at] & mask
        at += 1
        for _ in range(count):
            size = int.from_bytes(data[at : at + 2], "big")
            yield data[at + 2 : at + 2 + size]
            at += 2 + size
