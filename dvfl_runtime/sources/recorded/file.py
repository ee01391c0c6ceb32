"""Video files, decoded by PyAV: every frame, at the container's own times, upright."""

from __future__ import annotations

import logging
import os
from collections.abc import Generator
from contextlib import closing
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dvfl_runtime.errors import SourceError
from dvfl_runtime.sources.decoding.picture import OrientationTracker, upright_rgb
from dvfl_runtime.sources.frame import Frame
from dvfl_runtime.sources.recorded.file_map import FileMapper, expected_times
from dvfl_runtime.sources.recorded.media import Video, advice_of, name_of
from dvfl_runtime.sources.recorded.source import RecordedSource
from dvfl_runtime.sources.recorded.video_file import DEFAULT_FPS, PictureReader, VideoFile

_logger = logging.getLogger(__name__)

MAX_THREADS = 4  # each thread of the codec holds one more decoded picture

UNTIMED = (
    "%s does not say how many frames a second it has; %d is assumed. If that is wrong, put it into "
    "a file that does (ffmpeg -r F -i IN -c copy OUT.mkv), or pass fps=F"
)


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

    Attributes:
        damage: once it has been read: what is wrong with it, and how much of it is left; "" if
            nothing is.

    Attributes:
        video: see above.
        has_timestamps: whether its packets say when they are shown.

    Raises:
        SourceError: if it cannot be opened, or has no video in it.
    """

    def __init__(self, video: Video, fps: float | None = None) -> None:
        self.video = video
        self._fps = fps
        self.damage = ""
        self._demuxed: VideoFile | None = None  # for the next reading
        with closing(self._open_exact()) as file:
            super().__init__(name_of(video), file.duration_s)
            self._is_timed = file.is_timed
            self.has_timestamps = file.has_timestamps

    def close(self) -> None:
        """End a running `frames()` at its next frame."""
        super().close()
        file, self._demuxed = self._demuxed, None
        if file is not None:
            file.close()
        if not isinstance(self.video, Path):
            self.video.stop()

    def mapped_frames(
        self, mapper: FileMapper, num_threads: int | None = None
    ) -> Generator[Frame, None, None]:
        """Yield what `frames()` does, and tell the mapper of each frame, of damage and of the end.

        Args:
            mapper: of this reading.
            num_threads: of the decoder; one takes the least work, the default the least time.
        """
        return self._until_closed(self._read(mapper, num_threads))

    def expected_times(self, num_threads: int | None = None) -> NDArray[np.float64]:
        """Return the times that frames have if nothing is damaged, learnt without decoding.

        The file stays open for the next reading.

        Args:
            num_threads: of the decoder of that reading.

        Returns:
            (N,) seconds; empty if the file does not tell them.
        """
        file = self._take_file(num_threads)
        packets, is_readable = file.demuxed()
        times_s = expected_times(file, packets)
        if is_readable and not self._closed.is_set():
            self._demuxed = file
        else:
            file.close()
        return times_s

    def _take_file(self, num_threads: int | None = None) -> VideoFile:
        """Return the file, at its beginning; the caller closes it."""
        file, self._demuxed = self._demuxed, None
        return file or VideoFile(self.video, num_threads or _usual_threads(), self._fps)

    def _open_exact(self) -> VideoFile:
        return VideoFile(self.video, 1, self._fps)

    def _read(
        self, mapper: FileMapper | None = None, num_threads: int | None = None
    ) -> Generator[Frame, None, None]:
        orientation = OrientationTracker()
        with closing(PictureReader(self._take_file(num_threads), self._open_exact)) as reader:
            for index, (raw, time_s) in enumerate(reader.pictures()):
                if index == 1 and not self._is_timed:  # a single picture needs no rate
                    self._is_timed = True  # once, however often it is read
                    _logger.warning(UNTIMED, self.name, DEFAULT_FPS)
                if mapper is not None:
                    mapper.add(time_s, raw)
                yield Frame(partial(upright_rgb, raw, orientation.update(raw)), time_s, index)
        if reader.count == 0:
            raise SourceError(
                f"no frame of {self.name} can be decoded ({reader.codec}): "
                f"{reader.damage or 'its video stream is empty'}; "
                f"{advice_of(self.video, 'record or convert it again')}"
            )
        if mapper is not None:
            mapper.end(is_whole=not (reader.left_out or reader.damage))
        if (reader.left_out or reader.is_cut_off) and not self.damage:  # once, as above
            after = reader.damaged_after
            self.damage = (
                f"damaged {f'after frame {after}' if after >= 0 else 'at its beginning'} "
                f"({reader.damage}): {reader.count} good frames were read, {reader.left_out} "
                "frames that would show remains of others were left out"
            )
            _logger.warning("%s is %s", self.name, self.damage)


def _usual_threads() -> int:
    """Return how many threads decode a file.

    They wait while the reader works on a picture; with one more than cores there are more pictures
    ready then, and a window takes 8 % less time on two cores.
    """
    cores = os.cpu_count() or 1
    return 1 if cores == 1 else min(MAX_THREADS, cores + 1)
