from dataclasses import replace
from itertools import zip_longest

import pytest
from artifacts import LABELS as COLOURS
from artifacts import coloured, write_colour_model
from hypothesis import given, settings
from hypothesis import strategies as st
from predictions import LABELS, drawn_smoothings, drawn_streams, waving

from dvfl_runtime import Event, Frame, Recognizer, Segment, Smoothing
from dvfl_runtime.results import RESTING, to_json_row
from dvfl_runtime.streams.events import EventMaker
from dvfl_runtime.streams.smoothing import Segmenter
from dvfl_runtime.streams.tracks import TrackSegmenter

RULE = Smoothing(alpha=1.0, enter=0.8, leave=0.5, min_duration_s=1.5)


def told(predictions, smoothing=RULE, min_duration_s=0.0):
    """Return the events and the segments of a stream."""
    segmenter = TrackSegmenter(lambda: Segmenter(LABELS, smoothing))
    maker = EventMaker(min_duration_s)
    events: list[Event] = []
    segments: list[Segment] = []
    for p in predictions:
        ended = segmenter.push(p)
        segments += ended
        events += maker.make(ended, segmenter.open_segments(), p.end_s)
    ended = segmenter.finish()
    segments += ended
    events += maker.make(ended, segmenter.open_segments(), predictions[-1].end_s)
    return events, segments


def test_an_action_starts_when_it_is_certain_and_ends_as_its_segment():
    events, segments = told(waving(0.1, 0.1, 0.6, 0.7, 0.8, 0.7, 0.1, 0.1, 0.1))
    assert [(e.kind, e.start_s, e.end_s, e.now_s) for e in events] == [
        ("start", 2.5, 5, 6),
        ("update", 2.5, 6, 7),
        ("update", 2.5, 6.5, 8),
        ("end", 2.5, 6.5, 9),
    ]
    assert {e.label for e in events} == {"wave"}
    assert events[-1].segment == segments[1]


def test_an_action_ends_with_its_source_also_if_it_has_just_started():
    assert [e.kind for e in told(waving(0.1, 0.1, 0.9, 0.9, 0.9))[0]] == [
        *("start", "update"),
        "end",
    ]
    assert [e.kind for e in told(waving(0.9))[0]] == ["start", "end"]
    assert told(waving(0.5, 0.7, 0.7))[0] == []


def test_a_gap_ends_an_action():
    first = waving(0.9, 0.9, 0.9)
    second = [replace(p, start_s=p.start_s + 60, end_s=p.end_s + 60) for p in first]
    kinds = [(e.kind, e.start_s) for e in told([*first, *second])[0] if e.kind != "update"]
    assert kinds == [("start", 0), ("end", 0), ("start", 60), ("end", 60)]


def test_each_track_has_events_of_its_own():
    waves = [replace(p, track_id=7) for p in waving(0.9, 0.9, 0.9)]
    other = [replace(p, track_id="door") for p in waving(0.1, 0.1, 0.9, 0.9, 0.9, 0.1, 0.1, 0.1)]
    events, _ = told(sorted([*waves, *other], key=lambda p: p.start_s))
    assert [(e.kind, e.track_id) for e in events if e.kind != "update"] == [
        *(("start", 7), ("start", "door")),
        *(("end", 7), ("end", "door")),
    ]
    assert events[0].segment.track_id == 7


def test_short_actions_have_no_events_and_long_ones_start_later():
    stream = waving(0.1, 0.1, 0.9, 0.9, 0.9, 0.9, 0.1, 0.1)
    at_once, later = told(stream)[0], told(stream, min_duration_s=3)[0]
    assert (at_once[0].kind, later[0].kind) == ("start", "start")
    assert later[0].now_s > at_once[0].now_s
    assert later[-1] == at_once[-1]
    assert told(stream, min_duration_s=5)[0] == []
    with pytest.raises(ValueError, match="min_duration_s"):
        EventMaker(-1)


@settings(max_examples=60, deadline=None)
@given(drawn_streams(), drawn_smoothings(), st.sampled_from([0.0, 1.0, 3.0]))
def test_events_tell_the_segments_that_are_actions(stream, smoothing, min_duration_s):
    events, segments = told(stream, smoothing, min_duration_s)
    actions = [
        s for s in segments if s.label not in RESTING and s.end_s - s.start_s >= min_duration_s
    ]
    assert [e.segment for e in events if e.kind == "end"] == actions
    for e, after in zip_longest(events, events[1:]):
        assert (e.kind == "end") == (after is None or after.kind == "start")
        if e.kind != "end":
            assert (e.label, e.start_s) == (after.label, after.start_s)
            assert e.end_s <= after.end_s
            assert e.now_s <= after.now_s
        assert e.start_s < e.end_s <= e.now_s + 1e-9


def frames(*spans, begin_s=0.0):
    """Return frames of colours, 10 per second."""
    return [Frame(image, begin_s + n / 10, n) for n, image in enumerate(coloured(*spans))]


def test_events_of_several_sources_come_with_their_names(tmp_path):
    rest, act = COLOURS[:2]
    one = frames((rest, 40), (act, 40), (rest, 40))
    two = frames((act, 30))
    model = write_colour_model(tmp_path / "m.onnx", labels=("idle", *COLOURS[1:]))
    with Recognizer(model, num_threads=1) as r:
        rule = Smoothing(alpha=1.0)
        events = list(r.events([one, two], smoothing=rule))
        for source in {e.source for e in events}:
            ends = [e.segment for e in events if e.source == source and e.kind == "end"]
            alone = r.segments([one, two], smoothing=rule)
            assert ends == [s for s in alone if s.source == source and s.label != "idle"]
            assert len(ends) == 1
        assert len({e.source for e in events}) == 2
        assert '"schema": 1, "event": "start"' in to_json_row(events[0])
        with pytest.raises(ValueError, match="smoothing"):
            r.events(one, smoothing=0.5)
        with pytest.raises(ValueError, match="min_duration_s"):
            r.events(one, min_duration_s=-1)
