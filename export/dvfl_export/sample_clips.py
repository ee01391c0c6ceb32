"""Clips for verification and calibration: decoded, sampled and preprocessed by the runtime."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from dvfl_models.rendered.synthetic import ACTIONS, render_clip
from dvfl_runtime.clips.evaluation import Views, sample_video
from dvfl_runtime.clips.spec import Clip, ClipSpec
from dvfl_runtime.errors import ExportError, SourceError
from dvfl_runtime.sources import open_source
from dvfl_runtime.sources.folders import videos_below

Video: TypeAlias = Path | NDArray[np.uint8]  # a file, or frames (N, H, W, 3)


def rendered_videos(spec: ClipSpec, *, count: int = 10, seed: int = 7) -> list[Video]:
    """Render videos of all actions in turn, larger and with more frames than a clip has."""
    height, width = spec.size
    return [
        render_clip(
            ACTIONS[number % len(ACTIONS)],
            seed=seed + number,
            num_frames=2 * spec.num_frames + 1,
            window_s=spec.window_s,
            size=(height * 9 // 8, width * 9 // 8),
        ).images
        for number in range(count)
    ]


def video_files(paths: Iterable[Path]) -> list[Video]:
    """Return the files among the paths, and the videos in and below the folders among them."""
    return [file for path in paths for file in (videos_below(path) if path.is_dir() else [path])]


def cut_clips(
    videos: Sequence[Video], spec: ClipSpec, *, views: int = 1, purpose: str = "verify with"
) -> list[Clip]:
    """Cut clips (T, H, W, 3) from each video that can be decoded, spread over its whole length.

    Args:
        videos: to cut from.
        spec: of the clips.
        views: how many clips along time of each video.
        purpose: of the clips, for the message of the error.

    Raises:
        ExportError: if not one clip can be decoded.
    """
    clips: list[Clip] = []
    problems = []
    for video in videos:
        try:
            clips += sample_video(open_source(video), spec, Views(views))[0]
        except SourceError as err:
            problems.append(str(err))
    if not clips:
        why = problems[0] if problems else "no video files there"
        raise ExportError(f"no clip to {purpose} could be decoded: {why}")
    return clips
