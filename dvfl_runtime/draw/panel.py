"""The panel at the foot of an overlaid video: label, score bars and a strip of time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dvfl_runtime.draw.lettering import fitting_size, put_text
from dvfl_runtime.draw.palette import Rgb, class_colour
from dvfl_runtime.results import Prediction
from dvfl_runtime.sources import Image

BACK: Rgb = (17, 19, 24)
TRACK: Rgb = (52, 56, 66)
WHITE: Rgb = (245, 246, 248)
GREY: Rgb = (190, 195, 205)
BACK_ALPHA = 185  # of 255: the picture shines through
MAX_BARS = 3
MAX_PART = 0.4  # of the picture's height, for the whole panel
LABEL_PART = 0.44  # of its width, for the label, left of the bars
NAME_PART = 0.25  # of its width, for the names before the bars


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

    Args:
        width: of the picture, px, even.
        height: of the picture, px, even.
        labels: names of the classes.

    Attributes:
        body_px: height of the part with label and bars; 0 if the picture is too small for it.
        strip_px: height of the strip of time.
    """

    def __init__(self, width: int, height: int, labels: Sequence[str]) -> None:
        self._colours = {label: class_colour(n) for n, label in enumerate(labels)}
        self._unit = max(10, round(min(width, height) * 0.036))  # height of the letters, px
        self._width = width
        self.strip_px = _even(min(self._unit * 0.8, height * MAX_PART))
        self._row = round(self._unit * 1.5)  # height of a bar with its letters, px
        room = (height * MAX_PART - self.strip_px - self._unit) / self._row
        self._rows = max(0, min(MAX_BARS, int(room)))
        self.body_px = _even(self._rows * self._row + self._unit) if self._rows else 0

    def body(self, prediction: Prediction) -> tuple[Image, NDArray[np.uint8]]:
        """Draw the label and the bars.

        Returns:
            (h, width, 3) RGB uint8 and (h, width) opacity, 0 to 255, where h is `body_px`.
        """
        image: Image = np.empty((self.body_px, self._width, 3), np.uint8)
        image[:] = BACK
        if self._rows:
            self._draw_label(image, prediction)
            self._draw_bars(image, prediction.top[: self._rows])
        # letters and bars are opaque, and the picture shines through the rest
        drawn = (image != np.array(BACK, np.uint8)).any(axis=2)
        return image, np.where(drawn, 255, BACK_ALPHA).astype(np.uint8)

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
        unit, height = self._unit, len(image)
        size = min(round(unit * 1.9), round(height * 0.6))
        chip = max(3, unit // 3)  # width of a mark in the class's colour, left of the label
        top = (height - size) // 2
        image[top : top + size, unit // 2 : unit // 2 + chip] = class_colour(prediction.class_id)
        left = unit // 2 + chip + unit // 2
        room = round(self._width * LABEL_PART) - left - unit
        at = (left, top + round(size * 0.8))
        put_text(image, prediction.label, at, size=size, room=room, colour=WHITE)

    def _draw_bars(self, image: Image, top: Sequence[tuple[str, float]]) -> None:
        unit, row = self._unit, self._row
        # from left to right: names, bars, numbers
        left = round(self._width * LABEL_PART)
        name_px = round(self._width * NAME_PART)
        number_px = round(unit * 2.6)
        bar_left = left + name_px
        bar_px = max(1, self._width - unit // 2 - number_px - bar_left)
        name_room = name_px - unit // 2
        size = min(fitting_size(label, unit, name_room) for label, _ in top)
        for n, (label, score) in enumerate(top):
            y = unit // 2 + n * row
            base = y + round(row * 0.7)
            ink = WHITE if n == 0 else GREY
            put_text(image, label, (left, base), size=size, room=name_room, colour=ink)
            bar = image[y + row // 4 : y + row - row // 4, bar_left : bar_left + bar_px]
            bar[:] = TRACK
            bar[:, : round(bar_px * min(max(score, 0.0), 1.0))] = self._colours.get(label, GREY)
            at = bar_left + bar_px + unit // 3, base
            room = number_px - unit // 3
            put_text(image, f"{score:.0%}", at, size=unit, room=room, colour=ink)


def _even(px: float) -> int:
    return 2 * max(1, round(px / 2))
