"""The last packets of a source, from a key picture on, bounded in time and memory."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from itertools import dropwhile
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dvfl_runtime.record.packet_file import StreamTemplate


@dataclass(frozen=True)
class StoredPacket:
    """One compressed picture.

    Attributes:
        data: the bytes.
        time_s: when it is shown, on the source's clock, seconds.
        decode_s: when it has to be decoded, on the same clock.
        is_key: whether decoding can begin with it.
        template: how it is coded.
    """

    data: bytes
    time_s: float
    decode_s: float
    is_key: bool
    template: StreamTemplate


class PacketRing:
    """Holds packets in the order in which they are decoded; the first one is a key picture.

    Packets are numbered in the order in which they come. Whole groups are dropped, from one key
    picture to the next: those that are too old, and, where the packets would take more than
    `max_bytes`, the oldest.

    Args:
        keep_s: how far back the source can be had, seconds.
        max_bytes: the most bytes of all packets.

    Attributes:
        end: the number of the next packet.
        newest_s: the time of the newest packet, seconds; `None` before the first.
    """

    def __init__(self, keep_s: float, max_bytes: int) -> None:
        self.end = 0
        self.newest_s: float | None = None
        self._keep_s = keep_s
        self._max_bytes = max_bytes
        self._packets: deque[tuple[int, StoredPacket]] = deque()
        self._keys: deque[tuple[int, float]] = deque()  # numbers and times of the key pictures
        self._size = 0  # bytes
        self._template: StreamTemplate | None = None  # of the newest key picture

    @property
    def begin(self) -> int:
        """The number of the oldest packet; `end` if there is none."""
        return self._packets[0][0] if self._packets else self.end

    def add(self, packet: StoredPacket, needed_from: int | None = None) -> None:
        """Add a packet, and drop what is too old.

        Args:
            packet: the next one in decode order; left out if no key picture of its connection came
                before it.
            needed_from: packets from this number on stay as long as there is memory.
        """
        number, self.end = self.end, self.end + 1
        self.newest_s = packet.time_s
        if packet.is_key:
            self._keys.append((number, packet.time_s))
            self._template = packet.template
        if not self._keys or packet.template is not self._template:
            return
        self._packets.append((number, packet))
        self._size += len(packet.data)
        while self._is_old(needed_from) or self._size > self._max_bytes:
            self._drop_group()

    def from_number(self, number: int) -> list[tuple[int, StoredPacket]]:
        """Return the packets from a number on, with their numbers."""
        if number >= self.end:
            return []
        return list(dropwhile(lambda item: item[0] < number, self._packets))

    def key_before(self, time_s: float) -> int:
        """Return the number of the last key picture at or before a time, or of the first after it.

        Without any it is `end`.
        """
        numbers = [number for number, at_s in self._keys if at_s <= time_s]
        return numbers[-1] if numbers else self.begin

    def clear(self) -> None:
        """Drop all packets."""
        while self._packets:
            self._drop_group()

    def _is_old(self, needed_from: int | None) -> bool:
        if len(self._keys) < 2 or self.newest_s is None:
            return False
        number, time_s = self._keys[1]
        is_needed = needed_from is not None and needed_from < number
        return time_s <= self.newest_s - self._keep_s and not is_needed

    def _drop_group(self) -> None:
        self._keys.popleft()
        end = self._keys[0][0] if self._keys else self.end
        while self._packets and self._packets[0][0] < end:
            self._size -= len(self._packets.popleft()[1].data)
