"""What cameras do to videos, at fixed strengths, before a model's clips are cut from them.

Lengths are shares of the picture's height, so that they mean the same for any video; noise and
light are of a pixel as the camera delivers it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from typing import Any, TypeAlias

import cv2
import numpy as np

from dvfl_runtime.sources import Image, Source
from dvfl_runtime.sources.frame import Frame

Frames: TypeAlias = Iterator[Frame]
Draw: TypeAlias = Callable[[Image, np.random.Generator], Image]


@dataclass(frozen=True)
class Corruption:
    """One thing that a camera does.

    Attributes:
        kind: groups the strengths of the same thing.
        strength: in words.
        change: from the frames of a video and a seed to those of the corrupted video.
    """

    kind: str
    strength: str
    change: Callable[[Frames, int], Frames]

    @property
    def name(self) -> str:
        """The kind with its strength."""
        return f"{self.kind} {self.strength}".strip()


class CorruptedSource:
    """A recorded source as another camera would have delivered it, the same in each reading."""

    live = False

    def __init__(self, source: Source, corruption: Corruption, seed: int) -> None:
        self.source, self.corruption, self.seed = source, corruption, seed
        self.name, self.duration_s = source.name, source.duration_s
        self.rewindable = source.rewindable

    def frames(self) -> Frames:
        """Yield the changed frames."""
        return self.corruption.change(self.source.frames(), self.seed)

    def close(self) -> None:
        """Close the source."""
        self.source.close()


def each(draw: Draw, frames: Frames, seed: int) -> Frames:
    """Change each picture alone; random numbers depend on the seed and the frame's number."""

    def changed(frame: Frame) -> Image:
        return draw(frame.image, np.random.default_rng([seed, frame.index]))

    for frame in frames:
        yield frame.replace(image=partial(changed, frame))


def slower(fps: float, frames: Frames, seed: int) -> Frames:
    """Keep the first frame of each 1 / fps seconds."""
    due_s, kept = -np.inf, 0
    for frame in frames:
        if frame.time_s >= due_s - 1e-6:
            due_s = frame.time_s + 1 / fps if not kept else due_s + 1 / fps
            yield frame.replace(index=kept)
            kept += 1


def compressed(crf: int, frames: Frames, seed: int) -> Frames:
    """Encode with H.264 at a constant quality, a key frame each second, and decode again."""
    import av

    encoder = decoder = None
    for frame in frames:
        image = np.ascontiguousarray(frame.image)
        even = image[: image.shape[0] // 2 * 2, : image.shape[1] // 2 * 2]
        if encoder is None or decoder is None or (encoder.height, encoder.width) != even.shape[:2]:
            encoder = av.CodecContext.create("libx264", "w")
            encoder.height, encoder.width = even.shape[:2]
            encoder.pix_fmt, encoder.framerate = "yuv420p", Fraction(25)
            encoder.options = {
                "crf": str(crf),
                "preset": "veryfast",
                "tune": "zerolatency",
                "g": "25",
            }
            decoder = av.CodecContext.create("h264", "r")
            decoder.thread_count = 1
        picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(even), format="rgb24")
        decoded = [out for packet in encoder.encode(picture) for out in decoder.decode(packet)]
        yield frame.replace(image=decoded[-1].to_ndarray(format="rgb24") if decoded else even)


def _lit(factor: float, image: Image, rng: np.random.Generator) -> Image:
    return _bytes(image * np.float32(factor))


def _flickering(least: float, image: Image, rng: np.random.Generator) -> Image:
    return _lit(rng.uniform(least, 1), image, rng)


def _noisy(read: float, shot: float, light: float, image: Image, rng: np.random.Generator) -> Image:
    """Add sensor noise: of deviation `read` at black, and `shot` more at white."""
    lit = image * np.float32(light)
    deviation = np.sqrt(read**2 + shot**2 * lit / 255)
    return _bytes(lit + deviation * rng.standard_normal(image.shape, np.float32))


def _tilted(degrees: float, image: Image, rng: np.random.Generator) -> Image:
    height, width = image.shape[:2]
    turn = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), degrees, 1)
    return _warped(image, turn)


def _shaken(share: float, image: Image, rng: np.random.Generator) -> Image:
    move = rng.uniform(-share, share, 2) * image.shape[0]
    return _warped(image, np.column_stack([np.eye(2), move]))


def _blurred(share: float, image: Image, rng: np.random.Generator) -> Image:
    return np.asarray(cv2.GaussianBlur(image, (0, 0), share * image.shape[0]), np.uint8)


def _warped(image: Image, matrix: np.ndarray[Any, Any]) -> Image:
    size = image.shape[1], image.shape[0]
    return np.asarray(
        cv2.warpAffine(image, matrix, size, borderMode=cv2.BORDER_REPLICATE), np.uint8
    )


def _bytes(values: np.ndarray[Any, Any]) -> Image:
    return np.asarray(np.clip(np.rint(values), 0, 255), np.uint8)


def _of(kind: str, strength: str, draw: Callable[..., Image], *values: float) -> Corruption:
    return Corruption(kind, strength, partial(each, partial(draw, *values)))


# 8 % of the height is 5 px of 64
CORRUPTIONS = (
    _of("light", "1/3", _lit, 1 / 3),
    _of("light", "1/6", _lit, 1 / 6),
    _of("light", "x 1.8", _lit, 1.8),
    _of("flicker", "0.5-1", _flickering, 0.5),
    Corruption("frame rate", "8 fps", partial(slower, 8.0)),
    Corruption("frame rate", "4 fps", partial(slower, 4.0)),
    _of("tilt", "10 degrees", _tilted, 10),
    _of("tilt", "20 degrees", _tilted, 20),
    _of("noise", "8", _noisy, 8, 0, 1),
    _of("noise", "15", _noisy, 15, 0, 1),
    _of("noise", "25", _noisy, 25, 0, 1),
    _of("shot noise", "3 + 20", _noisy, 3, 20, 1),
    _of("dark, noise", "1/3, 10", _noisy, 10, 0, 1 / 3),
    _of("dark, noise", "1/6, 8", _noisy, 8, 0, 1 / 6),
    _of("shake", "3 %", _shaken, 0.03),
    _of("shake", "8 %", _shaken, 5 / 64),
    _of("blur", "1.5 %", _blurred, 0.015),
    _of("blur", "3 %", _blurred, 0.03),
    Corruption("compression", "crf 38", partial(compressed, 38)),
    Corruption("compression", "crf 46", partial(compressed, 46)),
)
