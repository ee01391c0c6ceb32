"""Segments of all that is seen in one source: what has an id of its own is smoothed on its own."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from dvfl_runtime.results import Prediction, Segment, TrackId
from dvfl_runtime.streams.smoothing import EPS_S, Segmenter


class TrackSegmenter:
    """Merges the predictions of one source into segments, those of each track on their own.

    A track whose windows do not go on ends with the last of them, so that nothing of it is mixed
    with what comes later, be it under the same id.

    Args:
        make: returns the segmenter of one more track.
    """

    def __init__(self, make: Callable[[], Segmenter]) -> None:
        self._make = make
        self._tracks: dict[TrackId | None, tuple[Segmenter, float]] = {}  # with its end, seconds

    def push(self, prediction: Prediction) -> list[Segment]:
        """Take the next prediction and return the segments that are final now.

        Raises:
            ArgumentError: if its window is not after the previous one of the track.
        """
        track_id = prediction.track_id
        ended = self.reach(prediction.start_s)
        segmenter = self._tracks[track_id][0] if track_id in self._tracks else self._make()
        self._tracks[track_id] = segmenter, prediction.end_s
        return ended + _named(track_id, segmenter.push(prediction))

    def reach(self, start_s: float) -> list[Segment]:
        """End the tracks with which no window from this time on, seconds, can go on."""
        over = [key for key, (_, end_s) in self._tracks.items() if end_s + EPS_S < start_s]
        return [segment for track_id in over for segment in self._end(track_id)]

    def finish(self) -> list[Segment]:
        """End the stream and return the segments still open, in order of time."""
        segments = [segment for track_id in list(self._tracks) for segment in self._end(track_id)]
        return sorted(segments, key=lambda segment: segment.start_s)

    def open_segments(self) -> list[Segment]:
        """Return the segments that go on; see `Segmenter.open_segment`."""
        segments = [
            _named(track_id, [segment])
            for track_id, (segmenter, _) in self._tracks.items()
            if (segment := segmenter.open_segment()) is not None
        ]
        return [segment for named in segments for segment in named]

    def _end(self, track_id: TrackId | None) -> list[Segment]:
        segmenter, _ = self._tracks.pop(track_id)
        return _named(track_id, segmenter.finish())


def _named(track_id: TrackId | None, segments: list[Segment]) -> list[Segment]:
    return [dataclasses.replace(segment, track_id=track_id) for segment in segments]
