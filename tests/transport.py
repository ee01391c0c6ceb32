"""Transport streams for tests, and what networks do to them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

SIZE = 188
VIDEO = 0x100  # the identifier that FFmpeg gives the first stream


class Transport:
    """The packets of a transport stream.

    Attributes:
        packets: all of them.
        video: positions of those that carry the video.
        starts: positions of those that begin a picture.
    """

    def __init__(self, path: Path) -> None:
        data = path.read_bytes()
        self.packets = [data[at : at + SIZE] for at in range(0, len(data), SIZE)]
        self.video = [
            i for i, p in enumerate(self.packets) if (p[1] & 31) << 8 | p[2] == VIDEO and p[3] & 16
        ]
        self.starts = [i for i in self.video if self.packets[i][1] & 64]

    def write_without(self, path: Path, lost: Iterable[int]) -> Path:
        """Writes it without some packets."""
        gone = set(lost)
        path.write_bytes(b"".join(p for i, p in enumerate(self.packets) if i not in gone))
        return path
