"""The clips of a user: which of them can be read, how long they are, which are held back."""

from __future__ import annotations

import csv
import dataclasses
import logging
import sys
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from tqdm import tqdm

from dvfl_runtime.clips.labelled import LabelledVideo, LabelledVideos, find_labelled
from dvfl_runtime.clips.spec import ClipSpec
from dvfl_runtime.errors import SourceError
from dvfl_runtime.files import replacing
from dvfl_runtime.sources import open_source

log = logging.getLogger(__name__)

TRAIN, HELD_BACK = "train", "held_back"  # values of the column `part`
SHOWN = 5  # names in a message


@dataclass(frozen=True)
class Clips:
    """Labelled videos that can be read.

    Attributes:
        videos: all of them.
        held_back: the groups that the first training does not see; empty if there are none to
            spare.
        lengths_s: of those that state their length.
    """

    videos: LabelledVideos
    held_back: frozenset[str]
    lengths_s: Mapping[Path, float]

    def part(self, name: str) -> list[LabelledVideo]:
        """Return the videos to train on or those held back."""
        held = name == HELD_BACK
        return [video for video in self.videos.videos if (video.group in self.held_back) == held]

    def fitted(self, spec: ClipSpec) -> ClipSpec:
        """Return a spec whose window is no longer than most clips, and tell about short ones."""
        window_s = spec.window_s
        short = [length_s for length_s in self.lengths_s.values() if length_s < 0.95 * window_s]
        if not short:
            return spec
        found = (
            f"{len(short)} of {len(self.lengths_s)} clips are shorter than the model's window of "
            f"{window_s:g} s, the shortest has {min(short):.2g} s"
        )
        if 2 * len(short) <= len(self.lengths_s):
            log.warning("%s; all of each is shown", found)
            return spec
        usual_s = max(0.1, round(median(self.lengths_s.values()), 1))
        log.warning("%s; the window becomes %g s, as on the device then", found, usual_s)
        return dataclasses.replace(spec, window_s=usual_s)

    def write_index(self, path: Path) -> None:
        """Write the CSV that the recipes of the run read: file, label, group and part.

        Raises:
            OutputError: if it cannot be written.
        """
        with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as out:
            writer = csv.writer(out)
            writer.writerow(["file", "label", "group", "part"])
            for video in self.videos.videos:
                part = HELD_BACK if video.group in self.held_back else TRAIN
                writer.writerow([video.path.absolute(), video.label, video.group, part])


def gather(place: Path, negatives: Sequence[Path]) -> Clips:
    """Find the clips, leave out what cannot be read, and choose those to hold back.

    Args:
        place: a folder with a folder per class, or an index.
        negatives: videos and folders of videos of nothing in particular.

    Raises:
        DvflError: if there is nothing to learn from.
    """
    found = find_labelled(place, negatives)
    lengths_s, problems = _read(found.videos)
    for problem in list(problems.values())[:SHOWN]:
        log.warning("left out: %s", problem)
    if len(problems) > SHOWN:
        log.warning("left out: %d more files that cannot be read", len(problems) - SHOWN)
    videos = found.without(problems)
    held_back = videos.groups_to_hold_back()
    clips = Clips(videos, held_back, lengths_s)
    _tell(clips)
    return clips


def _read(
    videos: Sequence[LabelledVideo],
) -> tuple[dict[Path, float], dict[Path, str]]:
    """Read the first frame of each video; return the lengths, s, and what is wrong with some."""
    lengths_s: dict[Path, float] = {}
    problems: dict[Path, str] = {}
    for video in tqdm(videos, "looking at the clips", disable=not sys.stderr.isatty(), leave=False):
        try:
            with closing(open_source(video.path)) as source:
                next(source.frames())
                length_s = source.duration_s
        except SourceError as err:
            problems[video.path] = str(err)
            continue
        if length_s:
            lengths_s[video.path] = length_s
    return lengths_s, problems


def _tell(clips: Clips) -> None:
    """Say what is there and what is held back, and warn of what makes an accuracy doubtful."""
    found, test = clips.videos, clips.part(HELD_BACK)
    counts = ", ".join(f"{label} {len(found.of(label))}" for label in found.labels)
    log.info("%d clips of %d classes: %s", len(found.videos), len(found.labels), counts)
    if single := [label for label in found.labels if len(found.of(label)) == 1]:
        log.warning("a single clip shows %s; ten or more of a class are needed", _named(single))
    untested = [label for label in found.labels if label not in {video.label for video in test}]
    if not test:
        log.warning("nothing can be held back, so no accuracy is measured: record more clips")
        return
    if untested:
        log.warning("no clip of %s is held back: all are of one group", _named(untested))
    if found.grouped_by:
        groups = _named(sorted(clips.held_back))
        log.info("%d held back, by %s: %s", len(test), found.grouped_by, groups)
        return
    log.warning(
        "%d clips are held back one by one, because nothing tells which were recorded together: "
        "if one person or place is on both sides, the accuracy is too high; begin the names with "
        "it (anna_01.mp4), or give an index with a column group",
        len(test),
    )


def _named(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
