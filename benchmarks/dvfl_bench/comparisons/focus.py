"""Accuracy against the size of a person in the picture, with and without a crop to what moves.

    python -m dvfl_bench.comparisons.focus ../shared/data/weizmann4/index.csv --json FILE --plot PNG
    python -m dvfl_bench.comparisons.focus --json FILE          # rendered people

Clips of one person each are pasted into drawn scenes of 640 x 360 and 1280 x 720 at several sizes,
and under the disturbances of `focus_scenes`. For each way of finding the region all clips are cut
and recognised. "place known" cuts at the true place: what the model can reach with any crop. In
scenes without anybody the right answer is idle; with two people it is the action of either, and
both for "motion, each". Who stands still has moved in the window before, and is idle; who moves
again has stood still for a window in between. "for a minute" tells how long the leaves have moved
before the person does.
"""

from __future__ import annotations

import csv
import io
import logging
import multiprocessing
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from dvfl_bench.comparisons.command import Result, comparison_parser, run_comparison
from dvfl_bench.comparisons.focus_scenes import DISTURBANCES, MOVES, Scene, draw_scene
from dvfl_bench.plots import log_axis, save_panels
from dvfl_models.rendered.synthetic import ACTIONS, render_clip
from dvfl_runtime import Recognizer
from dvfl_runtime.clips.finder import WHOLE_PICTURE, Track
from dvfl_runtime.clips.focus import FocusMemory, find_region, find_regions
from dvfl_runtime.clips.motion import BLUR_PX, Grey, small_grey
from dvfl_runtime.clips.preprocess import context_frame, cut, preprocess_frame
from dvfl_runtime.clips.sampling import uniform_indices
from dvfl_runtime.clips.spec import Clip, ClipSpec
from dvfl_runtime.errors import SourceError
from dvfl_runtime.files import read_text, replacing
from dvfl_runtime.results import WHOLE, Region
from dvfl_runtime.sources import Image, open_source

if TYPE_CHECKING:
    from matplotlib.axes import Axes

log = logging.getLogger(__name__)

Finder: TypeAlias = Callable[[Sequence[Grey]], Track]

SIZES: dict[tuple[int, int], tuple[int, ...]] = {
    (640, 360): (360, 240, 160, 100, 64),
    (1280, 720): (720, 480, 360, 160, 100),
}
DISTURBED = ((640, 360), (160, 64))  # the picture and the sizes of disturbed scenes
TWO, NOBODY, FILMED = "two people", "nobody", "as filmed"
STILL, AGAIN = "stands still", "moves again"
MINUTE = ", for a minute"  # ... of which the person has stood still
LONG = ("tree", "slow tree")
EACH = "motion, each"  # of two people: both have a region, and both are named
MOST = 4  # regions of two people
RENDERED, UNSEEN, DRAWN = 40, 9_000_000, (128, 128)  # clips, the first seed, (height, width) px
ACTED = tuple(action for action in ACTIONS if action != "idle")
PERSON = "{person}"
FILMED_PX = 64
THREADS = 1  # of the engine and of OpenCV: clips are small
KNOWN_MARGIN = 1.2  # of the square that is cut at the true place


class Person(NamedTuple):
    """A clip of somebody.

    Attributes:
        clip: (T, h, w, 3), square.
        label: of the action.
        person: who it is, where the list of the clips has a column of that name.
    """

    clip: Clip
    label: str
    person: str = ""


class Case(NamedTuple):
    """Scenes of one kind.

    Attributes:
        kind: the disturbance, "clean", "two people", or "as filmed" for the clips themselves.
        picture: (width, height), px.
        side: of each pasted square, px; 0 for scenes without people.
    """

    kind: str
    picture: tuple[int, int]
    side: int


def whole(_: Sequence[Grey]) -> Track:
    """Return the whole picture, as models have been trained so far."""
    return WHOLE_PICTURE


def fixed_range(pictures: Sequence[Grey]) -> Track:
    """Take the box of what changes by more than 12 grey levels, blurred: the first idea."""
    blurred = np.stack([cv2.GaussianBlur(picture, (0, 0), BLUR_PX) for picture in pictures])
    return _boxed(np.ptp(blurred.astype(int), axis=0) > 12)


def differences(pictures: Sequence[Grey]) -> Track:
    """Take the box of the sum of frame differences where it is above the noise of the window."""
    blurred = np.stack([cv2.GaussianBlur(picture, (0, 0), BLUR_PX) for picture in pictures])
    moved = np.abs(np.diff(blurred.astype(int), axis=0)).sum(0)
    typical = np.median(moved)
    noise = 1.4826 * np.median(np.abs(moved - typical))
    return _boxed(moved > max(20, typical + 5 * noise))


def background_model(pictures: Sequence[Grey]) -> Track:
    """Take the box of what OpenCV's mixture of Gaussians calls foreground."""
    model = cv2.createBackgroundSubtractorMOG2(len(pictures), 25, True)
    for picture in pictures:
        model.apply(picture)
    masks = [model.apply(picture, learningRate=0) == 255 for picture in pictures]
    seen = np.any(masks, axis=0).astype(np.uint8)
    return _boxed(cv2.morphologyEx(seen, cv2.MORPH_OPEN, np.ones((2, 2))) > 0)


def _boxed(moving: NDArray[np.bool_]) -> Track:
    """Return the square around nearly all pixels that move, with the margin of the first idea."""
    height, width = moving.shape
    rows, columns = np.nonzero(moving)
    if rows.size < 8:
        return WHOLE_PICTURE
    (left, right), (top, bottom) = (np.percentile(at, (1, 99)) for at in (columns, rows))
    side = 1.8 * max(right - left, bottom - top, 0.1 * height)
    return Track(region=_square((left + right) / 2, (top + bottom) / 2, side, (width, height)))


def _square(x: float, y: float, side: float, picture: tuple[int, int]) -> Region:
    """Return the square around a middle, px, moved into the picture."""
    width, height = picture
    w, h = min(side, width), min(side, height)
    left = float(np.clip(x - w / 2, 0, width - w))
    top = float(np.clip(y - h / 2, 0, height - h))
    return left / width, top / height, w / width, h / height


FINDERS: dict[str, Finder] = {
    "whole picture": whole,
    "fixed range": fixed_range,
    "differences": differences,
    "background model": background_model,
    "motion": lambda pictures: find_region(pictures, 1.0)[0],  # what the runtime does
}
KNOWN = "place known"


def read_people(index: Path, spec: ClipSpec) -> list[Person]:
    """Return the clips of a list with columns file and label, each over its whole video.

    Raises:
        SourceError: if the list or a video cannot be read.
    """
    try:
        rows = list(csv.DictReader(io.StringIO(read_text(index))))
        named = [(row["file"], row["label"], row.get("person", "")) for row in rows]
    except (OSError, KeyError, ValueError) as err:
        raise SourceError(f"{index} is not a CSV with columns file and label") from err
    people = []
    for name, label, person in named:
        with closing(open_source(str(index.parent / name))) as source:
            images = [frame.image for frame in source.frames()]
        picked = uniform_indices(len(images), spec.num_frames)
        people.append(Person(np.stack([images[n] for n in picked]), label, person))
    return people


def draw_people(count: int, spec: ClipSpec) -> list[Person]:
    """Return rendered clips of one person each, of seeds that no training has used."""
    return [
        Person(
            render_clip(
                label, seed=UNSEEN + n, num_frames=spec.num_frames, size=DRAWN, clean=True
            ).images,
            label,
        )
        for n in range(count)
        for label in (ACTED[n % len(ACTED)],)
    ]


def cases() -> Iterator[Case]:
    """Yield what is measured: all sizes undisturbed, and two sizes under each disturbance."""
    for picture, sides in SIZES.items():
        yield from (Case("clean", picture, side) for side in sides)
    yield Case(FILMED, (FILMED_PX, FILMED_PX), FILMED_PX)
    picture, sides = DISTURBED
    for kind in (*DISTURBANCES, *(kind + MINUTE for kind in LONG), *MOVES, STILL, AGAIN, TWO):
        yield from (Case(kind, picture, side) for side in sides)
    yield from (Case(kind, picture, 0) for kind in ("clean", *DISTURBANCES, *MOVES))


def scenes_of(case: Case, people: Sequence[Person]) -> Iterator[tuple[Scene, set[str]]]:
    """Yield a scene for each clip, and the labels that are right for it."""
    for number, (clip, label, _) in enumerate(people):
        clips, labels = ([clip], {label}) if case.side else ([], {"idle"})
        if case.kind == FILMED:
            yield Scene(clip, [(0, 0)]), labels
            continue
        if case.kind == TWO:
            other = people[(5 * number + 3) % len(people)]
            clips, labels = [clip, other.clip], {label, other.label}
        rng = np.random.default_rng([number, case.side, case.picture[0]])
        kind = case.kind.removesuffix(MINUTE)
        yield draw_scene(clips, case.side, case.picture, kind, rng, len(clip)), labels


def count_right(
    recognizers: Sequence[Recognizer], case: Case, people: Sequence[Person]
) -> dict[str, dict[str, int]]:
    """Return, for each way of finding the region, right answers and regions that are the whole.

    Args:
        recognizers: one for each person.
        case: the scenes.
        people: who is pasted into them.
    """
    found: dict[str, Counter[str]] = defaultdict(Counter)
    scenes = scenes_of(case, people)
    for recognizer, (scene, acted) in zip(recognizers, scenes, strict=True):
        labels = {"idle"} if case.kind == STILL else acted
        images = [context_frame(image, recognizer.spec) for image in scene.images]
        greys = [small_grey(image) for image in images]
        tracks = {name: find(greys) for name, find in FINDERS.items()}
        if case.kind in (STILL, AGAIN):  # windows after the one in which the person has moved
            _, memory = find_region(greys, 1.0, end_s=2.0)
            still, memory = find_region(greys[:1] * len(greys), 1.0, end_s=4.0, memory=memory)
            again, _ = find_region(greys, 1.0, end_s=6.0, memory=memory)
            images = images[:1] * len(images) if case.kind == STILL else images
            track = still if case.kind == STILL else again
            tracks = {"whole picture": WHOLE_PICTURE, "motion": track}
        if case.kind.endswith(MINUTE):
            before = _standing(scene, case.side)
            memory = FocusMemory()
            shown = [small_grey(context_frame(image, recognizer.spec)) for image in before]
            for end_s in range(2, 62, 2):
                _, memory = find_region(shown, 1.0, end_s=end_s, memory=memory)
            tracks["motion"] = find_region(greys, 1.0, end_s=62.0, memory=memory)[0]
        if case.side:
            x, y = scene.places[0]
            half, side = case.side / 2, case.side * KNOWN_MARGIN
            tracks[KNOWN] = Track(region=_square(x + half, y + half, side, case.picture))
        for name, track in tracks.items():
            found[name]["right"] += _answer(recognizer, images, track) in labels
            found[name]["whole"] += track.region == WHOLE
        if case.kind == TWO:
            several, _ = find_regions(greys, 1.0, most=MOST)
            answers = {_answer(recognizer, images, track) for track in several}
            found[EACH]["right"] += len(several) == 2 and answers == labels
            found[EACH]["regions"] += len(several)
    return {name: dict(counts) for name, counts in found.items()}


def _standing(scene: Scene, side: int) -> Clip:
    """Return the pictures of a scene in which the person does not move."""
    images = scene.images.copy()
    for x, y in scene.places:
        images[:, y : y + side, x : x + side] = images[0, y : y + side, x : x + side]
    return images


def _answer(recognizer: Recognizer, images: Sequence[Image], track: Track) -> str:
    shown = [
        preprocess_frame(cut(image, track.region_at(n)), recognizer.spec)
        for n, image in enumerate(images)
    ]
    return recognizer.predict(np.stack(shown)).label


@cache
def _prepared(
    model: str | None, index: Path | None, every: int
) -> tuple[list[Recognizer], list[Person]]:
    """Return who is recognised, and by whom; they stay open as long as the process."""
    cv2.setNumThreads(THREADS)
    open_model = cache(partial(Recognizer, num_threads=THREADS, focus="frame"))
    by_person = model is not None and PERSON in model
    spec = ClipSpec(num_frames=8) if by_person else open_model(model).spec
    people = draw_people(RENDERED, spec) if index is None else read_people(index, spec)
    people = people[::every]
    names = [model.replace(PERSON, who.person) if model else None for who in people]
    return [open_model(name) for name in names], people


def row_of(model: str | None, index: Path | None, every: int, case: Case) -> dict[str, Any]:
    """Count right answers in a case; see `measure`."""
    recognizers, people = _prepared(model, index, every)
    info = recognizers[0].info
    return {
        "kind": case.kind if case.side else f"{NOBODY}, {case.kind}",
        "picture": list(case.picture),
        "side_px": case.side,
        "clips": len(people),
        "found": count_right(recognizers, case, people),
        "model": info.name,
        "engine": f"{info.engine} {info.versions[info.engine]}",
    }


def measure(model: str | None, index: Path | None, every: int, jobs: int) -> Result:
    """Count right answers in all cases; return them, ready for JSON.

    Args:
        model: the model file, the bundled one by default; "{person}" in it stands for the person of
            a clip, whom the model has not seen.
        index: the list of the clips; rendered people by default.
        every: take each n-th clip only.
        jobs: processes.
    """
    rows = []
    with multiprocessing.get_context("spawn").Pool(jobs) as pool:
        for row in pool.imap(partial(row_of, model, index, every), cases()):
            shown = ", ".join(f"{name} {counts['right']}" for name, counts in row["found"].items())
            log.info("%s %s %d px: %s", row["kind"], row["picture"], row["side_px"], shown)
            rows.append(row)
    about = {key: rows[0][key] for key in ("model", "engine")}
    return {
        "what": "right answers of clips of one person pasted into larger scenes, by region",
        **about,
        "data": "rendered people" if index is None else index.parent.name,
        "rows": [{k: v for k, v in row.items() if k not in about} for row in rows],
    }


def draw_sizes(axes: Axes, result: Result, picture: tuple[int, int]) -> None:
    """Draw accuracy against the share of the height that a person's square takes."""
    rows = [
        row
        for row in result["rows"]
        if row["kind"] == "clean" and tuple(row["picture"]) == picture and row["side_px"]
    ]
    shares = [100 * row["side_px"] / picture[1] for row in rows]
    for name in (*FINDERS, KNOWN):
        right = [100 * row["found"][name]["right"] / row["clips"] for row in rows]
        style = "--" if name == KNOWN else "o-"
        axes.plot(shares, right, style, label=name)
    log_axis(axes, "x")
    axes.set(xlabel="person's square, % of the height", ylabel="right, %", ylim=(-3, 103))
    axes.set_title(f"{picture[0]} x {picture[1]} px, {rows[0]['clips']} clips", fontsize=10)
    axes.grid(alpha=0.3)


def save_curve(result: Result, path: Path | None) -> int:
    """Draw the curves of all pictures, if a path is given; return the exit status."""
    if path is not None:
        panels = [partial(draw_sizes, picture=picture) for picture in SIZES]
        with replacing(path) as part:
            save_panels(panels, result, result["machine"], part)
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    parser = comparison_parser("focus", __doc__)
    parser.add_argument(
        "index", type=Path, nargs="?", help="CSV with columns file and label; else rendered people"
    )
    parser.add_argument(
        "--model",
        help="the bundled model by default; with {person} in its name, the file of the model that "
        "has not seen the person in the column person of the clip",
    )
    parser.add_argument("--every", type=int, default=1, help="take each n-th clip only")
    parser.add_argument("--jobs", type=int, default=1, help="processes; default: 1")
    parser.add_argument("--plot", type=Path, help="draw the curves here, as a PNG")
    args = parser.parse_args(argv)
    measured = partial(measure, args.model, args.index, args.every, args.jobs)
    return run_comparison(args, measured, threads=THREADS, then=lambda r: save_curve(r, args.plot))


if __name__ == "__main__":
    sys.exit(main())
