import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dvfl_runtime import Prediction, Segment, Smoothing
from dvfl_runtime.streams.smoothing import Segmenter, segments

LABELS = ("idle", "wave", "bend")
RAW = Smoothing(alpha=1.0, enter=0.0, leave=0.0, min_duration_s=0.0, unknown_below=0.0)


def prediction(scores, start_s, end_s):
    scores = np.asarray(scores, np.float32)
    best = int(scores.argmax())
    return Prediction(
        LABELS[best], best, float(scores[best]), scores, (), start_s, end_s, 0.0, "video"
    )


def windows(letters, hop_s=0.5, window_s=2.0, sure=0.9, start_s=0.0):
    """Return one prediction per letter: i, w or b."""
    out = []
    for k, letter in enumerate(letters):
        scores = np.full(3, (1 - sure) / 2)
        scores["iwb".index(letter)] = sure
        out.append(prediction(scores, start_s + k * hop_s, start_s + k * hop_s + window_s))
    return out


def spans(found):
    return [(s.start_s, s.end_s, s.label) for s in found]


def test_a_boundary_lies_midway_between_the_windows_that_differ():
    got = list(segments(windows("iiiiwwww"), LABELS, RAW))
    # windows centred at 1, 1.5, 2, 2.5 | 3, 3.5, 4, 4.5
    assert spans(got) == [(0.0, 2.75, "idle"), (2.75, 5.5, "wave")]
    assert [s.confidence for s in got] == pytest.approx([0.9, 0.9])
    assert {s.source for s in got} == {"video"}


def test_the_default_smoothing_keeps_clear_boundaries():
    got = list(segments(windows("iiiiiiwwwwwwwwbbbbbb"), LABELS))
    assert [s.label for s in got] == ["idle", "wave", "bend"]
    assert got[0].end_s == got[1].start_s == pytest.approx(3.75, abs=0.51)


def test_a_single_odd_window_makes_no_segment():
    assert [s.label for s in segments(windows("iiiiwiiii"), LABELS)] == ["idle"]
    unsmoothed = Smoothing(alpha=1.0, min_duration_s=0.75)
    assert [s.label for s in segments(windows("iiiiwiiii"), LABELS, unsmoothed)] == ["idle"]
    assert len(list(segments(windows("iiiiwiiii"), LABELS, RAW))) == 3


def test_flicker_between_two_labels_becomes_one_of_them():
    got = list(segments(windows("iiii" + "wb" * 4 + "w"), LABELS, Smoothing(alpha=1.0)))
    assert [s.label for s in got] == ["idle", "wave"]
    assert got[0].end_s == 2.75


def test_hysteresis_holds_the_label_between_the_thresholds():
    held = [prediction([0.9, 0.05, 0.05], 0, 2), prediction([0.42, 0.45, 0.13], 1, 3)]
    lost = [held[0], prediction([0.30, 0.45, 0.25], 1, 3)]
    entered = [held[0], prediction([0.46, 0.54, 0.0], 1, 3)]
    rule = Smoothing(alpha=1.0, enter=0.5, leave=0.35, min_duration_s=0.0)
    assert [s.label for s in segments(held, LABELS, rule)] == ["idle"]
    assert [s.label for s in segments(lost, LABELS, rule)] == ["idle", "wave"]
    assert [s.label for s in segments(entered, LABELS, rule)] == ["idle", "wave"]


def sequence(*rows, hop_s=1.0):
    return [prediction(row, k * hop_s, k * hop_s + 2) for k, row in enumerate(rows)]


def test_where_nothing_is_certain_the_segment_is_idle_or_unknown():
    rule = Smoothing(alpha=1.0, min_duration_s=0.0, unknown_below=0.4)
    vague = [0.30, 0.32, 0.38]
    rows = sequence([0.05, 0.9, 0.05], vague, vague, [0.05, 0.05, 0.9])
    assert [s.label for s in segments(rows, LABELS, rule)] == ["wave", "idle", "bend"]
    got = list(segments(rows, ("a", "b", "c"), rule))
    assert [s.label for s in got] == ["b", "unknown", "c"]
    assert got[1].confidence == pytest.approx(1 - 0.38)
    named = list(segments(rows, ("unknown", "b", "c"), rule))
    assert named[1].label == "unknown"
    assert named[1].confidence == pytest.approx(0.30)
    always = Smoothing(alpha=1.0, min_duration_s=0.0, unknown_below=0)
    assert [s.label for s in segments(rows, LABELS, always)] == ["wave", "bend"]


def test_what_is_unknown_stays_so_until_a_label_is_entered():
    rule = Smoothing(alpha=1.0, min_duration_s=0.0, unknown_below=0.4)
    rows = sequence([0.3, 0.32, 0.38], [0.3, 0.25, 0.45], [0.3, 0.15, 0.55], [0.3, 0.25, 0.45])
    got = [(s.label, s.start_s) for s in segments(rows, ("a", "b", "c"), rule)]
    assert got == [("unknown", 0.0), ("c", 2.5)]


def test_confidence_is_the_mean_smoothed_score():
    two = [prediction([0.9, 0.1, 0], 0, 2), prediction([0.5, 0.5, 0], 1, 3)]
    (only,) = segments(two, LABELS, Smoothing(alpha=0.5))
    assert only.confidence == pytest.approx((0.9 + 0.7) / 2)


def test_a_gap_in_time_ends_a_segment():
    got = list(segments([*windows("iii"), *windows("iii", start_s=60.0)], LABELS, RAW))
    assert spans(got) == [(0.0, 3.0, "idle"), (60.0, 63.0, "idle")]


def test_a_boundary_lies_where_both_windows_do():
    # midway between the centres would be 4.0 s, where only the first window is, and 7.0 s
    got = segments([prediction([0, 1, 0], 0, 6), prediction([0, 0, 1], 5, 5.5)], LABELS, RAW)
    assert spans(got)[0] == (0, 5, "wave")
    got = segments([prediction([0, 1, 0], 0, 6), prediction([0, 0, 1], 6, 16)], LABELS, RAW)
    assert spans(got)[0] == (0, 6, "wave")


def test_one_window_gives_one_segment_and_none_gives_none():
    assert spans(segments(windows("b"), LABELS)) == [(0.0, 2.0, "bend")]
    assert list(segments([], LABELS)) == []


def test_segments_come_as_soon_as_they_are_final():
    segmenter = Segmenter(LABELS, RAW)
    counts = [len(segmenter.push(p)) for p in windows("iiwwbb")]
    assert counts == [0, 0, 0, 1, 0, 1]
    assert len(segmenter.finish()) == 1
    assert segmenter.finish() == []


def test_a_segmenter_can_be_used_again_after_finish():
    segmenter = Segmenter(LABELS, RAW)
    for _ in range(2):
        assert [s for p in windows("ii") for s in segmenter.push(p)] == []
        assert spans(segmenter.finish()) == [(0.0, 2.5, "idle")]


def test_predictions_out_of_order_are_refused():
    first, second = windows("iw")
    with pytest.raises(ValueError, match="in order of time"):
        list(segments([second, first], LABELS))


@pytest.mark.parametrize(
    "bad",
    [
        *({"alpha": 0}, {"alpha": 1.1}, {"enter": 0.2}, {"leave": -0.1}, {"min_duration_s": -1}),
        *({"unknown_below": 0.6}, {"unknown_below": -0.1}),
    ],
)
def test_settings_out_of_range_are_refused(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        Smoothing(**bad)


@st.composite
def streams(draw):
    start_s, out = draw(st.floats(-10, 10)), []
    window_s = draw(st.floats(0.5, 3))
    for _ in range(draw(st.integers(1, 40))):
        raw = np.array(draw(st.tuples(*[st.floats(0.01, 1)] * 3)))
        out.append(prediction(raw / raw.sum(), start_s, start_s + window_s))
        start_s += draw(st.sampled_from([0.1, 0.25, 0.5, 5.0]))
    return out


@st.composite
def settings_of(draw):
    enter = draw(st.floats(0, 1))
    return Smoothing(
        alpha=draw(st.floats(0.05, 1)),
        enter=enter,
        leave=draw(st.floats(0, 1)) * enter,
        unknown_below=draw(st.floats(0, 1)) * enter,
        min_duration_s=draw(st.floats(0, 2)),
    )


@settings(max_examples=200, deadline=None)
@given(streams(), settings_of())
def test_segments_are_ordered_disjoint_and_cover_what_was_seen(stream, smoothing):
    got: list[Segment] = list(segments(stream, LABELS, smoothing))
    assert got[0].start_s == stream[0].start_s
    assert got[-1].end_s == stream[-1].end_s
    seen_s, edge_s = 0.0, stream[0].start_s
    for p in stream:
        seen_s += max(0.0, p.end_s - max(edge_s, p.start_s))
        edge_s = max(edge_s, p.end_s)
    assert sum(s.end_s - s.start_s for s in got) == pytest.approx(seen_s)
    gaps = {b.start_s for a, b in itertools.pairwise(stream) if b.start_s > a.end_s + 1e-6}
    for s in got:
        assert s.start_s < s.end_s
        assert s.label in LABELS
        assert 0 <= s.confidence <= 1
    for a, b in itertools.pairwise(got):
        assert a.end_s == b.start_s or b.start_s in gaps
        assert a.label != b.label or b.start_s in gaps
    if not gaps and len(got) > 1:
        assert min(s.end_s - s.start_s for s in got) >= smoothing.min_duration_s - 1e-5


@settings(max_examples=50, deadline=None)
@given(streams(), settings_of(), st.integers(0, 40))
def test_what_was_given_never_changes(stream, smoothing, cut):
    segmenter = Segmenter(LABELS, smoothing)
    early = [s for p in stream[:cut] for s in segmenter.push(p)]
    assert list(segments(stream, LABELS, smoothing))[: len(early)] == early
