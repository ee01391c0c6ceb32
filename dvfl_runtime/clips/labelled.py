"""A user's own labelled videos: one folder per class or an index, and parts of them to test on.

Clips of one recording, person or place look alike. Where some of them train a model and others
test it, its accuracy comes out too high, so videos are held back by whole groups.
"""

from __future__ import annotations

import csv
import io
import logging
import random
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePath

from dvfl_runtime.errors import RecipeError
from dvfl_runtime.errors.checks import check_labels
from dvfl_runtime.files import read_text
from dvfl_runtime.sources.folders import is_video, videos_below

log = logging.getLogger(__name__)

IDLE = "idle"  # the label of the negatives, and of what nothing happens in
GROUP_COLUMNS = ("group", "sequence", "person", "cluster")  # the first one that an index has
FEW_GROUPS = 3  # fewer of a class say little about other persons and places
HELD_BACK = 0.25  # share of the videos
NAMES = "the beginning of the file names"
_TOKEN = re.compile(r"[0-9]+|[^\W\d_]+")  # the words and numbers of a name


@dataclass(frozen=True)
class LabelledVideo:
    """A video of one class.

    Attributes:
        path: of the file.
        label: the class.
        group: the same for all videos of one recording, person or place, as far as that is known.
    """

    path: Path
    label: str
    group: str


@dataclass(frozen=True)
class LabelledVideos:
    """The videos of all classes.

    Attributes:
        labels: the classes, in the order of their names.
        videos: of all classes.
        grouped_by: what tells which videos belong together, in words; "" if nothing does, so that
            each video is a group of its own.
    """

    labels: tuple[str, ...]
    videos: tuple[LabelledVideo, ...]
    grouped_by: str

    def without(self, paths: Iterable[Path]) -> LabelledVideos:
        """Return the others, as when some cannot be read.

        Raises:
            RecipeError: if a class has no video then.
        """
        left_out = set(paths)
        rest = tuple(video for video in self.videos if video.path not in left_out)
        if lost := [label for label in self.labels if label not in {v.label for v in rest}]:
            raise RecipeError(
                f"no video of the class {_listed(lost)} can be read; record others, or take the "
                f"class out"
            )
        return replace(self, videos=rest)

    def of(self, label: str) -> list[LabelledVideo]:
        """Return the videos of a class."""
        return [video for video in self.videos if video.label == label]

    def groups_to_hold_back(self, share: float = HELD_BACK, seed: int = 0) -> frozenset[str]:
        """Return the groups to test on, so that each class keeps about `share` of its videos back.

        Every class keeps a group to train on; a class with a single group is not tested.

        Args:
            share: of the videos of each class.
            seed: another one chooses others, where there is a choice.
        """
        by_group: dict[str, Counter[str]] = defaultdict(Counter)
        for video in self.videos:
            by_group[video.group][video.label] += 1
        totals = Counter(video.label for video in self.videos)
        wanted = {label: max(1, round(share * count)) for label, count in totals.items()}
        held: Counter[str] = Counter()
        left = sorted(by_group)
        random.Random(seed).shuffle(left)
        chosen: list[str] = []

        def cost(counts: Counter[str]) -> float:
            return sum(abs(counts[label] - number) / number for label, number in wanted.items())

        while True:
            open_to_choice = [
                group
                for group in left
                if all(held[label] + n < totals[label] for label, n in by_group[group].items())
            ]
            best = min(open_to_choice, key=lambda group: cost(held + by_group[group]), default=None)
            if best is None or cost(held + by_group[best]) >= cost(held):
                return frozenset(chosen)
            chosen.append(best)
            left.remove(best)
            held += by_group[best]


def find_labelled(
    place: Path, negatives: Sequence[Path] = (), negative_label: str = IDLE
) -> LabelledVideos:
    """Find the videos of all classes, and what tells which of them belong together.

    Args:
        place: a folder with a folder of videos for each class, which may have folders of their own
            for persons or recordings; or an index, a CSV with the columns file and label, and with
            group, sequence, person or cluster if that is known. A folder without folders of
            videos may hold an index.csv.
        negatives: videos and folders of videos in which nothing in particular happens; their class
            is "idle".
        negative_label: another name for this class.

    Raises:
        RecipeError: if there is nothing to learn from, or a class is empty, or two are one.
        SourceError: if a folder cannot be listed.
    """
    if place.is_dir():
        found = _in_class_folders(place)
        if not found and (place / "index.csv").is_file():
            place = place / "index.csv"
    elif is_video(place):
        raise RecipeError(
            f"{place} is one video; give the folder that has a folder of videos for each class"
        )
    elif not place.is_file():
        raise RecipeError(f"there is no {place}; give a folder with a folder of videos per class")
    column = ""
    if place.is_file():
        found, column = _in_index(place)
    grouped_by = f"the column {column}" if column else ""
    if not column:
        found, grouped_by = _grouped_by_names(found)
    added, _ = _grouped_by_names(_negatives(negatives, negative_label))
    videos = tuple(_once([*found, *added]))
    labels = tuple(sorted({video.label for video in videos}))
    _check(labels, place, bool(added))
    return LabelledVideos(labels, videos, grouped_by)


def _in_class_folders(place: Path) -> list[LabelledVideo]:
    """Return the videos in the class folders; until they are grouped, `group` is a name."""
    try:
        inside = sorted(path for path in place.iterdir() if path.name[0] != ".")
    except OSError as err:
        raise RecipeError(
            f"cannot list the folder {place}: {err.strerror}; check its permissions"
        ) from err
    found = {path.name: list(videos_below(path)) for path in inside if path.is_dir()}
    empty = [label for label, paths in found.items() if not paths]
    if empty and len(empty) < len(found):
        raise RecipeError(
            f"there is no video in the class folder {_listed(empty)} of {place}; record some, or "
            f"take the folder away"
        )
    loose = [path.name for path in inside if is_video(path)]
    if loose and found:
        log.warning(
            "%d videos of %s are left out, because they are in no folder of a class: %s",
            *(len(loose), place, _listed(loose)),
        )
    return [
        LabelledVideo(path, label, path.relative_to(place / label).with_suffix("").as_posix())
        for label, paths in found.items()
        for path in paths
    ]


def _in_index(index: Path) -> tuple[list[LabelledVideo], str]:
    """Return the videos of an index and the column that groups them, "" without one."""
    try:
        reader = csv.DictReader(io.StringIO(read_text(index)))
        rows, columns = list(reader), list(reader.fieldnames or ())
    except (OSError, csv.Error) as err:
        raise RecipeError(f"cannot read the index {index}: {err}") from err
    if not {"file", "label"} <= {*columns}:
        raise RecipeError(
            f"the index {index} needs the columns file and label, and has {_listed(columns)}"
        )
    column = next((name for name in GROUP_COLUMNS if name in columns), "")
    needed = ["file", "label", *([column] if column else [])]
    for number, row in enumerate(rows, 2):
        if missing := [name for name in needed if not (row[name] or "").strip()]:
            raise RecipeError(f"line {number} of the index {index} has no {missing[0]}")
    found = [
        LabelledVideo(
            index.parent / row["file"].strip(),
            row["label"].strip(),
            row[column].strip() if column else PurePath(row["file"]).with_suffix("").as_posix(),
        )
        for row in rows
    ]
    if absent := [video.path for video in found if not video.path.is_file()]:
        raise RecipeError(
            f"{len(absent)} of {len(found)} files of the index {index} do not exist, the first is "
            f"{absent[0]}; their paths begin at the folder of the index"
        )
    return found, column


def _negatives(places: Sequence[Path], label: str) -> list[LabelledVideo]:
    found = []
    for place in places:
        if not place.exists():
            raise RecipeError(f"--negatives: there is no {place}; give a folder of videos")
        paths = list(videos_below(place)) if place.is_dir() else [place]
        if not paths:
            raise RecipeError(f"--negatives: there is no video in {place}")
        root = place if place.is_dir() else place.parent
        found += [
            LabelledVideo(path, label, path.relative_to(root).with_suffix("").as_posix())
            for path in paths
        ]
    return found


def _grouped_by_names(videos: list[LabelledVideo]) -> tuple[list[LabelledVideo], str]:
    """Return the videos with their groups, and what those follow from; "" without any.

    A group is the shortest beginning of a name that most classes have several of: `anna` of
    wave/anna_01.mp4 and clap_anna_02.mp4, or the folder of wave/anna/01.mp4. The label does not
    count. Numbers alone say nothing where a name has nothing else.
    """
    tokens = [_without_label(video.group, video.label) for video in videos]
    for least in (FEW_GROUPS, 2):
        for length in range(1, max(map(len, tokens), default=0) + 1):
            groups = ["".join(parts[:length]).strip(" ") for parts in tokens]
            by_label: dict[str, set[str]] = defaultdict(set)
            for video, group in zip(videos, groups, strict=True):
                by_label[video.label].add(group)
            several = sum(len(found) >= least for found in by_label.values())
            known = all(len(t) > length or re.search(r"[^\W\d_]", "".join(t)) for t in tokens)
            if known and 2 * several > len(by_label) and len(set(groups)) < len(videos):
                named = zip(videos, groups, strict=True)
                return [replace(video, group=group) for video, group in named], NAMES
    return [replace(video, group=str(video.path)) for video in videos], ""


def _without_label(name: str, label: str) -> list[str]:
    """Return the words and numbers of a name, without those of its label.

    One that something else stands before, as in anna_1, begins with a space.
    """
    found = list(_TOKEN.finditer(name.lower()))
    parts, unwanted = [match[0] for match in found], _TOKEN.findall(label.lower())
    ends = [0, *(match.end() for match in found)]
    spaced = [" " * (end < m.start()) + m[0] for end, m in zip(ends, found, strict=False)]
    size = len(unwanted)
    for start in range(len(parts) - size + 1) if size else ():
        if parts[start : start + size] == unwanted:
            return [*spaced[:start], *spaced[start + size :]]
    return spaced


def _once(videos: Iterable[LabelledVideo]) -> list[LabelledVideo]:
    """Return each video once.

    Raises:
        RecipeError: if one is of two classes.
    """
    out: dict[Path, LabelledVideo] = {}
    for video in videos:
        before = out.setdefault(video.path.resolve(), video)
        if before.label != video.label:
            raise RecipeError(
                f"{video.path} is of two classes, {before.label!r} and {video.label!r}; take it "
                f"out of one of them"
            )
    return list(out.values())


def _check(labels: Sequence[str], place: Path, negatives: bool) -> None:
    """Raise RecipeError unless there are two classes or more, whose names differ."""
    if not labels:
        loose = place.is_dir() and next(videos_below(place), None)
        raise RecipeError(
            f"the videos of {place} are in no folder of a class; move those of each class into a "
            f"folder with its name, like {place / 'wave' / loose.name}"
            if loose
            else f"there is no video in {place}; it needs a folder of videos for each class, or an "
            f"index.csv with the columns file and label"
        )
    if len(labels) < 2:
        add = "add another class" if negatives else "add another class, or --negatives FOLDER"
        raise RecipeError(f"{place} has one class, {labels[0]!r}; {add}")
    check_labels(labels)
    spelt: dict[str, str] = {}
    for label in labels:
        first = spelt.setdefault(" ".join(_TOKEN.findall(label.casefold())) or label, label)
        if first != label:
            raise RecipeError(
                f"the classes {first!r} and {label!r} differ in case or punctuation alone; give "
                f"them one name, or two that nobody confuses"
            )


def _listed(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names[:5])) + (f" and {len(names) - 5} more" * (len(names) > 5))
