"""The source's own video with what was recognised drawn on it, at the source's own times.

A frame waits for the prediction that speaks for it, the one whose window's centre is nearest in
time. So what waits is bounded by the window: half of it and one hop, and all of it at the start.
Where that is more than `MAX_WAITING_BYTES`, the oldest frames get the newest prediction there is.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dvfl_runtime.draw.encoding import VideoFile, to_yuv
from dvfl_runtime.draw.panel import Panel, Run
from dvfl_runtime.errors import OutputError
from dvfl_runtime.results import Prediction
from dvfl_runtime.sources import Frame, Source
from dvfl_runtime.sources.observed import Tap
from dvfl_runtime.streams.smoothing import boundary_s, centre_s

_logger = logging.getLogger(__name__)

Planes = NDArray[np.uint8]  # (3/2 H, W): a picture in yuv420p, its three planes one after another

SUFFIXES = (".mp4", ".mov", ".mkv")
LONGEST_STRIP_S = 600.0  # a longer video, and a live one, has a strip that scrolls
SCROLLED_S = 30.0
MAX_WAITING_BYTES = 1 << 30  # 11 s of 1920 x 1080 px at 30 frames a second, 2.9 s of 3840 x 2160


def check_overlay_suffix(path: Path) -> None:
    """Raises OutputError unless the suffix names a container that can be written."""
    if path.suffix.lower() not in SUFFIXES:
        raise OutputError(
            f"cannot write an overlay to {path}: the suffix {path.suffix!r} names no format; "
            f"use one of {', '.join(SUFFIXES)}"
        )


class OverlayWriter:
    """Draws on every frame of one source and encodes it; size and times are the source's.

    The picture is yuv420p, which has even sides: an odd one is repeated at the edge, so nothing is
    lost and one pixel is added. A source that changes its size is scaled to the first one.

    Args:
        path: of the video; its suffix names the container.
        labels: names of the classes.
    """

    def __init__(self, path: Path, labels: Sequence[str]) -> None:
        self._file = VideoFile(path)
        self._labels = tuple(labels)
        self._panel: Panel | None = None
        self._duration_s: float | None = None
        self._waiting: deque[tuple[Planes, float]] = deque()
        self._early = 0  # frames that could not wait for their prediction
        self._said: Prediction | None = None  # the newest; what comes next may speak for more
        self._runs: deque[Run] = deque()
        self._body: tuple[Prediction, Planes, NDArray[np.uint8]] | None = None
        self._lock = threading.Lock()  # frames may come from another thread than predictions

    def __len__(self) -> int:
        """Returns the number of frames that wait."""
        return len(self._waiting)

    @property
    def begun(self) -> bool:
        """Whether there was a frame."""
        return self._panel is not None

    def watch(self, source: Source) -> Source:
        """Returns the source to read instead, which shows each frame to this writer."""
        self._duration_s = source.duration_s
        return Tap(source, self.add)

    def add(self, frame: Frame) -> None:
        """Takes a frame, which is drawn on when its prediction is known."""
        planes = to_yuv(frame.image, self._file.size)
        with self._lock:
            if self._panel is None:
                height, width = planes.shape[0] * 2 // 3, planes.shape[1]
                self._panel = Panel(width, height, self._labels)
                self._file.size = width, height
            self._waiting.append((planes, frame.time_s))
            if len(self._waiting) * planes.nbytes > MAX_WAITING_BYTES:
                self._put_oldest(self._said)
                self._early += 1

    def write(self, prediction: Prediction) -> None:
        """Takes the next prediction and encodes the frames whose prediction is known now."""
        with self._lock:
            last, self._said = self._said, prediction
            if last is not None:
                self._put_until(boundary_s(last, prediction), last)
            self._put_until(centre_s(prediction), prediction)

    def finish(self) -> None:
        """Encodes what waits and completes the file; further calls do nothing.

        Raises:
            OutputError: if there was no frame.
            OSError: if the file cannot be written.
        """
        with self._lock:
            self._put_until(float("inf"), self._said)
            self._file.finish()
            early, self._early = self._early, 0
        if early:
            _logger.warning(
                "%d frames of the overlay were drawn before the answer of their own window was "
                "known, with the newest one there was: more than %d MB of pictures would have had "
                "to wait; choose a shorter --window-s or --hop-s, or a smaller picture",
                *(early, MAX_WAITING_BYTES >> 20),
            )

    def close(self) -> None:
        """Closes the file, complete or not."""
        self._file.close()

    def _put_until(self, end_s: float, prediction: Prediction | None) -> None:
        """Encodes the frames before `end_s`; the prediction speaks for them."""
        while self._waiting and self._waiting[0][1] < end_s:
            self._put_oldest(prediction)

    def _put_oldest(self, prediction: Prediction | None) -> None:
        planes, time_s = self._waiting.popleft()
        if prediction is not None:
            self._draw(planes, time_s, prediction)
        self._file.add(planes, time_s)

    def _draw(self, planes: Planes, time_s: float, prediction: Prediction) -> None:
        panel = self._panel
        assert panel is not None
        self._extend_runs(time_s, prediction.class_id)
        span_s = self._span_s(time_s)
        while self._runs[0].end_s < span_s[0]:
            self._runs.popleft()
        strip = panel.strip(self._runs, time_s, span_s)
        below = planes.shape[0] * 2 // 3 - panel.strip_px
        blend(planes, to_yuv(strip), None, below)
        if panel.body_px:
            if self._body is None or self._body[0] is not prediction:
                image, opacity = panel.body(prediction)
                self._body = prediction, to_yuv(image), opacity
            blend(planes, self._body[1], self._body[2], below - panel.body_px)

    def _extend_runs(self, time_s: float, class_id: int) -> None:
        last = self._runs[-1] if self._runs else None
        if last is not None and last.class_id == class_id:
            self._runs[-1] = Run(last.start_s, time_s, class_id)
        else:
            self._runs.append(Run(last.end_s if last else time_s, time_s, class_id))

    def _span_s(self, time_s: float) -> tuple[float, float]:
        total_s = max(self._duration_s or 0.0, time_s)  # a file may be longer than it says
        if self._duration_s is not None and total_s <= LONGEST_STRIP_S:
            return 0.0, total_s
        return time_s - SCROLLED_S, time_s


def blend(planes: Planes, patch: Planes, opacity: NDArray[np.uint8] | None, top: int) -> None:
    """Lays a patch over the full width of a picture, in place.

    Args:
        planes: (3/2 H, W) picture in yuv420p.
        patch: (3/2 h, W) patch in yuv420p.
        opacity: (h, W), 0 to 255; `None` where nothing shines through.
        top: first line that the patch covers, even.
    """
    height, width = planes.shape[0] * 2 // 3, planes.shape[1]
    lines = patch.shape[0] * 2 // 3
    _blend_plane(planes[top : top + lines], patch[:lines], opacity)
    half = None if opacity is None else opacity[::2, ::2]
    for picture, piece in zip(
        planes[height:].reshape(2, height // 2, width // 2),
        patch[lines:].reshape(2, lines // 2, width // 2),
        strict=True,
    ):
        _blend_plane(picture[top // 2 : (top + lines) // 2], piece, half)


def _blend_plane(under: Planes, over: Planes, opacity: NDArray[np.uint8] | None) -> None:
    if opacity is None:
        under[:] = over
        return
    part = opacity.astype(np.uint16)
    under[:] = (over * part + under * (255 - part)) // 255
