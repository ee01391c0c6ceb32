"""From one prediction per window to stable segments: numbers in, numbers out, no video.

    scores -> EMA -> what is certain somewhere, as far as it goes -> minimum duration -> Segment

Windows overlap, so each decides only about its slot: from midway to the previous window's centre
until midway to the next one's, but never about a time that only the other window covers
(`boundary_s`). The first slot begins with the first window and the last one ends with the last
window. Slots touch, except at a gap in time, which also ends a segment.

Slots in a row with the same best label, whose score is at least `leave` in each, are one run. It is
an action if the score reaches `enter` anywhere in the run, in a window that the model does not call
unknown; otherwise nothing was certain, and it is resting. So `enter` decides whether there is an
action, and `leave` from when to when. Of two classes one always has half of the score, which is not
below `leave`: there a window that the model calls unknown ends the run.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dvfl_runtime.errors import ArgumentError
from dvfl_runtime.errors.checks import check_number
from dvfl_runtime.results import RESTING, UNKNOWN, Prediction, Segment

Scores = NDArray[np.float64]

EPS_S = 1e-6  # times that are equal may differ by rounding


@dataclass(frozen=True)
class Smoothing:
    """How strongly predictions are smoothed.

    Attributes:
        alpha: weight of the newest window in the moving average, (0, 1]; 1 is no average.
        enter: there is no action whose smoothed score does not reach this at least once. Raise it
            for fewer false alarms; more actions are missed then.
        leave: where its score is this or more around such a moment, the action goes on.
        min_duration_s: no segment is shorter, unless the stream (or the stretch between two gaps)
            is itself shorter.

    Raises:
        ArgumentError: if a value is out of its range.
    """

    alpha: float = 1.0
    enter: float = 0.9
    leave: float = 0.5
    min_duration_s: float = 0.75

    def __post_init__(self) -> None:
        check_number("alpha", self.alpha, above=0, most=1)
        check_number("enter", self.enter, least=0, most=1)
        check_number("leave", self.leave, least=0)
        if self.leave > self.enter:
            raise ArgumentError(f"leave must be <= enter, got {self.leave} > {self.enter}")
        check_number("min_duration_s", self.min_duration_s, least=0)


def segments(
    predictions: Iterable[Prediction],
    labels: Sequence[str],
    smoothing: Smoothing | None = None,
) -> Iterator[Segment]:
    """Merge the predictions of one source, in order of time, into segments.

    Segments are ordered, do not overlap, touch where nothing is missing, and are final: each comes
    as soon as no later window can change it. Between actions there are segments of the resting
    label: "idle" if the model has that label, else "unknown". Where a calibrated model calls most
    windows unknown, that is "unknown" too. The confidence of these segments is 1 minus the score of
    the best action: how certain it is that there is none.

    Raises:
        ArgumentError: if the predictions are not in order of time.
    """
    segmenter = Segmenter(labels, smoothing)
    for prediction in predictions:
        yield from segmenter.push(prediction)
    yield from segmenter.finish()


@dataclass
class _Piece:
    """Slots in a row that are, or may become, one segment."""

    start_s: float
    end_s: float
    total: Scores  # (num_classes + 1,) sum of the smoothed scores of the slots
    calm: float  # sum of 1 minus the score of the best action
    label: int
    count: int = 1
    unknown: int = 0  # how many of the slots show nothing that the model knows

    def __post_init__(self) -> None:
        self.seen = {self.label}  # of the pieces that it consists of

    def add(self, other: _Piece) -> None:
        """Append the slots of the piece that follows."""
        self.end_s = other.end_s
        self.total = self.total + other.total
        self.calm += other.calm
        self.count += other.count
        self.unknown += other.unknown
        self.seen |= other.seen

    def best(self) -> int:
        """Return the label, among those of its pieces, with the highest score."""
        return max(sorted(self.seen), key=lambda c: float(self.total[c]))


class Segmenter:
    """Merges the predictions of one source into segments, one at a time; see `segments`.

    Args:
        labels: names of the classes.
        smoothing: how strongly to smooth.
    """

    def __init__(self, labels: Sequence[str], smoothing: Smoothing | None = None) -> None:
        self.labels = (*labels, UNKNOWN)
        self.smoothing = smoothing or Smoothing()
        # the label for nothing in particular; a model may have a class "unknown" of its own
        self._unknown = self.labels.index(UNKNOWN)
        self._resting = self.labels.index("idle") if "idle" in labels else self._unknown
        self._actions = [n for n, label in enumerate(labels) if label not in RESTING]
        self._always_reach_leave = self.smoothing.leave * len(labels) <= 1  # even scores do
        self._source = ""
        self._last: Prediction | None = None  # its slot's end is not known yet
        self._smoothed: Scores | None = None
        # what has been seen lately, in order of time; the newest slot is in the last one there is
        self._current: _Piece | None = None  # a segment for certain; its end may still move
        self._pending: _Piece | None = None  # what follows it, not long enough yet
        self._run: _Piece | None = None  # the slots of a label that has not been certain yet

    def open_segment(self) -> Segment | None:
        """Return the segment that goes on, until now, or `None` while none is certain.

        Its start and its label are final.
        """
        return None if self._current is None else self._segment(self._current)

    def push(self, prediction: Prediction) -> list[Segment]:
        """Take the next prediction and return the segments that it makes final.

        Raises:
            ArgumentError: if its window is not after the previous one.
        """
        last = self._last
        out: list[Segment] = []
        start_s = prediction.start_s
        if last is not None:
            if not centre_s(prediction) > centre_s(last):
                raise ArgumentError(
                    f"predictions must be in order of time, got a window at "
                    f"{prediction.start_s} s after one at {last.start_s} s"
                )
            if start_s > last.end_s + EPS_S:
                out = self.finish()
            else:
                start_s = boundary_s(last, prediction)
                out = self._end_slot(start_s)
        self._source = prediction.source
        self._last = prediction
        smoothed = self._average(np.asarray(prediction.scores, np.float64))
        best = int(np.argmax(smoothed))
        goes_on = not (prediction.unknown and self._always_reach_leave)
        label = best if goes_on and smoothed[best] >= self.smoothing.leave else self._resting
        if label == self._resting and prediction.unknown:
            label = self._unknown
        total = np.append(smoothed, 1 - smoothed[best])
        # the next window's centre is later than this one's, so the slot is at least this long
        calm = 1 - float(smoothed[self._actions].max(initial=0))
        unknown = int(prediction.unknown)
        slot = _Piece(start_s, centre_s(prediction), total, calm, label, unknown=unknown)
        return out + self._add(slot)

    def finish(self) -> list[Segment]:
        """End the stream, or the stretch before a gap, and return the segments still open."""
        if self._last is None:
            return []
        out = self._end_slot(self._last.end_s) + self._give_up_run()
        last = self._current or self._pending
        assert last is not None  # the last slot is in one of them
        if self._current is None:  # the stretch is shorter than the minimum
            last.label = last.best()
        elif self._pending is not None:
            last.add(self._pending)
        out.append(self._segment(last))
        self._current = self._pending = self._last = self._smoothed = None
        return out

    def _average(self, scores: Scores) -> Scores:
        """Update the moving average and return it, (num_classes,)."""
        if self._smoothed is not None:
            scores = self._smoothed + self.smoothing.alpha * (scores - self._smoothed)
        self._smoothed = scores
        return scores

    def _end_slot(self, end_s: float) -> list[Segment]:
        """Set the end of the newest slot; return the segment that ends because of it, if any."""
        newest = self._run or self._pending or self._current
        assert newest is not None
        newest.end_s = end_s
        return self._make_current() if newest is self._pending else []

    def _add(self, slot: _Piece) -> list[Segment]:
        """Add the newest slot to what has been seen; return the segment that it ends, if any."""
        out: list[Segment] = []
        if self._run is not None and self._run.label != slot.label:
            out = self._give_up_run()
        certain = (
            slot.label in (self._resting, self._unknown)
            or (slot.total[slot.label] >= self.smoothing.enter and not slot.unknown)
            or any(p is not None and p.label == slot.label for p in (self._pending, self._current))
        )
        if self._run is not None:
            self._run.add(slot)
            slot = self._run
        self._run = None if certain else slot
        return out + self._decide(slot) if certain else out

    def _give_up_run(self) -> list[Segment]:
        """End a run in which its label was never certain; return the segment that ends, if any."""
        run, self._run = self._run, None
        if run is None:
            return []
        run.label = self._unknown if 2 * run.unknown > run.count else self._resting
        run.seen = {run.label}
        return self._decide(run)

    def _decide(self, piece: _Piece) -> list[Segment]:
        """Take the next piece whose label is certain; return the segment that it ends, if any."""
        current = self._current
        if current is not None and current.label == piece.label:
            if self._pending is not None:  # the label came back after too short an interruption
                current.add(self._pending)
                self._pending = None
            current.add(piece)
            return []
        if self._pending is None:
            self._pending = piece
        else:
            self._pending.add(piece)
            self._pending.label = piece.label  # a run may go on with it
        return self._make_current()

    def _make_current(self) -> list[Segment]:
        """Go on with what is pending if it is long enough; return the segment that it ends."""
        pending, ended = self._pending, self._current
        assert pending is not None
        if pending.end_s - pending.start_s < self.smoothing.min_duration_s - EPS_S:
            return []
        pending.label = pending.best()
        self._current, self._pending = pending, None
        return [] if ended is None else [self._segment(ended)]

    def _segment(self, piece: _Piece) -> Segment:
        is_action = piece.label in self._actions
        confidence = (float(piece.total[piece.label]) if is_action else piece.calm) / piece.count
        return Segment(
            piece.start_s,
            piece.end_s,
            self.labels[piece.label],
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
