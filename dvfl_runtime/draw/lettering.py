"""Text on pictures by the installed OpenCV: in a font from 5.0 on, in stroked letters before."""

from __future__ import annotations

import functools
import unicodedata
from typing import Any

from dvfl_runtime.draw.palette import Rgb
from dvfl_runtime.sources import Image

MIN_LETTER_PX = 7


def put_text(
    image: Image, text: str, at: tuple[int, int], *, size: int, room: int, colour: Rgb
) -> None:
    """Write one line, smaller or cut off if it would be wider than the room for it.

    Args:
        image: (h, w, 3) RGB uint8, drawn on in place.
        text: the line.
        at: (x, y) of the left end of the base line, px.
        size: of the letters, px.
        room: the most width that the line may take, px.
        colour: of the letters.
    """
    pen = _pen()
    size = fitting_size(text, size, room)
    while text and pen.width(text, size) > room:
        text = text[:-2] + "." if len(text) > 2 else ""
    if text:
        pen.write(image, text, at, size, colour)


def fitting_size(text: str, size: int, room: int) -> int:
    """Return the largest size, from 7 px to `size` px, at which a line fits into `room` px."""
    if (width := _pen().width(text, size)) <= room:
        return size
    return max(MIN_LETTER_PX, min(size, int(size * room / width)))


def text_width(text: str, size: int) -> int:
    """Return the width of a line, px, whose letters have `size` px."""
    return _pen().width(text, size)


@functools.cache
def _pen() -> _FontPen | _StrokePen:
    import cv2

    return _FontPen(cv2) if hasattr(cv2, "FontFace") else _StrokePen(cv2)


class _FontPen:
    """The sans-serif font inside OpenCV 5, which covers most alphabets."""

    WEIGHT = 500

    def __init__(self, cv2: Any) -> None:
        self._cv2 = cv2
        self._face = cv2.FontFace("sans")

    def width(self, text: str, size: int) -> int:
        """Return the width of a line, px."""
        box = self._cv2.getTextSize((0, 0), text, (0, 0), self._face, size, self.WEIGHT)
        return int(box[0] + box[2])

    def write(self, image: Image, text: str, at: tuple[int, int], size: int, colour: Rgb) -> None:
        """Write a line; `at` is (x, y) of the left end of its base line."""
        self._cv2.putText(image, text, at, colour, self._face, size, self.WEIGHT)


class _StrokePen:
    """The stroked letters of OpenCV 4, which cover ASCII only."""

    def __init__(self, cv2: Any) -> None:
        self._cv2 = cv2
        self._face = cv2.FONT_HERSHEY_DUPLEX

    def width(self, text: str, size: int) -> int:
        scale = self._cv2.getFontScaleFromHeight(self._face, round(size * 0.72))
        return int(self._cv2.getTextSize(_ascii(text), self._face, scale, 1)[0][0])

    def write(self, image: Image, text: str, at: tuple[int, int], size: int, colour: Rgb) -> None:
        scale = self._cv2.getFontScaleFromHeight(self._face, round(size * 0.72))
        line = self._cv2.LINE_AA
        self._cv2.putText(image, _ascii(text), at, self._face, scale, colour, 1, line)


def _ascii(text: str) -> str:
    """Return the text without accents, with `?` for each other character outside of ASCII."""
    plain = "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
    return plain.encode("ascii", "replace").decode("ascii")
