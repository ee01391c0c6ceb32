"""The clips that int8 is calibrated on, and the videos that are held back to judge it."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dvfl_export.sample_clips import Images, Video, clips_of, video_files
from dvfl_runtime.clips.spec import ClipSpec
from dvfl_runtime.errors import ExportError

LEAST_CLIPS = 64
MOST_VIEWS = 16  # clips of one video; further ones differ too little
HELD_BACK = 4  # one video in four
MOST_VIDEOS = 256  # to calibrate on, and as many to judge by; of more, some are left out evenly


@dataclass(frozen=True)
class CalibrationSet:
    """Videos for int8, cut in two.

    Attributes:
        clips: to calibrate on, all different, each (T, H, W, 3) uint8.
        held_back: the videos that none of these clips is from.
        views: how many clips along time were made of each video.
    """

    clips: list[Images]
    held_back: list[Video]
    views: int


def calibration_set(paths: Sequence[Path], spec: ClipSpec) -> CalibrationSet:
    """Cuts clips, more than one of each video where there are few videos.

    Args:
        paths: videos and folders of videos. A quarter is held back, drawn with a fixed seed: by
            name, every fourth may be of one class. Of very many, 256 of each part are taken.
        spec: how clips are made.

    Raises:
        ExportError: if nothing can be decoded, or there are fewer than 64 different clips.
    """
    videos = video_files(paths)
    random.Random(0).shuffle(videos)
    cut = len(videos) // HELD_BACK
    held_back, rest = _spread(videos[:cut]), _spread(videos[cut:])
    views = 1
    clips = clips_of(rest, spec, purpose="calibrate on")
    if (decoded := len(clips)) < LEAST_CLIPS:
        views = min(MOST_VIEWS, math.ceil(LEAST_CLIPS / decoded))
        clips = clips_of(rest, spec, views=views, purpose="calibrate on")
    clips = list({clip.tobytes(): clip for clip in clips}.values())
    if len(clips) < LEAST_CLIPS or not held_back:
        raise ExportError(
            f"--calibration gives {len(clips)} different clips of {decoded} videos, a quarter of "
            f"the videos being held back; int8 needs at least {LEAST_CLIPS}: give more videos"
        )
    return CalibrationSet(clips, held_back, views)


def _spread(videos: list[Video]) -> list[Video]:
    return videos[:: math.ceil(len(videos) / MOST_VIDEOS) or 1]
