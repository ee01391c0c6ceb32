"""ClipSpec: how a model wants its clips, as data that travels inside the model file."""

from __future__ import annotations

import dataclasses
import math
import numbers
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

# what no model has: a file that asks for more is damaged, and would take all memory or never end
MAX_FRAMES = 1024
MAX_SIDE_PX = 4096
MAX_WINDOW_S = 3600.0

Crop = Literal["center", "letterbox"]

IMAGENET_MEAN = (123.675, 116.28, 103.53)
IMAGENET_STD = (58.395, 57.12, 57.375)


@dataclass(frozen=True)
class ClipSpec:
    """The contract between a model and whoever feeds it.

    Attributes:
        num_frames: T, the frames of one clip.
        size: (H, W) of the model's input, px.
        resize: the short side before the crop, px; `None` with `crop="letterbox"`.
        crop: "center" resizes the short side to `resize` and cuts `size` from the middle;
            "letterbox" fits the whole picture into `size`, averaging over areas when it shrinks,
            and pads with the mean colour.
        mean: RGB mean on the 0-255 scale.
        std: RGB standard deviation on the 0-255 scale.
        frame_interval: the official sampler's interval for trimmed videos (4 in its configs).
        window_s: the span of time that a clip covers in a stream, seconds.

    Raises:
        ValueError: if a value is out of its range.
    """

    num_frames: int = 8
    size: tuple[int, int] = (224, 224)
    resize: int | None = 256
    crop: Crop = "center"
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    frame_interval: int = 1
    window_s: float = 2.0

    def __post_init__(self) -> None:
        for name in ("num_frames", "frame_interval"):
            _check_whole(name, getattr(self, name), MAX_FRAMES)
        if not 0 < self.window_s <= MAX_WINDOW_S:
            raise ValueError(f"window_s must be > 0 and <= {MAX_WINDOW_S:.0f}, got {self.window_s}")
        for name in ("mean", "std"):
            values = getattr(self, name)
            if len(values) != 3 or not all(math.isfinite(v) for v in values):
                raise ValueError(f"{name} must be three finite numbers, got {values}")
        if min(self.std) <= 0:
            raise ValueError(f"std must be > 0, got {self.std}")
        self._check_geometry()

    def _check_geometry(self) -> None:
        if len(self.size) != 2 or min(self.size) < 1:
            raise ValueError(f"size must be (height, width), both >= 1, got {self.size}")
        for side in self.size:
            _check_whole("size", side, MAX_SIDE_PX)
        if self.crop not in get_args(Crop):
            raise ValueError(f"crop must be one of {get_args(Crop)}, got {self.crop!r}")
        if (self.crop == "letterbox") != (self.resize is None):
            raise ValueError(
                f"resize must be None with crop='letterbox' and a size in px with crop='center', "
                f"got resize={self.resize} with crop={self.crop!r}"
            )
        if self.resize is not None and self.resize < max(self.size):
            raise ValueError(f"resize must be >= the crop {self.size}, got {self.resize}")
        if self.resize is not None:
            _check_whole("resize", self.resize, MAX_SIDE_PX)

    def to_dict(self) -> dict[str, Any]:
        """Returns the spec as JSON-ready values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ClipSpec:
        """Reads what `to_dict` wrote, after a trip through JSON.

        Raises:
            ValueError: on an unknown or missing name, or a value out of range.
        """
        names = {field.name for field in dataclasses.fields(cls)}
        if unknown := sorted(set(values) - names):
            raise ValueError(f"unknown ClipSpec fields {unknown}; known are {sorted(names)}")
        if missing := sorted(names - set(values)):
            raise ValueError(f"missing ClipSpec fields {missing}")
        fields: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in values.items()
        }
        return cls(**fields)


def _check_whole(name: str, value: object, most: int) -> None:
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise ValueError(f"{name} must be a whole number, got {value!r}")
    if not 1 <= int(value) <= most:
        raise ValueError(f"{name} must be >= 1 and <= {most}, got {value}")
