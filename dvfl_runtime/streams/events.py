"""What happens now: actions told when they start, while they go on, and when they are over.

Segments are final when they come, so an action is known only when it is over. Events tell the same
actions while they happen: they follow the segments that go on, whose start and label are final.
"""

from __future__ import annotations

from collections.abc import Sequence

from dvfl_runtime.errors.checks import check_number
from dvfl_runtime.results import RESTING, Event, EventKind, Segment, TrackId


class EventMaker:
    """Makes the events of one source, from the segments of its tracks.

    Args:
        min_duration_s: shorter actions have no events; a longer one starts when it has lasted so
            long.

    Raises:
        ArgumentError: if `min_duration_s` is negative.
    """

    def __init__(self, min_duration_s: float = 0.0) -> None:
        check_number("min_duration_s", min_duration_s, least=0)
        self._min_duration_s = min_duration_s
        # of each track the action whose start has been told, as far as it has been told
        self._told: dict[TrackId | None, Segment] = {}

    def make(self, ended: Sequence[Segment], open_: Sequence[Segment], now_s: float) -> list[Event]:
        """Return what is new.

        Args:
            ended: segments that have become final.
            open_: those that go on, at most one of each track.
            now_s: until when the source has been seen.
        """
        events: list[Event] = []
        for segment in filter(self._has_events, ended):
            if not self._is_told(segment):  # it became certain at its end
                events.append(_event("start", segment, now_s))
            self._told.pop(segment.track_id, None)
            events.append(_event("end", segment, now_s))
        for segment in filter(self._has_events, open_):
            if not self._is_told(segment):
                events.append(_event("start", segment, now_s))
            elif segment != self._told[segment.track_id]:
                events.append(_event("update", segment, now_s))
            self._told[segment.track_id] = segment
        return events

    def _has_events(self, segment: Segment) -> bool:
        is_long = segment.end_s - segment.start_s >= self._min_duration_s
        return is_long and segment.label not in RESTING

    def _is_told(self, segment: Segment) -> bool:
        told = self._told.get(segment.track_id)
        return told is not None and told.start_s == segment.start_s


def _event(kind: EventKind, segment: Segment, now_s: float) -> Event:
    return Event(kind, now_s=now_s, **vars(segment))
