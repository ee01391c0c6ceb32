"""Decodes image files, and reads their size before it does."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from dvfl_runtime.errors.packages import MEDIA, needed
from dvfl_runtime.sources.decoding.picture import MAX_PIXELS
from dvfl_runtime.sources.folders import OTHER_IMAGE_SUFFIXES, is_image
from dvfl_runtime.sources.frame import Image
from dvfl_runtime.sources.opencv import quiet_opencv, rgb_from_bgr

UNREADABLE = "cannot be read"
TOO_LARGE = f"have more than {MAX_PIXELS / 1e6:.0f} megapixels"
ANIMATED = "are animations, of which the first picture is read; make videos of them"
DARK = "use the lowest {} of 16 bits and look too dark; scale them up, or convert them to 8 bits"

_PIXMAP = re.compile(rb"P[1-6]\s+(?:#[^\n]*\n\s*)*(\d+)\s+(?:#[^\n]*\n\s*)*(\d+)")
TIFF_WIDTH, TIFF_HEIGHT = 256, 257  # tags


def decode_still(data: bytes) -> tuple[Image | None, str]:
    """Decode the content of an image file.

    Returns:
        Its picture, (H, W, 3) uint8 RGB, upright by what the file says, or `None` if there is none;
        and its problem, as the end of a sentence about such files, empty if it has none.

    Raises:
        DvflError: if OpenCV is missing.
    """
    with needed("reading image files", *MEDIA):
        import cv2

    if any(width * height > MAX_PIXELS for width, height in sizes_in(data)):
        return None, TOO_LARGE
    encoded = np.frombuffer(data, np.uint8)
    try:
        with quiet_opencv():
            # not cv2.imread, which cannot open every path on Windows and prints to stderr
            bgr = cv2.imdecode(encoded, cv2.IMREAD_COLOR)  # 8 bits, whatever the file has
            if bgr is None:
                return None, UNREADABLE
            rgb = rgb_from_bgr(np.asarray(bgr, np.uint8))
            if rgb.max() <= 64:  # of 255: 14 bits or fewer of 16 are used
                deep = cv2.imdecode(encoded, cv2.IMREAD_ANYDEPTH)
                if deep is not None and deep.dtype == np.uint16 and deep.any():
                    return rgb, DARK.format(int(deep.max()).bit_length())
    except cv2.error:
        return None, UNREADABLE
    return rgb, ANIMATED if _is_animated(data) else ""


def is_still(path: Path) -> bool:
    """Return whether a file is an image. An animated PNG is none: FFmpeg reads it as a video."""
    suffix = path.suffix.lower()
    if suffix != ".png":
        return is_image(path) or suffix in OTHER_IMAGE_SUFFIXES
    try:
        with path.open("rb") as file:
            return not _is_animated(file.read(1 << 16))
    except OSError:
        return True  # reading it will raise the error


def _is_animated(data: bytes) -> bool:
    """Return whether an image file holds several pictures: a WebP or a PNG with animation."""
    if data[:4] == b"RIFF" and data[12:16] == b"VP8X":
        return data[20:21] > b"\0" and bool(data[20] & 2)
    return data.startswith(b"\x89PNG") and 0 < data.find(b"acTL") < data.find(b"IDAT")


def sizes_in(data: bytes) -> Iterator[tuple[int, int]]:
    """Yield the widths and heights in the headers of an image file; none if they are damaged."""
    try:
        if data.startswith(b"\x89PNG"):
            yield struct.unpack_from(">II", data, 16)
        elif data.startswith(b"BM"):
            width, height = struct.unpack_from("<ii", data, 18)
            yield abs(width), abs(height)
        elif data.startswith(b"\xff\xd8"):
            yield from _jpeg_sizes(data)
        elif data[:4] == b"RIFF" and data[8:12] == b"WEBP":
            yield _webp_size(data)
        elif data[:4] in (b"II*\0", b"MM\0*"):
            yield _tiff_size(data)
        elif found := _PIXMAP.match(data):
            yield int(found[1]), int(found[2])
        else:  # boxes of AVIF and of JPEG 2000
            for box in re.finditer(b"ispe", data[: 1 << 16]):
                yield struct.unpack_from(">II", data, box.end() + 4)
            for box in re.finditer(b"ihdr", data[: 1 << 16]):
                height, width = struct.unpack_from(">II", data, box.end())
                yield width, height
    except (struct.error, KeyError, ValueError):  # ValueError: a number of 5,000 digits
        return


def _jpeg_sizes(data: bytes) -> Iterator[tuple[int, int]]:
    at = 2
    while data[at : at + 1] == b"\xff":
        kind, length = struct.unpack_from(">xBH", data, at)
        if 0xC0 <= kind <= 0xCF and kind not in (0xC4, 0xC8, 0xCC):  # a frame begins
            height, width = struct.unpack_from(">HH", data, at + 5)
            yield width, height
        at += 2 + length


def _webp_size(data: bytes) -> tuple[int, int]:
    kind = data[12:16]
    if kind == b"VP8X":
        low, lower, high, higher = struct.unpack_from("<HBHB", data, 24)
        return 1 + low + (lower << 16), 1 + high + (higher << 16)
    if kind == b"VP8L":
        bits = struct.unpack_from("<I", data, 21)[0]
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    width, height = struct.unpack_from("<HH", data, 26)
    return width & 0x3FFF, height & 0x3FFF


def _tiff_size(data: bytes) -> tuple[int, int]:
    order = "<" if data[:1] == b"I" else ">"
    at = struct.unpack_from(order + "I", data, 4)[0]
    tags: dict[int, int] = {}
    for i in range(struct.unpack_from(order + "H", data, at)[0]):
        tag, kind = struct.unpack_from(order + "HH", data, at + 2 + 12 * i)
        if kind in (3, 4):  # 16 or 32 bits
            form = order + ("H" if kind == 3 else "I")
            tags[tag] = struct.unpack_from(form, data, at + 10 + 12 * i)[0]
    return tags[TIFF_WIDTH], tags[TIFF_HEIGHT]
