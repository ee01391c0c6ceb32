"""The clips of a whole trimmed video: of the published evaluation protocol, or all its windows."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from dvfl_runtime.clips.finder import RegionFinder
from dvfl_runtime.clips.focus import find_region
from dvfl_runtime.clips.motion import small_grey
from dvfl_runtime.clips.picking import Times, pick_frames
from dvfl_runtime.clips.preprocess import (
    aspect_of,
    context_frame,
    cut,
    focused,
    preprocess_frame,
    spatial_views,
)
from dvfl_runtime.clips.ring import window_clips
from dvfl_runtime.clips.sampling import interval_s, nearest, uniform_indices, window_targets
from dvfl_runtime.clips.spec import Clip, ClipOrigin, ClipSpec
from dvfl_runtime.errors import ArgumentError, SourceError
from dvfl_runtime.errors.checks import wrong
from dvfl_runtime.results import WHOLE, Region, TrackId
from dvfl_runtime.sources import Frame, Image, Source

HOPS = 4  # of a stream in a window
MAX_WINDOWS = 16  # of a video: they lie further apart where it is longer


@dataclass(frozen=True)
class Views:
    """Which clips of a video are averaged.

    Attributes:
        temporal: number of clips along time.
        spatial: number of crops of each clip, 1 or 3.
        windows: windows all over the video instead, see `sample_windows`.
    """

    temporal: int = 1
    spatial: int = 1
    windows: bool = False

    @classmethod
    def parse(cls, views: int | str) -> Views:
        """Parse 1, "4x3" for 4 temporal times 3 spatial views, or "windows".

        Raises:
            ArgumentError: if it is none of them, or the spatial views are not 1 or 3.
        """
        if views == "windows":
            return cls(windows=True)
        match = re.fullmatch(r"([1-9][0-9]{0,2})(?:x([13]))?", str(views))
        if match is None:
            raise wrong("views", '1, "windows" or "TxS" with S of 1 or 3, like "4x3"', views)
        return cls(int(match[1]), int(match[2] or 1))


def sample_video(source: Source, spec: ClipSpec, views: Views) -> tuple[list[Clip], ClipOrigin]:
    """Pick frames uniformly over all that can really be decoded, or those of windows.

    See `pick_frames` for how often a source is read and which of its frames are in memory.

    Returns:
        The temporal x spatial clips, or the windows, and their common origin: the whole video,
        which ends when its last frame has been shown.

    Raises:
        SourceError: if the source is live, or no frame can be decoded.
        ClipError: if a frame is not (H, W, 3) uint8.
    """
    if views.windows:
        return sample_windows(source, spec)
    _check_recorded(source)
    sample = _whole if spec.focus == "frame" else _focused
    clips, region, times = sample(source, spec, views)
    return clips, replace(_origin(source, spec, times), region=region)


def sample_windows(source: Source, spec: ClipSpec) -> tuple[list[Clip], ClipOrigin]:
    """Cut windows all over a video, at most `MAX_WINDOWS`.

    They lie as those of a stream do: a quarter of a window apart, further in long videos, the last
    one at the end; a video that is shorter than a window has one over its whole length. A stream
    remembers what moved before, and may cut a window from another part of the picture than a clip
    alone is cut from. Then both clips are returned, and both count: a model is shown either.

    Returns:
        Clips (T, H, W, 3), and where they come from: all of the video.

    Raises:
        SourceError: if the source is live, or no frame can be decoded.
        ClipError: if a frame is not (H, W, 3) uint8.
    """
    _check_recorded(source)

    def keep(image: Image) -> Image:
        whole = spec.focus == "frame"
        return preprocess_frame(image, spec) if whole else context_frame(image, spec)

    def pick(times: Times) -> NDArray[np.int64]:
        return np.stack([nearest(times, targets) for targets in _window_targets(times, spec)])

    picked = pick_frames(source, pick, keep)
    origin = _origin(source, spec, picked.times_s.tolist())
    windows = [[picked.kept[int(number)] for number in row] for row in picked.numbers]
    if spec.focus == "frame":
        return [np.stack(window) for window in windows], origin
    clips: list[Clip] = []
    regions: list[Region] = []
    memory = None
    for images, end_s in zip(windows, picked.times_s[picked.numbers[:, -1]].tolist(), strict=True):
        greys = [small_grey(image) for image in images]
        alone, _ = find_region(greys, aspect_of(spec))
        in_stream, memory = find_region(greys, aspect_of(spec), end_s=end_s, memory=memory)
        for track in dict.fromkeys((in_stream, alone)):
            cuts = (cut(image, track.region_at(n)) for n, image in enumerate(images))
            clips.append(np.stack([preprocess_frame(image, spec) for image in cuts]))
            regions.append(track.region)
    return clips, replace(origin, region=_around(regions))


def _window_targets(times: Times, spec: ClipSpec) -> list[NDArray[np.float64]]:
    """Return the (T,) moments, seconds, that each window wants pictures of."""
    first_s, window_s = float(times[0]), spec.window_s
    length_s = float(times[-1]) - first_s + interval_s(times, window_s / spec.num_frames)
    if length_s <= window_s:
        return [window_targets(first_s, length_s, spec.num_frames)]
    count = min(MAX_WINDOWS, 1 + math.ceil((length_s - window_s) / window_s * HOPS - 1e-6))
    starts = np.linspace(first_s, first_s + length_s - window_s, count)
    return [window_targets(float(start), window_s, spec.num_frames) for start in starts]


def sample_regions(
    source: Source, spec: ClipSpec, views: Views, finder: RegionFinder
) -> list[tuple[list[Clip], ClipOrigin]]:
    """Do what `sample_video` does for each of the regions of a video.

    The pictures that are picked are in memory as they are, because the finder may look at them.

    Args:
        source: the video.
        spec: the model's contract.
        views: with one spatial view.
        finder: of the regions in each temporal view.

    Returns:
        For each track the clips of the temporal views that show it, and their origin.

    Raises:
        ArgumentError: if there are several spatial views, or the finder fails.
        SourceError: if the source is live, or no frame can be decoded.
        ClipError: if a frame is not (H, W, 3) uint8.
    """
    if views.spatial != 1 or views.windows:
        raise ArgumentError(
            f"views must be {views.temporal}x1 with regions=, which are cut in one spatial view, "
            f"got {'windows' if views.windows else f'{views.temporal}x{views.spatial}'}"
        )
    _check_recorded(source)
    picked = pick_frames(source, lambda times: _rows(len(times), spec, views), np.copy)
    clips: dict[TrackId | None, list[Clip]] = {}
    regions: dict[TrackId | None, list[Region]] = {}
    frames = {
        n: Frame(picked.kept[n], float(picked.times_s[n]), n)
        for n in np.unique(picked.numbers).tolist()
    }
    for frame in frames.values():
        finder.look(frame)
    for row in picked.numbers.tolist():  # the frames of a view lie between those of another
        span_s = frames[row[0]].time_s, frames[row[-1]].time_s
        for clip, track in window_clips([frames[n] for n in row], span_s, spec, finder):
            clips.setdefault(track.track_id, []).append(clip)
            regions.setdefault(track.track_id, []).append(track.region)
    origin = _origin(source, spec, picked.times_s.tolist())
    return [
        (clips[key], replace(origin, region=_around(regions[key]), track_id=key)) for key in clips
    ]


def _origin(source: Source, spec: ClipSpec, times: Sequence[float]) -> ClipOrigin:
    """Return the origin of clips of a whole video."""
    return ClipOrigin(
        source=source.name,
        start_s=times[0],
        end_s=times[-1] + interval_s(times, spec.window_s / spec.num_frames),
        since_ns=time.monotonic_ns(),
    )


def _check_recorded(source: Source) -> None:
    if source.live:
        raise SourceError(
            f"{source.name} is live and has no end; leave out --whole (in Python: use stream())"
        )


def _whole(
    source: Source, spec: ClipSpec, views: Views
) -> tuple[list[Clip], Region, Sequence[float]]:
    """Return clips of whole pictures, which are preprocessed as they come, and all times."""

    def keep(image: Image) -> list[Image]:
        return spatial_views(image, spec, views.spatial)

    picked = pick_frames(source, lambda times: _rows(len(times), spec, views), keep)
    # T x (H, W, 3) -> (T, H, W, 3); the spatial views of a temporal view follow each other
    clips = [
        np.stack([picked.kept[int(number)][s] for number in row])
        for row in picked.numbers
        for s in range(views.spatial)
    ]
    return clips, WHOLE, picked.times_s.tolist()


def _focused(
    source: Source, spec: ClipSpec, views: Views
) -> tuple[list[Clip], Region, Sequence[float]]:
    """Return clips of what moves in each temporal view, the region of all, and all times."""

    def keep(image: Image) -> Image:
        return context_frame(image, spec)

    picked = pick_frames(source, lambda times: _rows(len(times), spec, views), keep)
    clips: list[Clip] = []
    regions: list[Region] = []
    for row in picked.numbers:
        images, region = focused([picked.kept[int(number)] for number in row], spec)
        regions.append(region)
        crops = [spatial_views(image, spec, views.spatial) for image in images]
        clips += [np.stack([crop[s] for crop in crops]) for s in range(views.spatial)]
    return clips, _around(regions), picked.times_s.tolist()


def _around(regions: Sequence[Region]) -> Region:
    """Return the smallest region that holds all of these."""
    left, top = (min(region[axis] for region in regions) for axis in (0, 1))
    right, bottom = (max(region[axis] + region[axis + 2] for region in regions) for axis in (0, 1))
    return left, top, round(right - left, 4), round(bottom - top, 4)


def _rows(total: int, spec: ClipSpec, views: Views) -> NDArray[np.int64]:
    """Return the frame indices of each temporal view, (views, T)."""
    # the official test of several views has its interval fixed to 1, whatever the config says
    interval = spec.frame_interval if views.temporal == 1 else 1
    rows = [
        uniform_indices(total, spec.num_frames, interval, view=k, num_views=views.temporal)
        for k in range(views.temporal)
    ]
    return np.stack(rows)
