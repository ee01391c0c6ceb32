"""Reads the frames that clips are made of, and converts no picture of another frame.

Training, evaluation, calibration and verification read their frames here.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from dvfl_runtime.errors import SourceError
from dvfl_runtime.sources.frame import Frame, Image, Source
from dvfl_runtime.sources.recorded.file import FileSource
from dvfl_runtime.sources.recorded.file_map import FileMap, FileMapper, frames_at

Kept = TypeVar("Kept")
Times: TypeAlias = NDArray[np.float64]
Numbers: TypeAlias = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class PickedFrames(Generic[Kept]):
    """The picked frames of a source.

    Attributes:
        times_s: (N,) times of all its frames.
        numbers: of the picked frames, in the shape in which they were picked.
        kept: number of a picked frame -> what is kept of it; perhaps of other frames too.
        file_map: lets the same file be read faster; `None` if the source is no file or damaged.
    """

    times_s: Times
    numbers: Numbers
    kept: dict[int, Kept]
    file_map: FileMap | None = None


def pick_frames(
    source: Source,
    pick: Callable[[Times], Numbers],
    keep: Callable[[Image], Kept],
    *,
    num_threads: int | None = None,
) -> PickedFrames[Kept]:
    """Read those frames of a recorded source that are picked by their times.

    They are the frames that reading all of them would give, whatever is damaged. A file is decoded
    once from its beginning to its end, because the packets tell beforehand when its frames are
    shown; where they turn out to be wrong, it is decoded again. Other sources are read twice if
    they can be; otherwise all their frames are kept.

    Args:
        source: the source; not a live one.
        pick: from the times of all frames, (N,) seconds, to numbers of frames in any shape. It may
            be called several times and has to give the same numbers for the same times.
        keep: from a picture, (H, W, 3) RGB uint8, to what is kept of it.
        num_threads: of the decoder of a file; by default up to four. One takes the least work.

    Raises:
        SourceError: if no frame can be read.
    """
    if isinstance(source, FileSource):
        return _from_file(source, pick, keep, num_threads)
    with closing(frames_of(source)) as frames:
        if source.rewindable:
            times = np.asarray([frame.time_s for frame in frames])
            return _completed(source, times, pick, keep, {})
        shown = [(frame.time_s, keep(frame.image)) for frame in frames]
    times = np.asarray([time_s for time_s, _ in shown])
    return PickedFrames(times, pick(times), {n: kept for n, (_, kept) in enumerate(shown)})


def pick_mapped_frames(
    path: Path,
    pick: Callable[[Times], Numbers],
    keep: Callable[[Image], Kept],
    file_map: FileMap,
) -> PickedFrames[Kept] | None:
    """Read picked frames of a file that was read before, and decode no more than they need.

    Args:
        path: of the file.
        pick: as for `pick_frames`.
        keep: as for `pick_frames`.
        file_map: of the earlier reading.

    Returns:
        The frames that `pick_frames` would give; `None` if the file has become shorter.

    Raises:
        SourceError: if the file cannot be opened.
    """
    numbers = pick(file_map.times_s)
    wanted = _unique(numbers)
    kept = {frame.index: keep(frame.image) for frame in frames_at(path, wanted, file_map)}
    if len(kept) < len(wanted):
        return None
    return PickedFrames(file_map.times_s, numbers, kept, file_map)


def _from_file(
    source: FileSource,
    pick: Callable[[Times], Numbers],
    keep: Callable[[Image], Kept],
    num_threads: int | None,
) -> PickedFrames[Kept]:
    """Decode all frames, and keep those that are picked by the times in the packets."""
    expected = source.expected_times(num_threads)
    wanted = _unique(pick(expected)) if len(expected) else set()
    mapper = FileMapper()
    times: list[float] = []
    kept: dict[int, Kept] = {}
    with closing(source.mapped_frames(mapper, num_threads)) as frames:
        for n, frame in enumerate(frames):
            times.append(frame.time_s)
            if n in wanted:
                kept[n] = keep(frame.image)
    if not mapper.is_complete:
        raise SourceError(f"{source.name} was closed while it was read; open it again")
    return _completed(source, np.asarray(times), pick, keep, kept, mapper.file_map())


def _completed(
    source: Source,
    times: Times,
    pick: Callable[[Times], Numbers],
    keep: Callable[[Image], Kept],
    kept: dict[int, Kept],
    file_map: FileMap | None = None,
) -> PickedFrames[Kept]:
    """Read a source again for the picked frames that are not among the kept ones."""
    numbers = pick(times)
    missing = _unique(numbers) - kept.keys()
    if missing:
        with closing(frames_of(source)) as frames:
            found = {n: keep(frame.image) for n, frame in enumerate(frames) if n in missing}
        if len(found) < len(missing):
            raise SourceError(
                f"{source.name} gave fewer frames when it was read again; copy it first"
            )
        kept = kept | found
    return PickedFrames(times, numbers, kept, file_map)


def frames_of(source: Source) -> Generator[Frame, None, None]:
    """Yield the frames of a source; closing the generator ends the source's own pass at once.

    Raises:
        SourceError: if there is none.
    """
    frames = source.frames()
    count = 0
    try:
        for frame in frames:
            yield frame
            count += 1
    finally:
        if isinstance(frames, Generator):
            frames.close()
    if count == 0 and source.live:
        raise SourceError(f"{source.name} ended, or was closed, before its first frame")
    if count == 0:
        raise SourceError(f"{source.name} has no frames; check that it is a video")


def _unique(numbers: Numbers) -> set[int]:
    return set(map(int, numbers.flat))
