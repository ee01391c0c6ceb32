"""Where results go: files that the sources share, and files of one source alone."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from dvfl_runtime.console.output import PredictionWriter, SegmentWriter, Sink
from dvfl_runtime.draw.overlay import OverlayWriter
from dvfl_runtime.errors import OutputError
from dvfl_runtime.files import Replacement, cannot_write
from dvfl_runtime.files.row_files import RowStream
from dvfl_runtime.results import Prediction, Segment
from dvfl_runtime.sources import Frame, Source, display_name, is_live
from dvfl_runtime.sources.observed import Tap

MAX_NAME = 100  # characters of a file that is named after an address


class Viewer(Protocol):
    """Sees the frames on their way to the model, and then what the model says about them."""

    def watch(self, source: Source) -> Source:
        """Returns the source to read instead, which shows each frame to this viewer."""

    def write(self, prediction: Prediction) -> None:
        """Takes one prediction; those of one source come in the order of time."""

    def finish(self) -> None:
        """Completes what has been made of the frames so far."""


class SegmentDocument:
    """A file of segments that is of one piece (json, srt): it takes its place when it is finished.

    Args:
        path: of the file.
        form: what writes it.

    Raises:
        OutputError: if it cannot be written, here and later.
    """

    def __init__(self, path: Path, form: Callable[[Sink], SegmentWriter]) -> None:
        self._file = Replacement(path)
        self._stream = self._file.part.open(
            "w", encoding="utf-8", errors="backslashreplace", newline="\n"
        )
        self._writer = form(self._stream)

    def write(self, segment: Segment) -> None:
        """Writes one segment."""
        with self._file.explaining():
            self._writer.write(segment)

    def finish(self) -> None:
        """Ends the document and puts it in place; does nothing after an error."""
        if self._file.failed:
            return
        with self._file.explaining():
            self._writer.finish()
            self._stream.close()
        self._file.put_in_place()

    def close(self) -> None:
        """Closes it, complete or not."""
        with suppress(OSError):  # the error has been reported
            self._stream.close()
        self._file.discard()


class OverlayFile:
    """The video of one source with what was recognised drawn on it; in place when it is finished.

    Args:
        path: of the video.
        labels: names of the classes.

    Raises:
        OutputError: if it cannot be written, here and later.
    """

    def __init__(self, path: Path, labels: Sequence[str]) -> None:
        self._file = Replacement(path)
        self._writer = OverlayWriter(self._file.part, labels)

    def watch(self, source: Source) -> Source:
        """Returns the source to read instead, which shows each frame to this viewer."""
        self._writer.watch(source)
        return Tap(source, self._add)

    def write(self, prediction: Prediction) -> None:
        """Takes one prediction."""
        with self._file.explaining():
            self._writer.write(prediction)

    def finish(self) -> None:
        """Completes the video and puts it in place; not after an error, and not without frames."""
        if self._file.failed or not self._writer.begun:
            return
        with self._file.explaining():
            self._writer.finish()
        self._file.put_in_place()

    def close(self) -> None:
        """Closes it, complete or not."""
        self._writer.close()
        self._file.discard()

    def _add(self, frame: Frame) -> None:
        with self._file.explaining():  # also in a thread that reads: some frames cannot wait
            self._writer.add(frame)


@dataclass
class Outputs:
    """Everything that is written about all sources.

    Attributes:
        rows: take each prediction.
        timelines: take each segment.
        viewers: take each frame and each prediction.
        texts: what the text goes to: standard output, files and pipes.
        terminal: whether a row of each prediction goes to standard output.
        lasting: whether there are other outputs, which nobody has to read meanwhile.
    """

    rows: list[PredictionWriter] = field(default_factory=list)
    timelines: list[SegmentWriter] = field(default_factory=list)
    viewers: list[Viewer] = field(default_factory=list)
    texts: list[RowStream] = field(default_factory=list)
    terminal: bool = False
    lasting: bool = False

    def is_unheard(self) -> bool:
        """Says whether nobody is left to read what would be written."""
        return (
            bool(self.texts) and not self.lasting and all(text.reader_gone for text in self.texts)
        )


@dataclass(frozen=True)
class Task:
    """A source, and the files about it alone.

    Attributes:
        source: as on the command line.
        overlay: the video with what was recognised drawn on it.
        subtitles: the segments as subtitles.
    """

    source: str
    overlay: Path | None = None
    subtitles: Path | None = None


def is_folder(place: str) -> bool:
    """Says whether an output is a folder, with a file for each source."""
    return place.endswith(("/", os.sep)) or os.path.isdir(place)


def make_folder(folder: str) -> bool:
    """Makes a folder for outputs; returns whether it is new.

    Raises:
        OutputError: if that fails.
    """
    try:
        Path(folder).mkdir()
    except FileExistsError as err:
        if not os.path.isdir(folder):
            raise OutputError(
                f"cannot write into {folder}: it is not a folder; choose another name"
            ) from err
        return False
    except OSError as err:
        raise cannot_write(folder, err) from err
    return True


def files_in(folder: str, sources: Sequence[str], suffix: str) -> list[Path]:
    """Returns a file for each source, named after it; no two are the same."""
    names: dict[str, str] = {}  # without capitals, as some file systems have it -> name
    for source in sources:
        stem = name = _stem(source)
        number = 1
        while name.casefold() in names:
            number += 1
            name = f"{stem}-{number}"
        names[name.casefold()] = name
    return [Path(folder, name + suffix) for name in names.values()]


def _stem(source: str) -> str:
    if not is_live(source) and "://" not in source:
        return Path(os.path.abspath(source)).stem or "source"
    name = f"camera_{source}" if source.isdecimal() else display_name(source)
    return re.sub(r"[^\w.-]+", "_", name).strip("_.")[:MAX_NAME]
