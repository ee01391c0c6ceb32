"""Video files, decoded by PyAV: every frame, at the container's own times, upright."""

from __future__ import annotations

import logging
import os
from collections.abc import Generator, Iterator
from contextlib import closing
from functools import partial
from itertools import chain, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from dvfl_runtime.errors import SourceError
from dvfl_runtime.sources.decoding.decoder import BEGINS, Decoder
from dvfl_runtime.sources.decoding.picture import Orientations, upright_rgb
from dvfl_runtime.sources.frame import Frame
from dvfl_runtime.sources.recorded.media import Video, advice_of, name_of
from dvfl_runtime.sources.recorded.source import RecordedSource
from dvfl_runtime.sources.recorded.video_file import DEFAULT_FPS, VideoFile
from dvfl_runtime.sources.timestamps import FileTimestamps

if TYPE_CHECKING:
    from av.video.frame import VideoFrame

_logger = logging.getLogger(__name__)

UNTIMED = (
    "%s does not say how many frames a second it has; %d is assumed. If that is wrong, pass fps=F"
)
MAX_THREADS = 4  # each thread of the codec holds one more decoded picture


class FileSource(RecordedSource):
    """A video file.

    A frame's time is that of a player: 0.0 is where the file begins, even if only its sound begins
    there. A variable frame rate stays variable; missing, repeated and backward timestamps are
    repaired (see `timestamps`). A file of bare video (.h264, .hevc, .mjpeg ...) has no timestamps:
    its frames follow each other at `fps`, or at the rate in its headers, or else at 25 a second,
    with a warning. The rotation that phones write beside the picture is applied. Pixels are taken
    as square, as in training.

    Frames that would show remains of others after damage are left out (see `decoder`), and one
    warning at the end counts them. `close()` ends a running `frames()` at its next frame, which
    releases the file.

    Args:
        video: the path of a file, or another object that can be opened again and again.
        fps: frames per second of a file without timestamps; `None` for the rate in its headers.

    Raises:
        SourceError: if it cannot be opened, or has no video in it.
    """

    def __init__(self, video: Video, fps: float | None = None) -> None:
        self._video = video
        self._fps = fps
        self._warned = False
        with closing(VideoFile(video, 1, fps)) as file:
            super().__init__(name_of(video), file.duration_s)
            self._is_timed = file.is_timed

    def close(self) -> None:
        """End a running `frames()` at its next frame."""
        super().close()
        if not isinstance(self._video, Path):
            self._video.stop()

    def _read(self) -> Generator[Frame, None, None]:
        reader = _PictureReader(self._video, self._fps)
        timestamps: FileTimestamps | None = None
        orientations = Orientations()
        try:
            pictures: Iterator[_Picture | None] = chain(reader.pictures(), [None])
            for index, (picture, following) in enumerate(pairwise(pictures)):
                assert picture is not None  # it is the last one's `following` alone
                raw, ticks, left_out = picture
                timestamps = timestamps or reader.file.timestamps_from(raw)
                time_s = timestamps.time_s(ticks, following.ticks if following else None, left_out)
                if index == 1 and not self._is_timed:  # a single picture needs no rate
                    self._is_timed = True  # once, however often it is read
                    _logger.warning(UNTIMED, self.name, DEFAULT_FPS)
                make = partial(upright_rgb, raw, orientations.of(raw))
                yield Frame(make, time_s, index)
        finally:
            reader.file.close()
        if reader.count == 0:
            raise SourceError(
                f"no frame of {self.name} can be decoded ({reader.file.codec}): "
                f"{reader.damage or 'its video stream is empty'}; "
                f"{advice_of(self._video, 'record or convert it again')}"
            )
        if (reader.left_out or reader.file.error) and not self._warned:  # once, as above
            self._warned = True
            after = reader.damaged_after
            _logger.warning(
                "%s is damaged %s (%s): %d good frames were read, %d frames that would show "
                "remains of others were left out",
                *(self.name, f"after frame {after}" if after >= 0 else "at its beginning"),
                *(reader.damage, reader.count, reader.left_out),
            )


class _Picture(NamedTuple):
    """A whole picture, its timestamp, and how many of the file were left out before it."""

    raw: VideoFrame
    ticks: int | None
    left_out: int


class _Keyframe(NamedTuple):
    """A keyframe's packet and number, and how many pictures were left out before it."""

    packet: int = 0
    picture: int = 0
    left_out: int = 0


class _PictureReader:
    """Reads the whole pictures of a file, in up to three passes.

    The first pass decodes with threads. If anything is wrong it ends, and the next pass goes on
    from the last keyframe without threads, because only then it is known which pictures are whole.
    If none is whole, the last pass takes the pictures that the decoder could conceal.

    Attributes:
        file: the file, as it is open now.
        count: pictures handed out.
        left_out: pictures of the file that are not whole.
        damage: what was wrong first; empty if nothing was.
        damaged_after: number of the last good picture before it, -1 for none.
    """

    def __init__(self, video: Video, fps: float | None) -> None:
        self.count = self.left_out = 0
        self.damage, self.damaged_after = "", -1
        self._video, self._fps = video, fps
        self._keyframe = _Keyframe()  # where the next pass begins
        self.file = VideoFile(video, min(MAX_THREADS, os.cpu_count() or 1), fps)

    def pictures(self) -> Iterator[_Picture]:
        """Yield the pictures in the order in which they are shown."""
        strict = True
        while True:
            start = self._keyframe
            decoder = self.file.decoder(start.packet, strict=strict)
            yield from self._one_pass(decoder, start)
            self.left_out = start.left_out + decoder.left_out
            if not self._needs_exact_pass(decoder):
                if not strict or self.count or not self.damage:
                    return
                strict = False
            self.file.close()
            self.file = VideoFile(self._video, 1, self._fps)

    def _one_pass(self, decoder: Decoder, start: _Keyframe) -> Iterator[_Picture]:
        number = start.picture
        for pictures in self._decoded(decoder, start.packet):
            begins = decoder.reason == BEGINS
            self._note_damage(decoder.reason, -1 if begins else number + len(pictures) - 1)
            for raw in pictures:
                if (packet := decoder.keyframe_packet(raw)) is not None:
                    self._keyframe = _Keyframe(packet, number, start.left_out + decoder.left_out)
                number += 1
                if number > self.count:  # not yet handed out by the pass before
                    self.count = number
                    left_out = start.left_out + decoder.left_out
                    yield _Picture(raw, self.file.timestamp(raw), left_out)
        self._note_damage(self.file.error, number - 1)

    def _decoded(self, decoder: Decoder, first: int) -> Iterator[list[VideoFrame]]:
        """Yield the whole pictures after each packet from number `first` on."""
        for number, packet in enumerate(self.file.packets()):
            if number >= first:
                yield decoder.decode(packet)
                if self._needs_exact_pass(decoder):
                    return
        pictures = decoder.finish()
        if not self._needs_exact_pass(decoder):
            yield pictures

    def _needs_exact_pass(self, decoder: Decoder) -> bool:
        return decoder.doubtful and self.file.num_threads > 1

    def _note_damage(self, reason: str, last_good: int) -> None:
        if reason and not self.damage:
            self.damage, self.damaged_after = reason, last_good
