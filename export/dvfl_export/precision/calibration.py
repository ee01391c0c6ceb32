"""Clips to calibrate int8 on, and videos that are held back to judge it."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dvfl_export.sample_clips import Video, cut_clips, video_files
from dvfl_runtime.clips.spec import Clip, ClipSpec
from dvfl_runtime.errors import ExportError

LEAST_CLIPS = 64
MOST_VIEWS = 16  # clips of one video; more of them differ too little
HELD_BACK = 4  # one video in four
MOST_VIDEOS = 256  # to calibrate on, and as many to judge by; others are left out evenly


@dataclass(frozen=True)
class CalibrationSet:
    """Videos for int8, divided in two parts.

    Attributes:
        clips: to calibrate on, all different, each (T, H, W, 3) uint8.
        held_back: the other videos, to judge by.
        views: how many clips along time were cut from each video.
    """

    clips: list[Clip]
    held_back: list[Video]
    views: int


def calibration_set(paths: Sequence[Path], spec: ClipSpec) -> CalibrationSet:
    """Cut clips, more than one from each video where there are few videos.

    Args:
        paths: videos and folders of videos. A quarter is held back. Of very many, 256 of each part
            are taken.
        spec: of the clips.

    Raises:
        ExportError: if nothing can be decoded, or there are fewer than 64 different clips.
    """
    videos = video_files(paths)
    # every fourth by name may be of one class, so they are drawn, the same ones in every run
    random.Random(0).shuffle(videos)
    cut = len(videos) // HELD_BACK
    held_back, rest = _thinned(videos[:cut]), _thinned(videos[cut:])
    views = 1
    clips = cut_clips(rest, spec, purpose="calibrate on")
    if (decoded := len(clips)) < LEAST_CLIPS:
        views = min(MOST_VIEWS, math.ceil(LEAST_CLIPS / decoded))
        clips = cut_clips(rest, spec, views=views, purpose="calibrate on")
    # views of a short video may be the same clip
    clips = list({clip.tobytes(): clip for clip in clips}.values())
    if len(clips) < LEAST_CLIPS or not held_back:
        raise ExportError(
            f"there are {len(clips)} different clips of {decoded} videos to calibrate on, a "
            f"quarter of them being held back; int8 needs at least {LEAST_CLIPS}: give more videos"
        )
    return CalibrationSet(clips, held_back, views)


def _thinned(videos: list[Video]) -> list[Video]:
    """Leave out videos evenly until there are no more than MOST_VIDEOS."""
    return videos[:: math.ceil(len(videos) / MOST_VIDEOS) or 1]
