"""One colour per class, the same in a drawn video and on the page."""

from __future__ import annotations

import colorsys

Rgb = tuple[int, int, int]

# distinguishable with the common colour blindnesses, and on black as well as on white
_FIRST: tuple[Rgb, ...] = (
    (123, 135, 153),
    (230, 145, 20),
    (45, 145, 220),
    (15, 165, 120),
    (205, 95, 165),
    (215, 90, 50),
    (125, 105, 220),
    (165, 155, 35),
)
BLACK: Rgb = (0, 0, 0)
WHITE: Rgb = (255, 255, 255)
_EQUAL = 0.179  # on a ground of this luminance both have the same contrast
_UNKNOWN: Rgb = (90, 90, 90)
_GOLDEN = 0.618034  # turns of the hue per class: the golden ratio keeps any number of them apart


def class_colour(class_id: int) -> Rgb:
    """Return the colour of a class, each channel 0 to 255; -1 is what is unknown."""
    if class_id < 0:
        return _UNKNOWN
    if class_id < len(_FIRST):
        return _FIRST[class_id]
    hue = class_id * _GOLDEN % 1.0
    lightness = 0.45 + 0.1 * (class_id % 3 - 1)
    red, green, blue = colorsys.hls_to_rgb(hue, lightness, 0.6)
    return round(red * 255), round(green * 255), round(blue * 255)


def ink_on(ground: Rgb) -> Rgb:
    """Return black or white, whichever is easier to read on a colour."""
    red, green, blue = ((channel / 255) ** 2.2 for channel in ground)
    return BLACK if 0.2126 * red + 0.7152 * green + 0.0722 * blue > _EQUAL else WHITE
