"""The score of segments against known boundaries, and a short run of the bundled model."""

import itertools

import pytest

from dvfl_bench.comparisons.segments import Span, f1, main, matches, measure, random_timeline
from dvfl_runtime import Segment

TRUTH = [Span(0, 4, "idle"), Span(4, 10, "bend"), Span(10, 12, "idle")]


def segment(start_s: float, end_s: float, label: str) -> Segment:
    return Segment(start_s, end_s, label, 0.9)


def test_a_segment_shows_an_action_from_half_an_overlap_on() -> None:
    assert matches([segment(s, e, label) for s, e, label in TRUTH], TRUTH) == 3
    assert matches([segment(4, 7, "bend")], TRUTH) == 1
    assert matches([segment(4, 6.9, "bend")], TRUTH) == 0
    assert matches([segment(4, 10, "wave")], TRUTH) == 0
    assert matches([segment(0, 12, "idle")], TRUTH) == 0
    assert matches([segment(4, 7, "bend"), segment(7, 10, "bend")], TRUTH) == 2 - 1
    assert f1(3, 3, 3) == 1
    assert f1(1, 2, 3) == pytest.approx(0.4)
    assert f1(0, 0, 0) == 0


def test_timelines_have_no_holes_and_no_action_twice_in_a_row() -> None:
    spans = random_timeline(5, 10)
    assert spans == random_timeline(5, 10) != random_timeline(6, 10)
    for a, b in itertools.pairwise(spans):
        assert a.end_s == b.start_s
        assert a.label != b.label
        assert 2.9 < a.end_s - a.start_s < 9.1
    assert 600 <= spans[-1].end_s < 610


def test_segments_of_the_bundled_model_match_the_true_ones() -> None:
    result = measure(None, videos=6, minutes=1.0)
    assert result["segment_f1"] >= 0.9
    assert result["segment_f1"] > result["segment_f1_without_smoothing"]
    assert result["window_accuracy_within_one_action"] >= 0.9
    assert result["segments"]["true"] > 15


def test_a_missing_model_is_one_error(caplog: pytest.LogCaptureFixture) -> None:
    assert main(["none.onnx"]) == 2
    assert "cannot read model" in caplog.text
