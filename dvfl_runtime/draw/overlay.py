"""The source's own video with its predictions below it, at the source's own times.

A small video is enlarged, so that its labels can be read.

Each frame shows the predictions of the window whose centre is nearest in time, one of each region,
and waits until they are known. How many frames wait is therefore bounded by the window: half of it
and one hop, two with several regions, and all of it at the start. If they take more than
`MAX_WAITING_BYTES`, the oldest frames are drawn with the newest predictions that are known.
"""

from __future__ import annotations

import logging
import math
import threading
from collections import deque
from collections.abc import Sequence
from pathlib import Path

from dvfl_runtime.draw.encoding import Planes, VideoWriter, enlarged, stacked, to_yuv
from dvfl_runtime.draw.marks import outline, tags
from dvfl_runtime.draw.palette import class_colour
from dvfl_runtime.draw.panel import LeadingClass, Panel, name_of
from dvfl_runtime.errors import OutputError
from dvfl_runtime.files import Replacement
from dvfl_runtime.results import WHOLE, Prediction
from dvfl_runtime.sources import Frame
from dvfl_runtime.streams.smoothing import boundary_s, centre_s

_logger = logging.getLogger(__name__)

SUFFIXES = (".mp4", ".mov", ".mkv")
LONGEST_STRIP_S = 600.0  # the strip of a longer video, and of a live one, scrolls
SCROLLED_S = 30.0
MIN_SIDE_PX = 320  # smaller pictures are enlarged by a whole number
MAX_ENLARGED_PX = 1920  # the longer side of what is enlarged
MAX_WAITING_BYTES = 1 << 30  # 11 s of 1920 x 1080 px at 30 frames a second, 2.9 s of 3840 x 2160


def check_overlay_suffix(path: Path) -> None:
    """Raise OutputError unless the suffix names a container that can be written."""
    if path.suffix.lower() not in SUFFIXES:
        raise OutputError(
            f"cannot write an overlay to {path}: the suffix {path.suffix!r} names no format; "
            f"use one of {', '.join(SUFFIXES)}"
        )


class OverlayVideo:
    """The video of one source with its predictions below it; in place when it is finished.

    The times are the source's, and so is the size of the picture, unless its shorter side has less
    than `MIN_SIDE_PX`: then it is a whole number of times as large. The panel is below it. The
    picture is yuv420p, which has even sides: an odd side is made even by repeating the pixels at
    the edge. When a source changes its size, further frames
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
        self._body: tuple[Prediction | None, Planes] | None = None  # drawn last
        self._times = 1  # see `magnification`
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
                self._times = magnification(*self._size)
                width, height = (self._times * side for side in self._size)
                self._panel = Panel(width, height, self._labels)
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
        picture = enlarged(planes, self._times)
        if predictions:
            picture = picture.copy() if picture is planes else picture
            self._mark(picture, predictions)
        best = max(predictions, key=_importance, default=None)
        self._video.add(stacked(picture, *self._panel_at(time_s, best)), time_s)

    def _mark(self, planes: Planes, predictions: Sequence[Prediction]) -> None:
        """Draw the regions, each with its id and label."""
        for prediction in predictions:
            if prediction.region != WHOLE:
                outline(planes, prediction.region, class_colour(prediction.class_id))
        named = [seen for seen in predictions if seen.track_id is not None]
        named.sort(key=lambda seen: str(seen.track_id))  # so that tags keep their places
        tags(planes, [(p.region, name_of(p), class_colour(p.class_id)) for p in named])

    def _panel_at(self, time_s: float, prediction: Prediction | None) -> tuple[Planes, Planes]:
        """Return the panel about one prediction, and the strip of time below it."""
        panel = self._panel
        assert panel is not None
        if prediction is not None:
            self._extend_leaders(time_s, prediction.class_id)
        span_s = self._strip_span_s(time_s)
        while self._leaders and self._leaders[0].end_s < span_s[0]:
            self._leaders.popleft()
        if self._body is None or self._body[0] is not prediction:
            self._body = prediction, to_yuv(panel.body(prediction))
        return self._body[1], to_yuv(panel.strip(self._leaders, time_s, span_s))

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


def magnification(width: int, height: int) -> int:
    """Return how many times as long the sides of a small picture are drawn, px in and out."""
    most = MAX_ENLARGED_PX // max(width, height)
    return max(1, min(math.ceil(MIN_SIDE_PX / min(width, height)), most))
