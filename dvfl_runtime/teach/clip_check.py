"""What a recorded clip shows: whether something can be learnt from it, and what the model sees."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dvfl_runtime.clips.labelled import IDLE
from dvfl_runtime.clips.motion import small_grey
from dvfl_runtime.clips.preprocess import focused_clip
from dvfl_runtime.clips.sampling import interval_s, window_targets
from dvfl_runtime.clips.spec import ClipSpec
from dvfl_runtime.errors import SourceError
from dvfl_runtime.sources import Image, open_source

DARK = 30.0  # mean grey level: black is 0, white 255
STILL_SHARE = 0.002  # of the picture has to change
CHANGE = 16.0  # grey levels; sensors and codecs change less where nothing moves
MAX_GAP_S = 0.25  # between two pictures; and
GAP_STEPS = 3.0  # so many times the usual distance
SHORT_SHARE = 0.85  # of the time that was to be recorded


@dataclass(frozen=True, eq=False)
class CheckedClip:
    """A recorded clip.

    Attributes:
        path: of the file.
        label: the action.
        seconds: its length.
        frames: its pictures.
        warnings: what speaks against it, each in a few words.
        strip: (h, T w, 3) RGB, the pictures of a clip as the model sees them, side by side.
    """

    path: Path
    label: str
    seconds: float
    frames: int
    warnings: tuple[str, ...]
    strip: Image


def check_clip(path: Path, label: str, seconds: float, spec: ClipSpec) -> CheckedClip:
    """Read a clip that was recorded, and say what it is worth.

    Args:
        path: of the file.
        label: the action.
        seconds: how long it was to be.
        spec: of the model that it is recorded for.

    Raises:
        SourceError: if it cannot be read.
    """
    times, images = _read(path, window_targets(0.0, seconds, spec.num_frames))
    step_s = interval_s(times, 0.0)
    length_s = times[-1] - times[0] + step_s
    warnings = _gaps(times, step_s, length_s, seconds)
    greys = [small_grey(image) for image in images]
    brightness = float(np.mean([grey.mean() for grey in greys]))
    if brightness < DARK:
        warnings.append(f"dark: brightness {brightness:.0f} of 255")
    elif label.casefold() != IDLE and _is_still(greys):
        warnings.append("still: nothing moves")
    clip, _ = focused_clip(np.stack(images), spec)
    strip = np.concatenate(list(clip), axis=1)  # (T, h, w, 3) -> (h, T w, 3)
    return CheckedClip(path, label, round(length_s, 2), len(times), tuple(warnings), strip)


def _read(path: Path, targets: NDArray[np.float64]) -> tuple[list[float], list[Image]]:
    """Return the times of all pictures, and the picture at or after each of the targets."""
    times: list[float] = []
    images: list[Image] = []
    with closing(open_source(path)) as source:
        for frame in source.frames():
            times.append(frame.time_s)
            while len(images) < len(targets) and frame.time_s >= targets[len(images)]:
                images.append(frame.image)
            last = frame
    if len({image.shape for image in images}) > 1:
        raise SourceError(f"the pictures of {path} change their size; record it again")
    images += [last.image] * (len(targets) - len(images))
    return times, images


def _gaps(times: list[float], step_s: float, length_s: float, seconds: float) -> list[str]:
    longest_s = max(np.diff(times), default=0.0)
    if longest_s > max(MAX_GAP_S, GAP_STEPS * step_s):
        return [f"gaps: no picture for {longest_s:.1f} s"]
    if length_s < SHORT_SHARE * seconds:
        return [f"gaps: {length_s:.1f} s of {seconds:.1f} s were recorded"]
    return []


def _is_still(greys: list[NDArray[np.uint8]]) -> bool:
    stack = np.stack(greys).astype(np.int16)
    change = np.ptp(stack, axis=0)  # (T, h, w) -> (h, w)
    return bool((change > CHANGE + np.median(change)).mean() < STILL_SHARE)
