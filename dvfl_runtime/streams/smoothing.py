"""From one prediction per window to stable segments: numbers in, numbers out, no video.

    scores -> EMA -> hysteresis, "unknown" below a threshold -> minimum duration -> Segment

Windows overlap, so each decides only about its slot: from midway to the previous window's centre
until midway to the next one's, but never about a time that only the other window covers
(`boundary_s`). The first slot begins with the first window and the last one ends with the last
window. Slots touch, except at a gap in time, which also ends a segment.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dvfl_runtime.errors import ArgumentError
from dvfl_runtime.errors.checks import check_number
from dvfl_runtime.results import Prediction, Segment

Scores = NDArray[np.float64]

EPS_S = 1e-6  # times that are equal may differ by rounding


@dataclass(frozen=True)
class Smoothing:
    """How strongly predictions are smoothed.

    Attributes:
        alpha: weight of the newest window in the moving average, (0, 1]; 1 is no average.
        enter: a label is taken up when its smoothed score reaches this.
        leave: the current label is given up for the best one when its own falls below this;
            between `leave` and `enter` the current label stays.
        unknown_below: where no label's smoothed score reaches this when one has to be chosen, the
            segment is "idle" if the model has that label, else "unknown". 0 always chooses a label.
        min_duration_s: no segment is shorter, unless the stream (or the stretch between two gaps)
            is itself shorter.

    Raises:
        ArgumentError: if a value is out of its range.
    """

    alpha: float = 0.6
    enter: float = 0.5
    leave: float = 0.35
    min_duration_s: float = 0.75
    unknown_below: float = 0.3

    def __post_init__(self) -> None:
        check_number("alpha", self.alpha, above=0, most=1)
        check_number("enter", self.enter, least=0, most=1)
        for name in ("leave", "unknown_below"):
            value = getattr(self, name)
            check_number(name, value, least=0)
            if value > self.enter:
                raise ArgumentError(f"{name} must be <= enter, got {value} > {self.enter}")
        check_number("min_duration_s", self.min_duration_s, least=0)


def segments(
    predictions: Iterable[Prediction],
    labels: Sequence[str],
    smoothing: Smoothing | None = None,
) -> Iterator[Segment]:
    """Merge the predictions of one source, in order of time, into segments.

    Segments are ordered, do not overlap, touch where nothing is missing, and are final: each comes
    as soon as no later window can change it. Every label has segments, idle included, and so has
    "unknown", whose confidence is 1 minus the best label's score.

    Raises:
        ArgumentError: if the predictions are not in order of time.
    """
    segmenter = Segmenter(labels, smoothing)
    for prediction in predictions:
        yield from segmenter.push(prediction)
    yield from segmenter.finish()


@dataclass
class _OpenSegment:
    """Slots in a row that are, or may become, one segment."""

    start_s: float
    end_s: float
    total: Scores  # (num_classes + 1,) sum of the smoothed scores of the slots
    count: int
    seen: set[int]  # the labels that hysteresis chose in these slots
    label: int = -1

    def add(self, other: _OpenSegment) -> None:
        """Append the slots of the segment that follows."""
        self.end_s = other.end_s
        self.total = self.total + other.total
        self.count += other.count
        self.seen |= other.seen

    def best(self) -> int:
        """Return the label, among those that hysteresis chose, with the highest score."""
        return max(sorted(self.seen), key=lambda c: float(self.total[c]))


class Segmenter:
    """Merges the predictions of one source into segments, one at a time; see `segments`.

    Args:
        labels: names of the classes.
        smoothing: how strongly to smooth.
    """

    def __init__(self, labels: Sequence[str], smoothing: Smoothing | None = None) -> None:
        self.labels = (*labels, "unknown")
        self.smoothing = smoothing or Smoothing()
        # the label for nothing in particular; a model may have a class "unknown" of its own
        self._resting = self.labels.index("idle" if "idle" in labels else "unknown")
        self._source = ""
        self._last: Prediction | None = None  # its slot's end is not known yet
        self._slot_start_s = 0.0
        self._smoothed: Scores | None = None
        self._state = -1  # the label that hysteresis holds
        self._current: _OpenSegment | None = None  # a segment for certain; its end may still move
        self._pending: _OpenSegment | None = None  # the slots after it, not long enough yet

    def push(self, prediction: Prediction) -> list[Segment]:
        """Take the next prediction and return the segments that it makes final.

        Raises:
            ArgumentError: if its window is not after the previous one.
        """
        last = self._last
        out: list[Segment] = []
        if last is None:
            self._slot_start_s = prediction.start_s
        elif not centre_s(prediction) > centre_s(last):
            raise ArgumentError(
                f"predictions must be in order of time, got a window at "
                f"{prediction.start_s} s after one at {last.start_s} s"
            )
        elif prediction.start_s > last.end_s + EPS_S:
            out = self.finish()
            self._slot_start_s = prediction.start_s
        else:
            out = self._close_slot(boundary_s(last, prediction))
        self._source = prediction.source
        self._last = prediction
        self._update(np.asarray(prediction.scores, np.float64))
        return out

    def finish(self) -> list[Segment]:
        """End the stream, or the stretch before a gap, and return the segments still open."""
        if self._last is None:
            return []
        out = self._close_slot(self._last.end_s)
        last = self._current or self._pending
        assert last is not None  # the closed slot is in one of them
        if self._current is None:  # the stretch is shorter than the minimum
            last.label = last.best()
        elif self._pending is not None:
            last.add(self._pending)
        out.append(self._segment(last))
        self._current = self._pending = self._last = self._smoothed = None
        self._state = -1
        return out

    def _update(self, scores: Scores) -> None:
        """Update the average and decide which label holds now."""
        if self._smoothed is None:
            self._smoothed = scores
        else:
            self._smoothed = self._smoothed + self.smoothing.alpha * (scores - self._smoothed)
        best = int(np.argmax(self._smoothed))
        sure = float(self._smoothed[best])
        if sure >= self.smoothing.enter:
            self._state = best
        elif self._state < 0 or self._with_unknown()[self._state] < self.smoothing.leave:
            self._state = best if sure >= self.smoothing.unknown_below else self._resting

    def _close_slot(self, end_s: float) -> list[Segment]:
        """Add the slot [_slot_start_s, end_s) to a segment; return the segment it ends, if any."""
        assert self._smoothed is not None
        slot = _OpenSegment(self._slot_start_s, end_s, self._with_unknown(), 1, {self._state})
        self._slot_start_s = end_s
        current = self._current
        if current is not None and current.label == self._state:
            if self._pending is not None:  # the label came back after too short an interruption
                current.add(self._pending)
                self._pending = None
            current.add(slot)
            return []
        if self._pending is None:
            self._pending = slot
        else:
            self._pending.add(slot)
        pending = self._pending
        if pending.end_s - pending.start_s < self.smoothing.min_duration_s - EPS_S:
            return []
        self._pending = None
        pending.label = pending.best()
        self._current = pending
        return [] if current is None else [self._segment(current)]

    def _with_unknown(self) -> Scores:
        """Return the (num_classes + 1,) smoothed scores, the last one that of "unknown"."""
        assert self._smoothed is not None
        return np.append(self._smoothed, 1 - self._smoothed.max())

    def _segment(self, ended: _OpenSegment) -> Segment:
        confidence = float(ended.total[ended.label]) / ended.count
        return Segment(
            ended.start_s,
            ended.end_s,
            self.labels[ended.label],
            min(max(confidence, 0.0), 1.0),
            self._source,
        )


def centre_s(prediction: Prediction) -> float:
    """Return the middle of the prediction's window, seconds."""
    return (prediction.start_s + prediction.end_s) / 2


def boundary_s(before: Prediction, after: Prediction) -> float:
    """Return the time, seconds, until which one window decides, and from which the next one does.

    That is midway between their centres. Between windows of different lengths, as on both sides of
    a gap, that moment may be in only one of them: then it is the nearest moment of their overlap,
    or of the gap between them.
    """
    midway_s = (centre_s(before) + centre_s(after)) / 2
    low_s, high_s = sorted((after.start_s, before.end_s))
    return min(max(midway_s, low_s), high_s)
