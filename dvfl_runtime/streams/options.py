"""The arguments of a stream: its sources, and how these become windows and batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np

from dvfl_runtime.clips.finder import RegionFinder
from dvfl_runtime.clips.regions import MAX_REGIONS, Regions, region_finder
from dvfl_runtime.clips.spec import ClipSpec
from dvfl_runtime.clips.windows import Pad
from dvfl_runtime.errors import ArgumentError
from dvfl_runtime.errors.checks import check_number, check_whole
from dvfl_runtime.sources import Frame, SourceLike


@dataclass(frozen=True)
class StreamOptions:
    """How sources are cut into windows, and these into batches; see `Recognizer.stream`.

    Raises:
        ArgumentError: if `fps`, `max_batch`, `max_wait_ms` or `max_regions` is out of its range;
            the others are checked where they are used.
    """

    window_s: float | None = None
    hop_s: float | None = None
    pad: Pad | None = None
    fps: float | None = None
    max_batch: int | None = None
    max_wait_ms: float = 10.0
    regions: Regions | Sequence[Regions | None] | None = None
    max_regions: int = MAX_REGIONS

    def __post_init__(self) -> None:
        if self.fps is not None:
            check_number("fps", self.fps, above=0)
        if self.max_batch is not None:
            check_whole("max_batch", self.max_batch)
        check_number("max_wait_ms", self.max_wait_ms, least=0)
        check_whole("max_regions", self.max_regions)

    def finders(self, names: Sequence[str], spec: ClipSpec) -> list[RegionFinder]:
        """Return a finder of regions for each of the sources with these names.

        Raises:
            ArgumentError: if `regions` is wrong, or a list that is not as long as that of sources.
        """
        given = self.regions
        if isinstance(given, Sequence) and not isinstance(given, str):
            each: Sequence[Regions | None] = given
        else:
            each = [given] * len(names)
        if len(each) != len(names):
            raise ArgumentError(
                f"regions must be one for all sources, or a list with one for each of the "
                f"{len(names)}, got a list of {len(each)}"
            )
        return [
            region_finder(regions, spec, name=name, most=self.max_regions)
            for regions, name in zip(each, names, strict=True)
        ]


def as_sources(source: SourceLike | Sequence[SourceLike]) -> Sequence[SourceLike]:
    """Return the sources of a list or tuple of them, or a list of the only one.

    A list of frames, which are (H, W, 3) arrays or Frames, is a single source.
    """
    if isinstance(source, (list, tuple)) and source and not any(map(_is_frame, source)):
        return source
    return [cast(SourceLike, source)]


def _is_frame(item: object) -> bool:
    return isinstance(item, Frame) or (isinstance(item, np.ndarray) and item.ndim != 4)
