"""Where the frames of a video file are, so that a few of them can be read without all others."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dvfl_runtime.sources.decoding.decoder import packet_of
from dvfl_runtime.sources.decoding.picture import Orientation, OrientationTracker, upright_rgb
from dvfl_runtime.sources.frame import Frame
from dvfl_runtime.sources.recorded.video_file import PacketTime, VideoFile

if TYPE_CHECKING:
    from av.video.frame import VideoFrame

ROW = np.dtype([("time_s", "f8"), ("packet", "i4"), ("is_keyframe", "?")])


@dataclass(frozen=True, eq=False)
class FileMap:
    """The times and packets of all frames of a file in which nothing is damaged.

    Attributes:
        rows: (N,) of `ROW`, in the order in which frames are shown: the time, the number of the
            packet in decode order, and whether decoding can begin at this frame.
    """

    rows: NDArray[np.void]

    @property
    def times_s(self) -> NDArray[np.float64]:
        """(N,) times of the frames."""
        return np.ascontiguousarray(self.rows["time_s"])

    def spans(self, numbers: Iterable[int]) -> list[Span]:
        """Return what has to be decoded for the frames of these numbers.

        A span begins at the last keyframe that is shown before the frame, or is the frame: no
        picture that is shown after a keyframe refers to one from before it.
        """
        packets, keyframes = self.rows["packet"], np.flatnonzero(self.rows["is_keyframe"])
        spans: list[Span] = []
        for number in sorted(set(numbers)):
            at = int(np.searchsorted(keyframes, number, side="right")) - 1
            first = int(packets[keyframes[at]]) if at >= 0 else 0
            # leading pictures of a keyframe are in the file after it, and shown before it
            if not spans or first > max(spans[-1].wanted):
                spans.append(Span(first, {}))
            spans[-1].wanted[int(packets[number])] = number
        return spans


class Span(NamedTuple):
    """Packets that are decoded one after another.

    Attributes:
        first: number of the first packet.
        wanted: packet -> number of the frame that it becomes.
    """

    first: int
    wanted: dict[int, int]


class FileMapper:
    """Makes the map of a file while all of it is read.

    Attributes:
        is_complete: whether the reading has reached the end of the file.
    """

    def __init__(self) -> None:
        self.is_complete = False
        self._rows: list[tuple[float, int, bool]] = []
        self._is_known = True

    def add(self, time_s: float, raw: VideoFrame) -> None:
        """Note the next frame."""
        packet = packet_of(raw)
        if packet is None:
            self._is_known = False
        else:
            self._rows.append((time_s, packet, bool(raw.key_frame)))

    def end(self, *, is_whole: bool) -> None:
        """Note that the end is reached; a file that is not whole cannot be mapped."""
        self.is_complete = True
        self._is_known = self._is_known and is_whole

    def file_map(self) -> FileMap | None:
        """Return the map; `None` if a packet became several frames or something is damaged."""
        rows = np.asarray(self._rows, ROW)
        if not self._is_known or len(np.unique(rows["packet"])) < len(rows):
            return None
        return FileMap(rows)


def expected_times(file: VideoFile, packets: Iterable[PacketTime]) -> NDArray[np.float64]:
    """Return the times that frames have if nothing is damaged: (N,) seconds.

    They are those of the packets in the order in which they are shown.
    """
    stamps = [(file.timestamp(packet), packet) for packet in packets if not packet.is_discard]
    known = sorted((ticks, packet) for ticks, packet in stamps if ticks is not None)
    if not stamps or len(known) < len(stamps):
        return np.zeros(0)
    timestamps = file.timestamps_from(known[0][1])
    ticks = [ticks for ticks, _ in known]
    pairs = zip(ticks, [*ticks[1:], None], strict=True)
    return np.asarray([timestamps.time_s(*pair) for pair in pairs])


def frames_at(path: Path, numbers: Iterable[int], file_map: FileMap) -> Iterator[Frame]:
    """Yield the frames of these numbers, and decode no more than they need.

    Frames are missing if the file was replaced by a shorter one since it was mapped; another one
    of at least as many packets is not noticed.

    Raises:
        SourceError: if the file cannot be opened.
    """
    times_s = file_map.times_s
    with closing(VideoFile(path, 1, None)) as file:
        for number, raw, orientation in _decoded(file, file_map.spans(numbers)):
            yield Frame(partial(upright_rgb, raw, orientation), float(times_s[number]), number)


def _decoded(
    file: VideoFile, spans: Iterable[Span]
) -> Iterator[tuple[int, VideoFrame, Orientation]]:
    """Yield the number, the picture and the orientation of each wanted frame that is decoded."""
    packets = enumerate(file.packets())
    for span in spans:
        decoder, tracker = file.decoder(span.first, strict=True), OrientationTracker()
        last = max(span.wanted)
        for number, packet in packets:
            if number < span.first:
                continue
            file.skip_unreferenced(number not in span.wanted)
            pictures = decoder.decode(packet)
            if number == last:
                pictures += decoder.finish()
            for raw in pictures:
                orientation, packet_number = tracker.update(raw), packet_of(raw)
                if packet_number in span.wanted:
                    yield span.wanted[packet_number], raw, orientation
            if number == last:
                break
