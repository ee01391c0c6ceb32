"""The panel below an overlaid video: label, score bars and a strip of time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dvfl_runtime.draw.lettering import fitting_size, put_text, text_width
from dvfl_runtime.draw.palette import Rgb, class_colour
from dvfl_runtime.results import Prediction
from dvfl_runtime.sources import Image

BACK: Rgb = (17, 19, 24)
TRACK: Rgb = (52, 56, 66)
WHITE: Rgb = (245, 246, 248)
GREY: Rgb = (205, 210, 220)
MAX_BARS = 3
MIN_UNIT_PX = 12  # the least height of letters that people read on a video
UNIT_PART = 0.032  # the height of letters, of the shorter side of the picture
FILL_PART = 0.55  # of the brightness of a class's colour, behind the letters of its bar


@dataclass(frozen=True)
class LeadingClass:
    """The class that led during a span of time; the strip shows it in its colour.

    Attributes:
        start_s: start, seconds.
        end_s: end, seconds.
        class_id: the class.
    """

    start_s: float
    end_s: float
    class_id: int


class Panel:
    """Draws the panel for pictures of one size.

    The letters of all labels have one size, so that nothing jumps; a label that is much longer than
    others has smaller ones.

    Args:
        width: of the picture, px, even.
        height: of the picture, px, even.
        labels: names of the classes.

    Attributes:
        body_px: height of the part with label and bars.
        strip_px: height of the strip of time.
    """

    def __init__(self, width: int, height: int, labels: Sequence[str]) -> None:
        self._colours = {label: class_colour(n) for n, label in enumerate(labels)}
        self._unit = unit = max(MIN_UNIT_PX, round(min(width, height) * UNIT_PART))
        self._width, self._margin = width, unit // 2
        self._number_px = text_width("100%", unit) + self._margin
        self._label_left = 2 * self._margin + unit // 3
        self._label_px = _steady_size(labels, 2 * unit, width - self._label_left, unit)
        self._name_room = width - 4 * self._margin - self._number_px
        self._name_px = _steady_size(labels, unit, self._name_room, round(0.8 * unit))
        self._row = round(unit * 1.6)  # height of a bar with its letters, px
        self._head = round(unit * 2.8)  # height of the label
        rows = min(MAX_BARS, len(labels))
        self.body_px = _even(self._head + rows * self._row + self._margin)
        self.strip_px = _even(unit * 0.8)

    def body(self, prediction: Prediction | None) -> Image:
        """Draw label and bars, or the bare ground for no prediction: (body_px, width, 3) RGB."""
        image: Image = np.empty((self.body_px, self._width, 3), np.uint8)
        image[:] = BACK
        if prediction is not None:
            self._draw_label(image, prediction)
            for n, (label, score) in enumerate(prediction.top[:MAX_BARS]):
                self._draw_bar(image[self._head + n * self._row :], label, score, first=n == 0)
        return image

    def strip(
        self, leaders: Sequence[LeadingClass], now_s: float, span_s: tuple[float, float]
    ) -> Image:
        """Draw the classes that led in a span of time, with a mark at the present.

        Args:
            leaders: in the order of time.
            now_s: the time of the picture, seconds.
            span_s: the times at the left and at the right edge, seconds.

        Returns:
            (strip_px, width, 3) RGB uint8.
        """
        image: Image = np.empty((self.strip_px, self._width, 3), np.uint8)
        image[:] = TRACK
        begin_s, end_s = span_s
        scale = self._width / max(end_s - begin_s, 1e-9)
        for leader in leaders:
            left = max(0, round((leader.start_s - begin_s) * scale))
            right = max(0, round((min(leader.end_s, now_s) - begin_s) * scale))
            image[:, left:right] = class_colour(leader.class_id)
        mark = min(self._width - 2, max(0, round((now_s - begin_s) * scale) - 1))
        image[:, mark : mark + 2] = WHITE
        return image

    def _draw_label(self, image: Image, prediction: Prediction) -> None:
        unit, left = self._unit, self._label_left
        chip = slice(self._margin, self._margin + unit // 3)  # in the class's colour
        image[self._margin : self._head - self._margin, chip] = class_colour(prediction.class_id)
        at = left, self._head // 2 + round(self._label_px * 0.34)
        room = self._width - left - self._margin
        put_text(image, name_of(prediction), at, size=self._label_px, room=room, colour=WHITE)

    def _draw_bar(self, image: Image, label: str, score: float, *, first: bool) -> None:
        margin, ink = self._margin, WHITE if first else GREY
        right = self._width - margin - self._number_px
        bar = image[1 : self._row - 1, margin:right]
        bar[:] = TRACK
        colour = np.array(self._colours.get(label, GREY)) * FILL_PART
        bar[:, : round(bar.shape[1] * min(max(score, 0.0), 1.0))] = colour.astype(np.uint8)
        base = self._row // 2 + round(self._unit * 0.34)
        name, number = (2 * margin, base), (right + margin, base)
        put_text(image, label, name, size=self._name_px, room=self._name_room, colour=ink)
        room = self._number_px - margin
        put_text(image, f"{score:.0%}", number, size=self._unit, room=room, colour=ink)


def name_of(prediction: Prediction) -> str:
    """Return the label, and before it which of several regions it is about."""
    track_id = prediction.track_id
    return prediction.label if track_id is None else f"{track_id}: {prediction.label}"


def _steady_size(labels: Sequence[str], size: int, room: int, least: int) -> int:
    """Return the size of letters, from `least` to `size` px, at which all labels fit, if any."""
    return max(least, min(fitting_size(label, size, room) for label in labels))


def _even(px: float) -> int:
    return 2 * max(1, round(px / 2))
