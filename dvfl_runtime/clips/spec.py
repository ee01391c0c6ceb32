"""What a clip is, where it comes from, and how it is made for a model.

The last is the ClipSpec: data that travels inside the model file.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from dvfl_runtime.errors import ArgumentError
from dvfl_runtime.errors.checks import check_choice, check_number, check_type, check_whole, wrong
from dvfl_runtime.results import WHOLE, Region, TrackId

Clip: TypeAlias = NDArray[np.uint8]  # (T, H, W, 3) RGB: the frames of one forward pass

# no model has more: a file that asks for more is damaged, and would take all memory or never end
MAX_FRAMES = 1024
MAX_SIDE_PX = 4096
MAX_CLIP_PX = 1 << 28  # 1024 frames of 512 x 512
MAX_WINDOW_S = 3600.0

RESIZE_RATIO = 256 / 224  # short side before the crop : crop, as in the official pipeline

Crop = Literal["center", "letterbox"]
Focus = Literal["frame", "motion"]

IMAGENET_MEAN = (123.675, 116.28, 103.53)
IMAGENET_STD = (58.395, 57.12, 57.375)


@dataclass(frozen=True)
class ClipOrigin:
    """Where a clip comes from.

    Attributes:
        source: name of the source.
        start_s: start of the clip's window on the source's clock, seconds.
        end_s: end of the window, seconds.
        since_ns: when the clip was ready for the engine or, of a live source, when its newest
            picture arrived; `time.monotonic_ns`.
        dropped_frames: frames since the last clip of the source that no clip shows.
        region: the part of the picture that the clip was cut from.
        track_id: of what it shows; `None` if that is the only thing.
    """

    source: str = ""
    start_s: float = 0.0
    end_s: float = 0.0
    since_ns: int = 0
    dropped_frames: int = 0
    region: Region = WHOLE
    track_id: TrackId | None = None


@dataclass(frozen=True)
class ClipSpec:
    """How clips are made for a model, wherever it is trained, checked or run.

    Attributes:
        num_frames: T, the frames of one clip.
        size: (H, W) of the model's input, px.
        resize: the short side before the crop, px; by default it follows from `size`: 8/7 of its
            short side, the official ratio (256 for 224), and at least its long side. Always `None`
            with `crop="letterbox"`.
        crop: "center" resizes the short side to `resize` and cuts `size` from the middle;
            "letterbox" fits the whole picture into `size`, averaging over areas when it shrinks,
            and pads with the mean colour.
        mean: RGB mean on the 0-255 scale.
        std: RGB standard deviation on the 0-255 scale.
        frame_interval: the official sampler's interval for trimmed videos (4 in its configs).
        window_s: the span of time that a clip covers in a stream, seconds.
        focus: what a clip is cut from before `crop`: "frame", the whole picture, or "motion", the
            part of it in which something moves; see `clips.focus`.

    Raises:
        ArgumentError: if a value is out of its range.
    """

    num_frames: int = 8
    size: tuple[int, int] = (224, 224)
    resize: int | None = None
    crop: Crop = "center"
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    frame_interval: int = 1
    window_s: float = 2.0
    focus: Focus = "frame"

    def __post_init__(self) -> None:
        for name in ("num_frames", "frame_interval"):
            check_whole(name, getattr(self, name), 1, MAX_FRAMES)
        check_number("window_s", self.window_s, above=0, most=MAX_WINDOW_S)
        for name in ("mean", "std"):
            _check_length(name, getattr(self, name), 3, "three numbers")
            for value in getattr(self, name):
                check_number(name, value, above=0.0 if name == "std" else -math.inf)
        self._check_geometry()

    def _check_geometry(self) -> None:
        _check_length("size", self.size, 2, "(height, width)")
        for side in self.size:
            check_whole("size", side, 1, MAX_SIDE_PX)
        check_whole(
            "num_frames x height x width", self.num_frames * math.prod(self.size), 1, MAX_CLIP_PX
        )
        check_choice("crop", self.crop, get_args(Crop))
        check_choice("focus", self.focus, get_args(Focus))
        if self.crop == "letterbox":
            if self.resize is not None:
                raise ArgumentError(f"resize does not go with crop='letterbox', got {self.resize}")
            return
        follows = max(*self.size, round(min(self.size) * RESIZE_RATIO))
        resize = min(MAX_SIDE_PX, follows) if self.resize is None else self.resize
        check_whole("resize", resize, 1, MAX_SIDE_PX)
        if resize < max(self.size):
            raise ArgumentError(f"resize must be >= the crop {self.size}, got {resize}")
        object.__setattr__(self, "resize", resize)  # the class is frozen

    def to_dict(self) -> dict[str, Any]:
        """Return the spec as JSON-ready values, without the focus if it is the whole picture.

        Nothing else was known before format version 2, and older versions go on to read the spec.
        """
        values = dataclasses.asdict(self)
        if self.focus == "frame":
            del values["focus"]
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ClipSpec:
        """Return the spec that `to_dict` was called on, also after its values went through JSON.

        Raises:
            ArgumentError: on an unknown or missing name, or a value out of range.
        """
        check_type("spec", values, Mapping, "a mapping of the fields of a ClipSpec")
        names = {field.name for field in dataclasses.fields(cls)}
        if unknown := sorted(set(values) - names):
            raise ArgumentError(f"unknown ClipSpec fields {unknown}; known are {sorted(names)}")
        if missing := sorted(names - {"focus"} - set(values)):
            raise ArgumentError(f"missing ClipSpec fields {missing}")
        if values["resize"] is None and values["crop"] == "center":  # files state every value
            raise ArgumentError("resize must be a size in px with crop='center', got None")
        fields: dict[str, Any] = dict(values)
        fields.update({k: tuple(v) for k, v in values.items() if isinstance(v, list)})  # of JSON
        return cls(**fields)


def _check_length(name: str, value: object, length: int, wanted: str) -> None:
    if not isinstance(value, (tuple, list)) or len(value) != length:
        raise wrong(name, wanted, value)
