"""The source's own video with its predictions drawn on it, at the source's own times.

Each frame shows the predictions of the window whose centre is nearest in time, one of each region,
and waits until they are known. How many frames wait is therefore bounded by the window: half of it
and one hop, two with several regions, and all of it at the start. If they take more than
`MAX_WAITING_BYTES`, the oldest frames are drawn with the newest predictions that are known.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dvfl_runtime.draw.encoding import Planes, VideoWriter, to_yuv
from dvfl_runtime.draw.marks import outline, tag
from dvfl_runtime.draw.palette import class_colour
from dvfl_runtime.draw.panel import LeadingClass, Panel
from dvfl_runtime.errors import OutputError
from dvfl_runtime.files import Replacement
from dvfl_runtime.results import WHOLE, Prediction
from dvfl_runtime.sources import Frame
from dvfl_runtime.streams.smoothing import boundary_s, centre_s

_logger = logging.getLogger(__name__)

SUFFIXES = (".mp4", ".mov", ".mkv")
LONGEST_STRIP_S = 600.0  # the strip of a longer video, and of a live one, scrolls
SCROLLED_S = 30.0
MAX_WAITING_BYTES = 1 << 30  # 11 s of 1920 x 1080 px at 30 frames a second, 2.9 s of 3840 x 2160


def check_overlay_suffix(path: Path) -> None:
    """Raise OutputError unless the suffix names a container that can be written."""
    if path.suffix.lower() not in SUFFIXES:
        raise OutputError(
            f"cannot write an overlay to {path}: the suffix {path.suffix!r} names no format; "
            f"use one of {', '.join(SUFFIXES)}"
        )


class OverlayVideo:
    """The video of one source with its predictions drawn on it; in place when it is finished.

    Size and times are the source's. The picture is yuv420p, which has even sides: an odd side is
    made even by repeating the pixels at the edge. When a source changes its size, further frames
    are scaled to the first one's.

    Args:
        path: of the video; its suffix names the container.
        labels: names of the classes.
        duration_s: the source's own estimate, `None` for an unknown duration.

    Raises:
        OutputError: if it cannot be written, here and later.
    """

    def __init__(
        self, path: Path, labels: Sequence[str], *, duration_s: float | None = None
    ) -> None:
        self._replacement = Replacement(path)
        try:
            self._video = VideoWriter(self._replacement.part)
        except OutputError:
            self._replacement.discard()
            raise
        self._labels = tuple(labels)
        self._duration_s = duration_s
        self._panel: Panel | None = None
        self._size: tuple[int, int] | None = None  # (width, height) of all pictures, both even
        self._waiting: deque[tuple[Planes, float]] = deque()  # (picture, its time in seconds)
        self._early = 0  # frames that could not wait for their prediction
        self._newest: list[Prediction] = []  # of one window: one of each of its regions
        self._leaders: deque[LeadingClass] = deque()
        self._body: tuple[Prediction, Planes, NDArray[np.uint8]] | None = None  # drawn last
        self._finished = False
        self._lock = threading.Lock()  # frames may come from another thread than predictions

    def __len__(self) -> int:
        """Return the number of frames that wait."""
        return len(self._waiting)

    def add(self, frame: Frame) -> None:
        """Take a frame, which is drawn on when its prediction is known."""
        planes = to_yuv(frame.image, self._size)
        with self._replacement.explaining(), self._lock:
            if self._panel is None:
                self._size = planes.shape[1], planes.shape[0] * 2 // 3
                self._panel = Panel(*self._size, self._labels)
            self._waiting.append((planes, frame.time_s))
            if len(self._waiting) * planes.nbytes > MAX_WAITING_BYTES:
                self._encode_oldest(self._newest)
                self._early += 1

    def write(self, prediction: Prediction) -> None:
        """Take the next prediction and encode the frames whose prediction is known now."""
        with self._replacement.explaining(), self._lock:
            last = self._newest
            if last and (last[0].start_s, last[0].end_s) == (prediction.start_s, prediction.end_s):
                last.append(prediction)
                return
            self._newest = [prediction]
            if last:
                self._encode_until(boundary_s(last[0], prediction), last)
            if prediction.track_id is None:  # the only one: later frames may be nearer to the next
                self._encode_until(centre_s(prediction), self._newest)

    def finish(self) -> None:
        """Encode the waiting frames and put the video in place.

        After an error, without frames, and in further calls it does nothing.
        """
        if self._finished or self._replacement.failed or self._panel is None:
            return
        self._finished = True
        with self._replacement.explaining(), self._lock:
            self._encode_until(float("inf"), self._newest)
            self._video.finish()
        self._replacement.put_in_place()
        if self._early:
            _logger.warning(
                "%d frames of the overlay were drawn before the answer of their own window was "
                "known, with the newest one there was: more than %d MB of pictures would have had "
                "to wait; choose a shorter --window-s or --hop-s, or a smaller picture",
                *(self._early, MAX_WAITING_BYTES >> 20),
            )

    def close(self) -> None:
        """Close the video, complete or not."""
        self._video.close()
        self._replacement.discard()

    def _encode_until(self, end_s: float, predictions: Sequence[Prediction]) -> None:
        """Encode the frames before `end_s` with these predictions."""
        while self._waiting and self._waiting[0][1] < end_s:
            self._encode_oldest(predictions)

    def _encode_oldest(self, predictions: Sequence[Prediction]) -> None:
        planes, time_s = self._waiting.popleft()
        if predictions:
            self._mark(planes, predictions)
            self._draw(planes, time_s, max(predictions, key=_importance))
        self._video.add(planes, time_s)

    def _mark(self, planes: Planes, predictions: Sequence[Prediction]) -> None:
        """Draw the regions, each with its id and label."""
        for prediction in predictions:
            colour = class_colour(prediction.class_id)
            if prediction.region != WHOLE:
                outline(planes, prediction.region, colour)
            if prediction.track_id is not None:
                tag(planes, prediction.region, f"{prediction.track_id} {prediction.label}", colour)

    def _draw(self, planes: Planes, time_s: float, prediction: Prediction) -> None:
        """Draw the panel about one prediction."""
        panel = self._panel
        assert panel is not None
        self._extend_leaders(time_s, prediction.class_id)
        span_s = self._strip_span_s(time_s)
        while self._leaders[0].end_s < span_s[0]:
            self._leaders.popleft()
        strip = panel.strip(self._leaders, time_s, span_s)
        below = planes.shape[0] * 2 // 3 - panel.strip_px
        blend(planes, to_yuv(strip), None, below)
        if panel.body_px:
            if self._body is None or self._body[0] is not prediction:
                image, opacity = panel.body(prediction)
                self._body = prediction, to_yuv(image), opacity
            blend(planes, self._body[1], self._body[2], below - panel.body_px)

    def _extend_leaders(self, time_s: float, class_id: int) -> None:
        last = self._leaders[-1] if self._leaders else None
        if last is not None and last.class_id == class_id:
            self._leaders[-1] = LeadingClass(last.start_s, time_s, class_id)
        else:
            self._leaders.append(LeadingClass(last.end_s if last else time_s, time_s, class_id))

    def _strip_span_s(self, time_s: float) -> tuple[float, float]:
        total_s = max(self._duration_s or 0.0, time_s)  # a file may be longer than it says
        if self._duration_s is not None and total_s <= LONGEST_STRIP_S:
            return 0.0, total_s
        return time_s - SCROLLED_S, time_s


def _importance(prediction: Prediction) -> tuple[bool, float]:
    return prediction.label != "idle", prediction.confidence


def blend(planes: Planes, patch: Planes, opacity: NDArray[np.uint8] | None, top: int) -> None:
    """Lay a patch over the full width of a picture, in place.

    Args:
        planes: (3/2 H, W) picture in yuv420p.
        patch: (3/2 h, W) patch in yuv420p.
        opacity: (h, W), 0 to 255; `None` for an opaque patch.
        top: the first line that the patch covers, even.
    """
    height, width = planes.shape[0] * 2 // 3, planes.shape[1]
    lines = patch.shape[0] * 2 // 3
    _blend_plane(planes[top : top + lines], patch[:lines], opacity)
    half = None if opacity is None else opacity[::2, ::2]
    # the planes U and V: (H/2, W) -> (2, H/2, W/2)
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
