"""Predictions and segments as text: tables for people, jsonl, csv, json and srt for programs."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from io import StringIO
from pathlib import Path
from typing import Protocol

from dvfl_runtime.errors import OutputError
from dvfl_runtime.files import Replacement
from dvfl_runtime.results import SCHEMA, Event, Prediction, Segment, to_json_row

BAR_WIDTH = 20
SEGMENT_SUFFIXES = (".csv", ".json", ".srt")


class TextStream(Protocol):
    """Where text goes: standard output, a file of rows, or an open text file."""

    def write(self, text: str, /) -> object:
        """Write text."""


class PredictionWriter(Protocol):
    """Writes predictions one by one."""

    def write(self, prediction: Prediction, /) -> None:
        """Write one prediction."""


class EventWriter(Protocol):
    """Writes events one by one."""

    def write(self, event: Event, /) -> None:
        """Write one event."""


class SegmentWriter(Protocol):
    """Writes segments one by one; the text is complete after `finish`."""

    def write(self, segment: Segment) -> None:
        """Write one segment."""

    def finish(self) -> None:
        """Write the end of the text; most forms have none."""
        return  # a docstring alone would make it abstract


class JsonlWriter:
    """One JSON object per prediction or event, on a line of its own."""

    def __init__(self, stream: TextStream) -> None:
        self._stream = stream

    def write(self, result: Prediction | Event, /) -> None:
        """Write one of them."""
        self._stream.write(to_json_row(result) + "\n")


class _Table:
    """Aligned columns under a line of heads.

    Args:
        stream: where the rows go.
        labels: names of the classes.
        named: put the name of each source, and the heads, in front of its rows; otherwise the heads
            come once.
    """

    def __init__(self, stream: TextStream, labels: Sequence[str], *, named: bool = False) -> None:
        self._stream = stream
        self._named = named
        self._label_width = max(len("label"), *map(len, labels))
        self._source: str | None = None

    def _write_row(self, source: str, heads: str, row: str) -> None:
        if self._source is None or (self._named and source != self._source):
            gap = "" if self._source is None else "\n"
            title = f"{gap}{source}\n" if self._named else ""
            row = f"{title}{heads}\n{row}"
            self._source = source
        self._stream.write(f"{row}\n")

    def _columns(self, start: str, end: str, label: str) -> str:
        return f"{start:>9}  {end:>9}  {label:<{self._label_width}}"


class TableWriter(_Table):
    """Start, end, label and score of each window, and the next best labels or the source."""

    def write(self, prediction: Prediction) -> None:
        """Write one row."""
        times = format_time(prediction.start_s), format_time(prediction.end_s)
        if self._named:
            head = "next"
            last = ", ".join(f"{label} {score:.2f}" for label, score in prediction.top[1:])
        else:  # rows of several sources come in turn
            head, last = "source", prediction.source
        heads = f"{self._columns('start', 'end', 'label')}  score  {head}"
        row = f"{self._columns(*times, labelled(prediction))}  {prediction.confidence:5.2f}  {last}"
        self._write_row(prediction.source, heads, row.rstrip())


class WholeTableWriter(_Table):
    """Label, score and source of whole videos."""

    def write(self, prediction: Prediction) -> None:
        """Write one row."""
        width = self._label_width
        row = f"{prediction.label:<{width}}  {prediction.confidence:5.2f}  {prediction.source}"
        self._write_row(prediction.source, f"{'label':<{width}}  score  source", row)


class TimelineWriter(_Table, SegmentWriter):
    """Start, end and label of each segment, and its confidence as a bar."""

    def write(self, segment: Segment) -> None:
        """Write one row."""
        columns = self._columns(
            format_time(segment.start_s), format_time(segment.end_s), labelled(segment)
        )
        bar = "#" * round(segment.confidence * BAR_WIDTH)
        self._write_row(
            segment.source,
            f"{self._columns('start', 'end', 'label')}  confidence",
            f"{columns}  {bar:<{BAR_WIDTH}} {segment.confidence:.2f}",
        )


class CsvSegments(SegmentWriter):
    """A table with the columns start_s, end_s, label, confidence, source, track_id.

    Args:
        stream: where the rows go.
        heads: whether the names of the columns come before the first row.
    """

    def __init__(self, stream: TextStream, *, heads: bool = True) -> None:
        self._stream = stream
        self._heads = heads

    def write(self, segment: Segment) -> None:
        """Write one segment."""
        times = f"{segment.start_s:.3f}", f"{segment.end_s:.3f}"
        text = StringIO()
        rows = csv.writer(text, lineterminator="\n")
        if self._heads:
            rows.writerow(["start_s", "end_s", "label", "confidence", "source", "track_id"])
            self._heads = False
        seen = segment.label, f"{segment.confidence:.4f}"
        rows.writerow([*times, *seen, segment.source, segment.track_id])
        self._stream.write(text.getvalue())


class JsonSegments(SegmentWriter):
    """One JSON object: {"schema": 1, "segments": [...]}."""

    def __init__(self, stream: TextStream) -> None:
        self._stream = stream
        self._separator = "\n"
        stream.write(f'{{"schema": {SCHEMA}, "segments": [')

    def write(self, segment: Segment) -> None:
        """Write one segment."""
        self._stream.write(self._separator + json.dumps(segment.to_dict(), ensure_ascii=False))
        self._separator = ",\n"

    def finish(self) -> None:
        """Close the list and the object."""
        self._stream.write("\n]}\n")


class SrtSegments(SegmentWriter):
    """Subtitles: a player shows the label while the action lasts."""

    def __init__(self, stream: TextStream) -> None:
        self._stream = stream
        self._count = 0

    def write(self, segment: Segment) -> None:
        """Write one segment."""
        self._count += 1
        span = f"{_srt_time(segment.start_s)} --> {_srt_time(segment.end_s)}"
        text = f"{labelled(segment)} ({segment.confidence:.0%})"
        self._stream.write(f"{self._count}\n{span}\n{text}\n\n")


def labelled(found: Prediction | Segment) -> str:
    """Return the label, after the id or the name of the region where it has one."""
    return found.label if found.track_id is None else f"{found.track_id}: {found.label}"


class SegmentDocument:
    """A file of segments that is of one piece (json, srt); it takes its place when it is finished.

    Args:
        path: of the file.
        form: what writes it.

    Raises:
        OutputError: if it cannot be written, here and later.
    """

    def __init__(self, path: Path, form: Callable[[TextStream], SegmentWriter]) -> None:
        self._file = Replacement(path)
        self._stream = self._file.part.open(
            "w", encoding="utf-8", errors="backslashreplace", newline="\n"
        )
        self._writer = form(self._stream)

    def write(self, segment: Segment) -> None:
        """Write one segment."""
        with self._file.explaining():
            self._writer.write(segment)

    def finish(self) -> None:
        """Complete the document and put it in place; after an error, do nothing."""
        if self._file.failed:
            return
        with self._file.explaining():
            self._writer.finish()
            self._stream.close()
        self._file.put_in_place()

    def close(self) -> None:
        """Close the file, complete or not."""
        with suppress(OSError):  # the error has been reported
            self._stream.close()
        self._file.discard()


def segment_suffix(path: Path) -> str:
    """Return the suffix of a file of segments, which names its format.

    Raises:
        OutputError: if it names none.
    """
    suffix = path.suffix.lower()
    if suffix not in SEGMENT_SUFFIXES:
        raise OutputError(
            f"cannot write segments to {path}: the suffix {suffix!r} names no format; "
            f"use one of {', '.join(SEGMENT_SUFFIXES)}"
        )
    return suffix


def format_time(time_s: float) -> str:
    """Return a time for people to read: 3.50, 1:03.50, 2:01:03.50."""
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
