"""A folder of images as a video."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dvfl_runtime.addresses import printable
from dvfl_runtime.errors import SourceError
from dvfl_runtime.packages import MEDIA, needed
from dvfl_runtime.sources.folders import images_in
from dvfl_runtime.sources.frame import Frame

_logger = logging.getLogger(__name__)


class ImagesSource:
    """The images of a folder in natural order: frame2 comes before frame10.

    The image at position `i` is at `i / fps`. Images may differ in size. One that cannot be read
    is left out with its moment, and one warning at the end counts them.

    Args:
        path: the folder.
        fps: the clock, frames per second.

    Raises:
        SourceError: if the folder cannot be listed, holds no image, or holds videos.
    """

    live = False
    rewindable = True

    def __init__(self, path: Path, fps: float) -> None:
        self.name = printable(str(path))
        self._warned = False
        self._paths = images_in(path)
        self.duration_s: float | None = len(self._paths) / fps
        self._fps = fps
        self._closed = threading.Event()

    def frames(self) -> Iterator[Frame]:
        """Yields the images as frames.

        Raises:
            SourceError: if not one image can be read.
            DvflError: if OpenCV is missing.
        """
        if self._closed.is_set():
            raise SourceError(f"{self.name} is closed; open it again")
        read = _image_reader()
        index = 0
        unreadable: list[str] = []
        for position, path in enumerate(self._paths):
            if self._closed.is_set():
                return
            image = read(path)
            if image is None:
                unreadable.append(printable(path.name))
                continue
            yield Frame(image, position / self._fps, index)
            index += 1
        if index == 0:
            raise SourceError(
                f"none of the {len(self._paths)} images in {self.name} can be read, "
                f"beginning with {unreadable[0]}; check that they are complete image files"
            )
        if unreadable and not self._warned:  # once, however often it is read
            self._warned = True
            _logger.warning(
                "%s: left out %d of %d images that cannot be read, beginning with %s",
                *(self.name, len(unreadable), len(self._paths), unreadable[0]),
            )

    def close(self) -> None:
        """Ends a running `frames()` before its next image."""
        self._closed.set()


def _image_reader() -> Callable[[Path], NDArray[np.uint8] | None]:
    """Returns a function from a path to (H, W, 3) uint8 RGB, or to `None` if it is no image."""
    with needed("reading image files", *MEDIA):
        import cv2

    def read(path: Path) -> NDArray[np.uint8] | None:
        # Bytes, not cv2.imread: that one cannot open every path on Windows and prints to stderr.
        try:
            data = np.frombuffer(path.read_bytes(), np.uint8)
            image = cv2.imdecode(data, cv2.IMREAD_COLOR)  # 8 bits, BGR, upright by its EXIF tag
        except (OSError, cv2.error):
            return None
        if image is None:
            return None
        return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), np.uint8)

    return read
