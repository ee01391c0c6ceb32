"""From a decoded picture to the model's input: resize and crop, written once for all users.

Training's validation, int8 calibration, export verification and the device call these same
functions. `crop="center"` never antialiases, because the official weights were trained without it;
`crop="letterbox"` averages over areas when it shrinks a picture, so that a small input looks the
same whatever the resolution of the camera.
"""

from __future__ import annotations

import numpy as np

from dvfl_runtime.clips.spec import Clip, ClipSpec
from dvfl_runtime.errors import ArgumentError, ClipError
from dvfl_runtime.errors.checks import wrong
from dvfl_runtime.errors.packages import MEDIA, needed
from dvfl_runtime.sources.frame import Image, check_rgb

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
    resized = _resize(image, resized_size(width, height, spec.resize))
    (h, w), (rh, rw) = spec.size, resized.shape[:2]
    y, x = (rh - h) // 2, (rw - w) // 2
    # the centre: (rh, rw, 3) -> (H, W, 3); copied, so that `out` does not keep the larger picture
    out[:] = resized[y : y + h, x : x + w]
    return out


def preprocess_clip(clip: Clip, spec: ClipSpec) -> Clip:
    """Preprocess each frame of a clip: (T, h, w, 3) -> (T, H, W, 3).

    Raises:
        ClipError: if the clip is not (T, h, w, 3) uint8 with T = `spec.num_frames`.
        DvflError: if OpenCV is not installed.
    """
    _check_clip(clip, spec)
    return np.stack([preprocess_frame(image, spec) for image in clip])


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
    resized = _resize(image, resized_size(image.shape[1], image.shape[0], side))
    rh, rw = resized.shape[:2]
    step_y, step_x = (rh - side) // 2, (rw - side) // 2  # one of them is 0
    corners = [(k * step_y, k * step_x) for k in (0, 2, 1)]  # left, right, middle
    return [resized[y : y + side, x : x + side].copy() for y, x in corners]


def _check_clip(clip: Clip, spec: ClipSpec) -> None:
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
    canvas[:] = np.clip(np.rint(spec.mean), 0, 255).astype(np.uint8)
    y, x = (h - rh) // 2, (w - rw) // 2
    canvas[y : y + rh, x : x + rw] = _resize(image, (rw, rh), antialias=scale < 1)


def _resize(image: Image, size: tuple[int, int], *, antialias: bool = False) -> Image:
    """Scale to `size` = (width, height): bilinear with half-pixel centres, or by area means."""
    with needed("resizing frames", *MEDIA):
        import cv2
    how = cv2.INTER_AREA if antialias else cv2.INTER_LINEAR
    out = cv2.resize(np.ascontiguousarray(image), size, interpolation=how)
    return np.asarray(out, np.uint8)
