import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from predictions import LABELS, drawn_smoothings, drawn_streams, prediction, sequence, waving

from dvfl_runtime import Segment, Smoothing
from dvfl_runtime.streams.smoothing import Segmenter, segments

RAW = Smoothing(alpha=1.0, enter=0.0, leave=0.0, min_duration_s=0.0)


def windows(letters, hop_s=0.5, window_s=2.0, sure=0.95, start_s=0.0):
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
    assert [s.confidence for s in got] == pytest.approx([0.975, 0.95])  # the best action has 0.025
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


RULE = Smoothing(alpha=1.0, enter=0.8, leave=0.5, min_duration_s=0.0)


@pytest.mark.parametrize("labels", [LABELS, ("a", "wave", "b")])
@pytest.mark.parametrize("scores", [[0.79], [0.79] * 9, [0.6, 0.79, 0.3, 0.79], [0.5, 0.1, 0.7]])
def test_less_than_enter_is_never_an_action(labels, scores):
    (only,) = segments(waving(*scores), labels, RULE)
    assert only.label == ("idle" if "idle" in labels else "unknown")
    assert len(list(segments(waving(*scores, 0.8), labels, RULE))) <= 2


def test_an_action_that_was_never_certain_is_rest_with_the_doubt_as_its_confidence():
    (only,) = segments(sequence([0.01, 0.75, 0.24], [0.01, 0.65, 0.34]), LABELS, RULE)
    assert only.label == "idle"
    assert only.confidence == pytest.approx(0.3)


def test_one_certain_moment_decides_whether_and_leave_from_when_to_when():
    got = list(segments(waving(0.1, 0.5, 0.6, 0.8, 0.7, 0.5, 0.4, 0.7, 0.1), LABELS, RULE))
    assert spans(got) == [(0, 1.5, "idle"), (1.5, 6.5, "wave"), (6.5, 10, "idle")]
    assert got[1].confidence == pytest.approx((0.5 + 0.6 + 0.8 + 0.7 + 0.5) / 5)


def test_an_action_goes_on_after_an_interruption_that_is_too_short_for_a_segment():
    rule = Smoothing(alpha=1.0, enter=0.8, leave=0.5, min_duration_s=1.5)
    got = list(segments(waving(0.1, 0.1, 0.6, 0.8, 0.3, 0.6, 0.6, 0.1, 0.1), LABELS, rule))
    assert spans(got) == [(0, 2.5, "idle"), (2.5, 7.5, "wave"), (7.5, 10, "idle")]
    got = list(segments(waving(0.1, 0.1, 0.6, 0.8, 0.3, 0.3, 0.6, 0.6, 0.1), LABELS, rule))
    assert spans(got) == [(0, 2.5, "idle"), (2.5, 4.5, "wave"), (4.5, 10, "idle")]


def test_one_action_gives_way_to_another_where_that_one_is_better():
    rows = sequence([0, 0.9, 0.1], [0, 0.55, 0.45], [0, 0.45, 0.55], [0, 0.1, 0.9])
    got = list(segments(rows, LABELS, Smoothing(alpha=1.0, enter=0.8, leave=0.4)))
    assert spans(got) == [(0, 2.5, "wave"), (2.5, 5, "bend")]
    unsure = sequence([0, 0.9, 0.1], [0, 0.45, 0.55], [0, 0.45, 0.55], [0, 0.9, 0.1])
    got = list(segments(unsure, LABELS, Smoothing(alpha=1.0, enter=0.8, leave=0.4)))
    assert [s.label for s in got] == ["wave", "idle", "wave"]


@pytest.mark.parametrize("alpha", [1.0, Smoothing().alpha])
def test_of_two_actions_one_ends_where_the_model_calls_windows_unknown(alpha):
    seen = [[0.01, 0.99]] * 6 + [[0.5, 0.5]] * 8 + [[0.99, 0.01]] * 6
    rows = [  # even scores are not below the default of `leave`
        replace(row, class_id=-1, label="unknown") if max(row.scores) == 0.5 else row
        for row in sequence(*seen)
    ]
    got = list(segments(rows, ("bend", "wave"), Smoothing(alpha=alpha)))
    assert [s.label for s in got] == ["wave", "unknown", "bend"]


def test_what_is_no_action_is_idle_or_unknown():
    rows = sequence([0.05, 0.9, 0.05], [0.3, 0.32, 0.38], [0.3, 0.32, 0.38], [0.05, 0.05, 0.9])
    own = list(segments(rows, LABELS, RULE))
    assert [s.label for s in own] == ["wave", "idle", "bend"]
    assert own[1].confidence == pytest.approx(1 - 0.38)  # that there is no action
    got = list(segments(rows, ("a", "b", "c"), RULE))
    assert [s.label for s in got] == ["b", "unknown", "c"]
    assert got[1].confidence == pytest.approx(1 - 0.38)
    named = list(segments(rows, ("unknown", "b", "c"), RULE))
    assert named[1].label == "unknown"
    assert named[1].confidence == pytest.approx(1 - 0.38)


def test_the_resting_label_needs_no_certainty():
    assert [s.label for s in segments(sequence([0.5, 0.3, 0.2]), LABELS, RULE)] == ["idle"]


def test_an_open_segment_is_known_as_soon_as_it_is_certain():
    segmenter = Segmenter(LABELS, Smoothing(alpha=1.0, enter=0.8, leave=0.5, min_duration_s=1.5))
    seen = []
    for p in waving(0.1, 0.1, 0.6, 0.7, 0.8, 0.7, 0.1, 0.1):
        segmenter.push(p)
        seen.append(segmenter.open_segment())
    assert [s.label if s else None for s in seen] == [
        *(None, "idle", "idle", "idle"),  # a window of 2 s tells about the 1 s until its centre
        *("wave", "wave", "wave", "idle"),
    ]
    assert (seen[4].start_s, seen[4].end_s) == (2.5, 5)
    segmenter.finish()
    assert segmenter.open_segment() is None


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
    assert counts == [0, 0, 1, 0, 1, 0]
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
        *({"alpha": 0}, {"alpha": 1.1}, {"enter": 1.1}, {"leave": -0.1}, {"leave": 0.95}),
        {"min_duration_s": -1},
    ],
)
def test_settings_out_of_range_are_refused(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        Smoothing(**bad)


@settings(max_examples=200, deadline=None)
@given(drawn_streams(), drawn_smoothings())
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
@given(drawn_streams(), drawn_smoothings(), st.integers(0, 40))
def test_what_was_given_never_changes(stream, smoothing, cut):
    segmenter = Segmenter(LABELS, smoothing)
    early = [s for p in stream[:cut] for s in segmenter.push(p)]
    assert list(segments(stream, LABELS, smoothing))[: len(early)] == early


@settings(max_examples=100, deadline=None)
@given(drawn_streams(), drawn_smoothings())
def test_every_action_was_certain_somewhere(stream, smoothing):
    smoothed, most, found = None, {}, list(segments(stream, LABELS, smoothing))
    for before, p in itertools.pairwise([None, *stream]):
        gap = before is None or p.start_s > before.end_s + 1e-6
        scores = np.asarray(p.scores, np.float64)
        smoothed = scores if gap else smoothed + smoothing.alpha * (scores - smoothed)
        for s in found:
            if s.start_s <= p.end_s and p.start_s <= s.end_s:
                score = smoothed[LABELS.index(s.label)]
                most[s] = max(most.get(s, 0.0), score)
    assert all(m >= smoothing.enter for s, m in most.items() if s.label != "idle")
