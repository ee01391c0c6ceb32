"""What a finder of regions is: it tells for each window what is to be recognised in it.

The whole picture, fixed boxes, what moves and the boxes of a function are finders of one kind, so
that a window has any number of regions, and each of them becomes a clip.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from dvfl_runtime.clips.motion import Grey
from dvfl_runtime.results import WHOLE, Region, TrackId
from dvfl_runtime.sources import Frame


@dataclass(frozen=True)
class Track:
    """What a window shows of one thing.

    Attributes:
        track_id: tells it from the other things of the same source; `None` for the only one.
        region: where it is in the middle of the window.
        path: (T,) where it is in each picture of the window; empty if it stays.
    """

    track_id: TrackId | None = None
    region: Region = WHOLE
    path: tuple[Region, ...] = ()

    def region_at(self, picture: int) -> Region:
        """Return the region in one of the T pictures, counted from 0."""
        return self.path[picture] if self.path else self.region


WHOLE_PICTURE = Track()


@dataclass(frozen=True)
class WindowPictures:
    """A window whose regions are to be found.

    Attributes:
        start_s: start on the source's clock, seconds.
        end_s: end, seconds.
        times_s: (T,) times of its pictures, seconds.
        greys: returns the T pictures, small and grey; see `motion.small_grey`.
    """

    start_s: float
    end_s: float
    times_s: Sequence[float]
    greys: Callable[[], Sequence[Grey]]


class RegionFinder(ABC):
    """Finds the regions of the windows of one source; one thread uses it.

    Attributes:
        most: the most tracks of a window.
    """

    most = 1

    def look(self, frame: Frame) -> None:
        """Look at a frame that windows pick; each comes once, in order of time."""
        return  # the small pictures of a window are enough for most

    @abstractmethod
    def find(self, window: WindowPictures) -> Sequence[Track]:
        """Return what is to be recognised in a window; windows come in order of time."""
