"""Predictions and segments as text: tables for people, jsonl, csv, json and srt for programs."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from dvfl_runtime.errors import OutputError
from dvfl_runtime.results import Prediction, Segment

SCHEMA = 1  # of the jsonl and json outputs; goes up when a name changes its meaning
BAR_WIDTH = 20


class Sink(Protocol):
    """Where text goes: an open text file, or what behaves like one."""

    def write(self, text: str, /) -> object:
        """Writes text."""

    def flush(self) -> object:
        """Makes sure that it has left this process."""


class PredictionWriter(Protocol):
    """Writes predictions one by one, each complete when `write` returns."""

    def write(self, prediction: Prediction) -> None:
        """Writes one prediction."""


class JsonlWriter:
    """One JSON object per prediction, on a line of its own."""

    def __init__(self, stream: Sink) -> None:
        self._stream = stream

    def write(self, prediction: Prediction) -> None:
        """Writes one prediction."""
        self._stream.write(to_json(prediction) + "\n")
        self._stream.flush()


def to_json(prediction: Prediction) -> str:
    """Returns a prediction as one JSON object, in one line."""
    return json.dumps({"schema": SCHEMA, **prediction.to_dict()}, ensure_ascii=False)


class TableWriter:
    """Aligned columns: start, end, label, confidence, and what else came close.

    Args:
        stream: what is written to.
        labels: names of the classes.
        mixed: rows of several sources come in turn: each row names its source, instead of a head
            before the first one.
    """

    def __init__(self, stream: Sink, labels: Sequence[str], *, mixed: bool = False) -> None:
        self._stream = stream
        self._width = _label_width(labels)
        self._mixed = mixed
        self._source: str | None = None

    def write(self, prediction: Prediction) -> None:
        """Writes one row, and before the first one of a source its name and the heads."""
        head = ""
        if self._source is None or (prediction.source != self._source and not self._mixed):
            gap = "" if self._source is None else "\n"
            title = "" if self._mixed else f"{gap}{prediction.source}\n"
            last = "source" if self._mixed else "next"
            heads = f"{'start':>9}  {'end':>9}  {'label':<{self._width}}  score  {last}"
            head = f"{title}{heads}\n"
            self._source = prediction.source
        rest = ", ".join(f"{label} {score:.2f}" for label, score in prediction.top[1:])
        if self._mixed:
            rest = prediction.source
        row = (
            f"{clock(prediction.start_s):>9}  {clock(prediction.end_s):>9}  "
            f"{prediction.label:<{self._width}}  {prediction.confidence:5.2f}  {rest}"
        )
        self._stream.write(f"{head}{row.rstrip()}\n")
        self._stream.flush()


class WholeTableWriter:
    """Aligned columns for whole videos: label, score, file."""

    def __init__(self, stream: Sink, labels: Sequence[str]) -> None:
        self._stream = stream
        self._width = _label_width(labels)
        self._begun = False

    def write(self, prediction: Prediction) -> None:
        """Writes one row, and before the first one the heads."""
        heads = "" if self._begun else f"{'label':<{self._width}}  score  source\n"
        self._begun = True
        row = f"{prediction.label:<{self._width}}  {prediction.confidence:5.2f}"
        self._stream.write(f"{heads}{row}  {prediction.source}\n")
        self._stream.flush()


class TimelineWriter:
    """Segments for people: start, end, label and the confidence as a bar.

    Args:
        stream: what is written to.
        labels: names of the classes.
        named: whether each source is named before its rows.
    """

    def __init__(self, stream: Sink, labels: Sequence[str], *, named: bool = False) -> None:
        self._stream = stream
        self._width = _label_width(labels)
        self._named = named
        self._source: str | None = None

    def write(self, segment: Segment) -> None:
        """Writes one row, and before the first one the heads."""
        head = ""
        if self._source is None or (self._named and segment.source != self._source):
            gap = "" if self._source is None else "\n"
            title = f"{gap}{segment.source}\n" if self._named else ""
            head = f"{title}{'start':>9}  {'end':>9}  {'label':<{self._width}}  confidence\n"
            self._source = segment.source
        bar = "#" * round(segment.confidence * BAR_WIDTH)
        self._stream.write(
            f"{head}{clock(segment.start_s):>9}  {clock(segment.end_s):>9}  "
            f"{segment.label:<{self._width}}  {bar:<{BAR_WIDTH}} {segment.confidence:.2f}\n"
        )
        self._stream.flush()

    def finish(self) -> None:
        """Ends the timeline."""


class SegmentWriter(Protocol):
    """Writes segments one by one; `finish` makes the document complete."""

    def write(self, segment: Segment) -> None:
        """Writes one segment."""

    def finish(self) -> None:
        """Ends the document."""


class CsvSegments:
    """A table with the columns start_s, end_s, label, confidence, source.

    Args:
        stream: what is written to.
        heads: whether the names of the columns come before the first row.
    """

    def __init__(self, stream: Sink, *, heads: bool = True) -> None:
        self._stream = stream
        self._heads = heads

    def write(self, segment: Segment) -> None:
        """Writes one segment."""
        times = f"{segment.start_s:.3f}", f"{segment.end_s:.3f}"
        text = io.StringIO()
        rows = csv.writer(text, lineterminator="\n")
        if self._heads:
            rows.writerow(["start_s", "end_s", "label", "confidence", "source"])
            self._heads = False
        rows.writerow([*times, segment.label, f"{segment.confidence:.4f}", segment.source])
        self._stream.write(text.getvalue())
        self._stream.flush()

    def finish(self) -> None:
        """Ends the document."""


class JsonSegments:
    """One JSON object: {"schema": 1, "segments": [...]}."""

    def __init__(self, stream: Sink) -> None:
        self._stream = stream
        self._before = "\n"
        stream.write(f'{{"schema": {SCHEMA}, "segments": [')

    def write(self, segment: Segment) -> None:
        """Writes one segment."""
        self._stream.write(self._before + json.dumps(segment.to_dict(), ensure_ascii=False))
        self._before = ",\n"

    def finish(self) -> None:
        """Ends the document."""
        self._stream.write("\n]}\n")


class SrtSegments:
    """Subtitles: a player shows the label while the action lasts."""

    def __init__(self, stream: Sink) -> None:
        self._stream = stream
        self._count = 0

    def write(self, segment: Segment) -> None:
        """Writes one segment."""
        self._count += 1
        span = f"{_srt_time(segment.start_s)} --> {_srt_time(segment.end_s)}"
        text = f"{segment.label} ({segment.confidence:.0%})"
        self._stream.write(f"{self._count}\n{span}\n{text}\n\n")

    def finish(self) -> None:
        """Ends the document."""


SEGMENT_FORMATS: dict[str, Callable[[Sink], SegmentWriter]] = {
    ".csv": CsvSegments,
    ".json": JsonSegments,
    ".srt": SrtSegments,
}


def segment_suffix(path: Path) -> str:
    """Returns the format of a segment file, which its suffix names.

    Raises:
        OutputError: if the suffix names none.
    """
    suffix = path.suffix.lower()
    if suffix not in SEGMENT_FORMATS:
        raise OutputError(
            f"cannot write segments to {path}: the suffix {suffix!r} names no format; "
            f"use one of {', '.join(SEGMENT_FORMATS)}"
        )
    return suffix


def clock(time_s: float) -> str:
    """Returns a time as people read it: 3.50, 1:03.50, 2:01:03.50."""
    hundredths = round(abs(time_s) * 100)
    sign = "-" if time_s < 0 and hundredths else ""
    minutes, rest = divmod(hundredths, 6000)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{sign}{hours}:{minutes:02}:{rest / 100:05.2f}"
    return f"{sign}{minutes}:{rest / 100:05.2f}" if minutes else f"{sign}{rest / 100:.2f}"


def _srt_time(time_s: float) -> str:
    seconds, ms = divmod(max(0, round(time_s * 1000)), 1000)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02}:{minutes:02}:{seconds:02},{ms:03}"


def _label_width(labels: Sequence[str]) -> int:
    return max(len("label"), *(len(label) for label in labels))
