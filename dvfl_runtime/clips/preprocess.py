"""From a decoded picture to the model's input: resize and crop, written once for all users.

Training's validation, int8 calibration, export verification and the device call these same
functions. `crop="center"` never antialiases, because the official weights were trained without it;
`crop="letterbox"` averages over areas when it shrinks a picture, so that a small input looks the
same whatever the resolution of the camera.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dvfl_runtime.clips.focus import find_region
from dvfl_runtime.clips.motion import small_grey
from dvfl_runtime.clips.resizing import resize
from dvfl_runtime.clips.spec import Clip, ClipSpec
from dvfl_runtime.errors import ArgumentError, ClipError
from dvfl_runtime.errors.checks import wrong
from dvfl_runtime.results import WHOLE, Region
from dvfl_runtime.sources.frame import Image, check_rgb

CONTEXT_SIDES = 4  # short sides of the model's input in that of a picture that parts are cut from
MAX_ASPECT = 100  # beyond it a resized picture would need gigabytes; no camera is that wide


def resized_size(width: int, height: int, short_side: int) -> tuple[int, int]:
    """Return (width, height), px, of a picture scaled so that its short side is `short_side`."""
    scale = short_side / min(width, height)
    if width <= height:
        return short_side, int(height * scale + 0.5)
    return int(width * scale + 0.5), short_side


def preprocess_frame(image: Image, spec: ClipSpec, *, out: Image | None = None) -> Image:
    """Resize and crop one picture to the model's input.

    Args:
        image: (h, w, 3) RGB uint8 of any size.
        spec: the model's contract.
        out: (H, W, 3) uint8 memory for the result; fresh memory by default.

    Returns:
        (H, W, 3) RGB uint8: `out`, if it was passed.

    Raises:
        ClipError: if the picture is not an (h, w, 3) uint8 array.
        DvflError: if OpenCV is not installed.
    """
    _check_resizable(image)
    height, width = image.shape[:2]
    out = np.empty((*spec.size, 3), np.uint8) if out is None else out
    if spec.resize is None:
        _letterbox(image, spec, out)
        return out
    resized = resize(image, resized_size(width, height, spec.resize))
    (h, w), (rh, rw) = spec.size, resized.shape[:2]
    y, x = (rh - h) // 2, (rw - w) // 2
    # the centre: (rh, rw, 3) -> (H, W, 3); copied, so that `out` does not keep the larger picture
    out[:] = resized[y : y + h, x : x + w]
    return out


def preprocess_clip(clip: Clip, spec: ClipSpec) -> Clip:
    """Cut a clip to what the model looks at, and preprocess it: (T, h, w, 3) -> (T, H, W, 3).

    Raises:
        ClipError: if the clip is not (T, h, w, 3) uint8 with T = `spec.num_frames`.
        DvflError: if OpenCV is not installed.
    """
    return focused_clip(clip, spec)[0]


def focused_clip(clip: Clip, spec: ClipSpec) -> tuple[Clip, Region]:
    """Do what `preprocess_clip` does; return the region of the pictures, too."""
    check_clip(clip, spec)
    images, region = focused(list(clip), spec)
    return np.stack([preprocess_frame(image, spec) for image in images]), region


def focused(images: Sequence[Image], spec: ClipSpec) -> tuple[Sequence[Image], Region]:
    """Cut the pictures of a single clip to what the model looks at.

    Args:
        images: T pictures (h, w, 3) RGB uint8.
        spec: the model's contract.

    Returns:
        The pictures themselves or, if the model looks at what moves, the region of each of them;
        and the region in the middle one.

    Raises:
        ClipError: if a picture is not an (h, w, 3) uint8 array.
        DvflError: if OpenCV is not installed.
    """
    if spec.focus == "frame":
        return images, WHOLE
    contexts = [context_frame(image, spec) for image in images]
    found, _ = find_region([small_grey(image) for image in contexts], aspect_of(spec))
    return [cut(image, found.region_at(n)) for n, image in enumerate(contexts)], found.region


def aspect_of(spec: ClipSpec) -> float:
    """Return the width of the model's input over its height."""
    return spec.size[1] / spec.size[0]


def context_frame(image: Image, spec: ClipSpec) -> Image:
    """Shrink a picture so that parts of it can be cut out later and still fill the model's input.

    Returns:
        (h, w, 3) RGB uint8 whose short side is at most four times that of the model's input: in
        memory of its own, or `image` itself if it is no larger.

    Raises:
        ClipError: if the picture is not an (h, w, 3) uint8 array.
        DvflError: if OpenCV is not installed.
    """
    _check_resizable(image)
    short_px = CONTEXT_SIDES * min(spec.size)
    # halving is an area mean that takes a fifteenth of the time of one by any other factor
    while spec.crop == "letterbox" and min(image.shape[:2]) >= 2 * short_px:
        height, width = (side // 2 for side in image.shape[:2])
        image = resize(image[: 2 * height, : 2 * width], (width, height), antialias=True)
    height, width = image.shape[:2]
    if min(height, width) <= short_px:
        return image
    return resize(image, resized_size(width, height, short_px))


def cut(image: Image, region: Region) -> Image:
    """Return a part of a picture, as a view: (h, w, 3) -> (h', w', 3)."""
    height, width = image.shape[:2]
    left, top, w, h = region
    x, y = min(width - 1, round(left * width)), min(height - 1, round(top * height))
    right, bottom = round((left + w) * width), round((top + h) * height)
    return image[y : max(bottom, y + 1), x : max(right, x + 1)]


def spatial_views(image: Image, spec: ClipSpec, views: int) -> list[Image]:
    """Cut the spatial views that the published evaluation averages over.

    Args:
        image: (h, w, 3) RGB uint8.
        spec: the model's contract.
        views: 1 for the spec's own crop; 3 for the official three-crop: the short side scaled to
            the crop size, then crops at the left, right and middle of the long side.

    Returns:
        `views` pictures (H, W, 3).

    Raises:
        ArgumentError: if `views` is neither 1 nor 3, or is 3 for a model whose input is not square.
        ClipError: if the picture is not an (h, w, 3) uint8 array.
        DvflError: if OpenCV is not installed.
    """
    if views == 1:
        return [preprocess_frame(image, spec)]
    if views != 3:
        raise wrong("views", "1 or 3", views)
    side = spec.size[0]
    if spec.size != (side, side):
        raise ArgumentError(f"3 spatial views need a square input, this model's is {spec.size}")
    _check_resizable(image)
    resized = resize(image, resized_size(image.shape[1], image.shape[0], side))
    rh, rw = resized.shape[:2]
    step_y, step_x = (rh - side) // 2, (rw - side) // 2  # one of them is 0
    corners = [(k * step_y, k * step_x) for k in (0, 2, 1)]  # left, right, middle
    return [resized[y : y + side, x : x + side].copy() for y, x in corners]


def check_clip(clip: Clip, spec: ClipSpec) -> None:
    """Raise ClipError unless `clip` is a (T, h, w, 3) uint8 array with the model's T."""
    check_rgb(clip, "a clip", (str(spec.num_frames), "H", "W", "3"))
    if len(clip) != spec.num_frames:
        raise ClipError(
            f"this model takes {spec.num_frames} frames, got {len(clip)}; pick them with "
            f"sampling.uniform_indices, or hand the whole video to classify() or stream()"
        )


def _check_resizable(image: Image) -> None:
    """Raise ClipError unless `image` is an (h, w, 3) uint8 array that is not too narrow."""
    check_rgb(image)
    short, long = sorted(image.shape[:2])
    if long > MAX_ASPECT * short:
        raise ClipError(f"a frame of {image.shape[1]}x{image.shape[0]} px is too narrow to resize")


def _letterbox(image: Image, spec: ClipSpec, canvas: Image) -> None:
    height, width = image.shape[:2]
    h, w = spec.size
    scale = min(w / width, h / height)
    rw = min(w, max(1, int(width * scale + 0.5)))
    rh = min(h, max(1, int(height * scale + 0.5)))
    if (rh, rw) != (h, w):
        canvas[:] = np.clip(np.rint(spec.mean), 0, 255).astype(np.uint8)
    y, x = (h - rh) // 2, (w - rw) // 2
    resize(image, (rw, rh), antialias=scale < 1, out=canvas[y : y + rh, x : x + rw])
