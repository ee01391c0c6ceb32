"""What dvfl-recognize is going to do: its sources, and the files about each of them.

All that can be known to be wrong is found here, before any work.
"""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

from dvfl_runtime.app.options import Roi
from dvfl_runtime.clips.boxes import fixed_boxes
from dvfl_runtime.clips.evaluation import Views
from dvfl_runtime.clips.regions import MAX_REGIONS, Regions
from dvfl_runtime.console.output import segment_suffix
from dvfl_runtime.draw.overlay import check_overlay_suffix
from dvfl_runtime.errors import DvflError, OutputError, SourceError
from dvfl_runtime.files import cannot_write, check_places
from dvfl_runtime.recognizer import BUNDLED_MODEL
from dvfl_runtime.sources import display_name, is_live
from dvfl_runtime.sources.folders import sources_in

MAX_NAME = 100  # characters of a file that is named after an address


@dataclass(frozen=True)
class Task:
    """A source to recognise, and the files about it alone.

    Attributes:
        source: as on the command line.
        overlay: the video with its predictions drawn on it.
        subtitles: its segments as subtitles.
        regions: what is recognised in it; `None` for the one region of the model's focus.
    """

    source: str
    overlay: Path | None = None
    subtitles: Path | None = None
    regions: Regions | None = None


@dataclass(frozen=True)
class Plan:
    """Options that have been checked.

    Attributes:
        tasks: one per source.
        together: whether all sources are read at the same time.
        max_regions: of a window of a source.
        segment_format: the suffix of `--segments`: .csv and .json are one file about all sources,
            .srt is a file of each; `None` for no such output.
    """

    tasks: Sequence[Task]
    together: bool
    segment_format: str | None
    max_regions: int = MAX_REGIONS


def make_plan(args: argparse.Namespace, demo_clip: Path, new_folders: ExitStack) -> Plan:
    """Check the options and make the folders of outputs.

    Args:
        args: the options.
        demo_clip: the source of `--demo`.
        new_folders: removes the folders that were made here if they are empty at the end.

    Raises:
        DvflError: if a source is missing, options contradict each other, or an output cannot be
            written.
    """
    sources = _sources(args, demo_clip)
    _check_page_and_whole(args)
    # a live source may never end, and then no other one would be read after it
    together = bool(args.serve) or (not args.whole and any(map(is_live, sources)))
    segment_format = _segment_format(args)
    if args.overlay is not None and not is_folder(args.overlay):
        check_overlay_suffix(Path(args.overlay))
    is_srt = segment_format == ".srt"
    shared, subtitles = (None, args.segments) if is_srt else (args.segments, None)
    overlay_files = _output_files("--overlay", args.overlay, ".mp4", sources, new_folders)
    subtitle_files = _output_files("--segments", subtitles, ".srt", sources, new_folders)
    inputs = [("a source", name) for name in sources if not is_live(name)]
    check_places(
        [
            *(("-o", args.output), ("--segments", shared), ("--events", args.events)),
            *(("--segments", path) for path in subtitle_files),
            *(("--overlay", path) for path in overlay_files),
        ],
        [*inputs, ("--model", args.model or BUNDLED_MODEL)],
    )
    regions = _regions(args, sources)
    tasks = list(map(Task, sources, overlay_files, subtitle_files, regions))
    most = args.max_regions or max(MAX_REGIONS, len(args.regions or ()))
    return Plan(tasks, together, segment_format, most)


def is_folder(place: str) -> bool:
    """Return whether an output is a folder, with a file for each source."""
    return place.endswith(("/", os.sep)) or os.path.isdir(place)


def _sources(args: argparse.Namespace, demo_clip: Path) -> list[str]:
    """Return the sources, with the videos of a folder in place of the folder."""
    if args.demo and args.sources:
        raise SourceError("--demo brings its own clip; leave out the sources or --demo")
    if args.demo and not demo_clip.is_file():
        raise SourceError(f"the demo clip is not part of this installation ({demo_clip})")
    named = [str(demo_clip)] if args.demo else args.sources
    if not named:
        raise SourceError("no source given; pass a video file, or --demo to see an example")
    sources: list[str] = []
    for source in named:
        try:
            sources += sources_in(source)
        except SourceError:
            sources.append(source)  # its error is reported when it is opened
    return sources


def _check_page_and_whole(args: argparse.Namespace) -> None:
    of_windows = ("segments", "overlay", "window_s", "hop_s", "events", "on_event", "record_events")
    if args.whole and any(getattr(args, name) for name in of_windows):
        raise DvflError(
            "--whole has no windows; leave out --segments, --overlay, --events, --on-event, "
            "--record-events, --window-s and --hop-s"
        )
    if args.views is not None:
        Views.parse(args.views)  # raises if it is none
        if not args.whole:
            raise DvflError("--views is about the one answer of --whole; pass it, too")
    if args.serve and args.whole:
        raise DvflError("--serve shows windows, and --whole has none; leave out one of them")
    if args.linger is not None and not args.serve:
        raise DvflError("--linger is how long the page of --serve HOST:PORT stays; pass both")
    if (args.pre_roll is not None or args.keep_gb is not None) and not args.record_events:
        raise DvflError("--pre-roll and --keep-gb are about --record-events FOLDER; pass it, too")
    if args.token is not None and not args.serve:
        raise DvflError("--token is what the page of --serve HOST:PORT asks for; pass both")
    if args.token == "":
        raise DvflError("--token is empty; pass one that is hard to guess")


def _regions(args: argparse.Namespace, sources: Sequence[str]) -> list[Regions | None]:
    """Return what is recognised in each of the sources; `None` for the model's focus."""
    if args.max_regions is not None and (args.focus == "frame" or args.regions):
        raise DvflError(
            "--max-regions is about what moves; leave it out, or --focus frame and --roi"
        )
    if args.whole and (args.regions or args.max_regions):
        raise DvflError("--whole gives one answer; leave out --roi and --max-regions, or --whole")
    if args.regions and args.focus:
        raise DvflError("--roi tells what the model is shown; leave out --focus or --roi")
    if args.max_regions is not None:
        return ["motion"] * len(sources)
    rois: Sequence[Roi] = args.regions or ()
    for roi in rois:
        if roi.source is not None and not any(_is_about(roi, source) for source in sources):
            raise DvflError(
                f"--roi {roi.name}@{display_name(roi.source)} is about none of the sources; write "
                "one after @ as it is written among them"
            )
    return [_boxes([roi for roi in rois if _is_about(roi, source)]) for source in sources]


def _is_about(roi: Roi, source: str) -> bool:
    """Return whether a part is of this source; one of a folder is of each video in it."""
    if roi.source in (None, source):
        return True
    return not is_live(source) and (os.path.dirname(source) or ".") == os.path.normpath(
        str(roi.source)
    )


def _boxes(rois: Sequence[Roi]) -> Regions | None:
    regions = {roi.name: roi.box for roi in rois}
    if len(regions) < len(rois):
        raise DvflError(
            "two of the --roi of a source have the same name; give each a name of its own"
        )
    if not regions:
        return None
    fixed_boxes(regions, max(MAX_REGIONS, len(regions)))  # an error comes before the model is read
    return regions


def _segment_format(args: argparse.Namespace) -> str | None:
    if args.append and not (args.output or args.segments or args.events):
        raise OutputError(
            "--append continues -o FILE, --segments FILE.csv and --events FILE; pass one of them"
        )
    if args.segments is None:
        return None
    suffix = ".srt" if is_folder(args.segments) else segment_suffix(Path(args.segments))
    if args.append and suffix != ".csv":
        raise OutputError(f"--append continues files of rows, which {args.segments} is not")
    return suffix


def _output_files(
    option: str, place: str | None, suffix: str, sources: Sequence[str], new_folders: ExitStack
) -> Sequence[Path | None]:
    """Return the file for each source, for an output with one file per source."""
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


def _make_folder(folder: str, new_folders: ExitStack) -> None:
    try:
        Path(folder).mkdir()
        new_folders.callback(_remove_if_empty, Path(folder))
    except FileExistsError as err:
        if not os.path.isdir(folder):
            raise OutputError(
                f"cannot write into {folder}: it is not a folder; choose another name"
            ) from err
    except OSError as err:
        raise cannot_write(folder, err) from err


def _remove_if_empty(folder: Path) -> None:
    with suppress(OSError):  # it contains results
        folder.rmdir()


def _files_in(folder: str, sources: Sequence[str], suffix: str) -> list[Path]:
    """Return a file for each source, named after it; no two are the same."""
    names: dict[str, str] = {}  # without capitals, as some file systems compare names -> name
    for source in sources:
        stem = name = _file_name(source)
        number = 1
        while name.casefold() in names:
            number += 1
            name = f"{stem}-{number}"
        names[name.casefold()] = name
    return [Path(folder, name + suffix) for name in names.values()]


def _file_name(source: str) -> str:
    if not is_live(source) and "://" not in source:
        return Path(os.path.abspath(source)).stem or "source"
    name = f"camera_{source}" if source.isdecimal() else display_name(source)
    return re.sub(r"[^\w.-]+", "_", name).strip("_.")[:MAX_NAME]
