"""A folder of images as a video, or a single image."""

from __future__ import annotations

import logging
from collections.abc import Generator
from pathlib import Path

from dvfl_runtime.errors import SourceError
from dvfl_runtime.errors.addresses import printable
from dvfl_runtime.sources.decoding.stills import TOO_LARGE, UNREADABLE, decode_still
from dvfl_runtime.sources.folders import images_in, other_images_in
from dvfl_runtime.sources.frame import Frame
from dvfl_runtime.sources.recorded.source import RecordedSource

_logger = logging.getLogger(__name__)


class ImagesSource(RecordedSource):
    """The images of a folder in natural order: frame2 comes before frame10.

    The image at position `i` is shown at `i / fps`. Images may differ in size. One that cannot be
    read is left out, its time passes without a frame, and a warning at the end counts them.

    Args:
        path: the folder, or one image file.
        fps: frames per second.

    Raises:
        SourceError: if the folder cannot be listed, holds no image, or holds videos.
    """

    def __init__(self, path: Path, fps: float) -> None:
        self._warned = False
        self._paths = images_in(path) if path.is_dir() else [path]
        self._others = other_images_in(path) if path.is_dir() else []
        self._fps = fps
        super().__init__(printable(str(path)), len(self._paths) / fps)

    def _read(self) -> Generator[Frame, None, None]:
        index = 0
        problems: dict[str, list[str]] = {}  # problem -> names of the files that have it
        for position, path in enumerate(self._paths):
            if self._closed.is_set():
                return
            try:
                image, problem = decode_still(path.read_bytes())
            except OSError:
                image, problem = None, UNREADABLE
            if problem:
                problems.setdefault(problem, []).append(printable(path.name))
            if image is not None:
                yield Frame(image, position / self._fps, index)
                index += 1
        if index == 0:
            problem, names = next(iter(problems.items()))
            raise SourceError(
                f"none of the {len(self._paths)} images in {self.name} can be read: they "
                f"{problem}, beginning with {names[0]}; check that they are complete and not "
                "too large"
            )
        if not self._warned:  # once, however often it is read
            self._warned = True
            self._warn(problems)

    def _warn(self, problems: dict[str, list[str]]) -> None:
        for problem, names in problems.items():
            left_out = " and are left out" if problem in (UNREADABLE, TOO_LARGE) else ""
            _logger.warning(
                "%s: %d of %d images %s%s, beginning with %s",
                *(self.name, len(names), len(self._paths), problem, left_out, names[0]),
            )
        if self._others:
            _logger.warning(
                "%s: %d images of kinds that cannot be read are left out, beginning with %s",
                *(self.name, len(self._others), printable(self._others[0].name)),
            )
