"""What dvfl-recognize writes: outputs that all sources share, and files about one source alone."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from dvfl_runtime.console.output import PredictionWriter, SegmentWriter
from dvfl_runtime.errors import OutputError
from dvfl_runtime.files import cannot_write
from dvfl_runtime.files.row_files import RowStream
from dvfl_runtime.sources import display_name, is_live

if TYPE_CHECKING:
    from dvfl_runtime.serve.server import PageServer

MAX_NAME = 100  # characters of a file that is named after an address


@dataclass
class Outputs:
    """Everything that is written about all sources.

    Attributes:
        predictions: written for each prediction.
        segments: written for each segment, and finished at the end.
        page: shows all sources and predictions in browsers.
        texts: the streams that the text goes to: standard output, files and pipes.
        on_terminal: whether a row of each prediction goes to standard output.
        lasting: whether there are outputs that nobody has to read meanwhile.
    """

    predictions: list[PredictionWriter] = field(default_factory=list)
    segments: list[SegmentWriter] = field(default_factory=list)
    page: PageServer | None = None
    texts: list[RowStream] = field(default_factory=list)
    on_terminal: bool = False
    lasting: bool = False

    @property
    def all_readers_gone(self) -> bool:
        """Whether nobody is left to read any of the outputs."""
        gone = all(text.reader_gone for text in self.texts)
        return bool(self.texts) and not self.lasting and gone


@dataclass(frozen=True)
class Task:
    """A source to recognise, and the files about it alone.

    Attributes:
        source: as on the command line.
        overlay: the video with its predictions drawn on it.
        subtitles: its segments as subtitles.
    """

    source: str
    overlay: Path | None = None
    subtitles: Path | None = None


def files_for_sources(
    option: str, place: str | None, suffix: str, sources: Sequence[str], new_folders: ExitStack
) -> Sequence[Path | None]:
    """Return the file for each source, for an output with one file per source.

    Args:
        option: the output, for errors.
        place: a file, or a folder for a file of each source; `None` for no output.
        suffix: of the files in a folder.
        sources: as on the command line.
        new_folders: removes a folder that was made here if it is empty at the end.

    Raises:
        OutputError: if the folder cannot be made, or `place` is one file for several sources.
    """
    if place is None:
        return [None] * len(sources)
    if is_folder(place):
        _make_folder(place, new_folders)
        return _files_in(place, sources, suffix)
    if len(sources) > 1:
        raise OutputError(
            f"{option} {place} is about one video, and there are {len(sources)} sources; pass "
            f"a folder for a file of each, such as {option} {Path(place).with_suffix('')}/"
        )
    return [Path(place)]


def is_folder(place: str) -> bool:
    """Return whether an output is a folder, with a file for each source."""
    return place.endswith(("/", os.sep)) or os.path.isdir(place)


def _make_folder(folder: str, new_folders: ExitStack) -> None:
    try:
        Path(folder).mkdir()
    except FileExistsError as err:
        if not os.path.isdir(folder):
            raise OutputError(
                f"cannot write into {folder}: it is not a folder; choose another name"
            ) from err
    except OSError as err:
        raise cannot_write(folder, err) from err
    else:
        new_folders.callback(_remove_if_empty, Path(folder))


def _remove_if_empty(folder: Path) -> None:
    with suppress(OSError):  # it contains results
        folder.rmdir()


def _files_in(folder: str, sources: Sequence[str], suffix: str) -> list[Path]:
    """Return a file for each source, named after it; no two are the same."""
    names: dict[str, str] = {}  # without capitals, as some file systems compare names -> name
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
