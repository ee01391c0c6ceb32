"""Accuracy against the size of a person in the picture, with and without a crop to what moves.

    python -m dvfl_bench.comparisons.focus ../shared/data/weizmann4/index.csv --json FILE --plot PNG

Clips of one person each are pasted into drawn scenes of 640 x 360 and 1280 x 720 at several sizes,
and under the disturbances of `focus_scenes`. For each way of finding the region all clips are cut
and recognised. "place known" cuts at the true place: what the model can reach with any crop. In
scenes without anybody the right answer is idle; with two people it is the action of either.
"""

from __future__ import annotations

import csv
import io
import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from dvfl_bench.comparisons.command import Result, comparison_parser, run_comparison
from dvfl_bench.comparisons.focus_scenes import DISTURBANCES, MOVES, Scene, draw_scene
from dvfl_bench.plots import log_axis, save_panels
from dvfl_runtime import Recognizer
from dvfl_runtime.clips.finder import WHOLE_PICTURE, Track
from dvfl_runtime.clips.focus import find_region
from dvfl_runtime.clips.motion import BLUR_PX, Grey, small_grey
from dvfl_runtime.clips.preprocess import context_frame, cut, preprocess_frame
from dvfl_runtime.clips.sampling import uniform_indices
from dvfl_runtime.clips.spec import Clip, ClipSpec
from dvfl_runtime.errors import SourceError
from dvfl_runtime.files import read_text, replacing
from dvfl_runtime.results import WHOLE, Region
from dvfl_runtime.sources import open_source

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
FILMED_PX = 64
THREADS = 2  # of the engine
KNOWN_MARGIN = 1.2  # of the square that is cut at the true place


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


def read_people(index: Path, spec: ClipSpec) -> list[tuple[Clip, str]]:
    """Return the clips of a list with columns file and label, each over its whole video.

    Raises:
        SourceError: if the list or a video cannot be read.
    """
    try:
        rows = list(csv.DictReader(io.StringIO(read_text(index))))
        named = [(row["file"], row["label"]) for row in rows]
    except (OSError, KeyError, ValueError) as err:
        raise SourceError(f"{index} is not a CSV with columns file and label") from err
    people = []
    for name, label in named:
        with closing(open_source(str(index.parent / name))) as source:
            images = [frame.image for frame in source.frames()]
        picked = uniform_indices(len(images), spec.num_frames)
        people.append((np.stack([images[n] for n in picked]), label))
    return people


def cases() -> Iterator[Case]:
    """Yield what is measured: all sizes undisturbed, and two sizes under each disturbance."""
    for picture, sides in SIZES.items():
        yield from (Case("clean", picture, side) for side in sides)
    yield Case(FILMED, (FILMED_PX, FILMED_PX), FILMED_PX)
    picture, sides = DISTURBED
    for kind in (*DISTURBANCES, *MOVES, TWO):
        yield from (Case(kind, picture, side) for side in sides)
    yield from (Case(kind, picture, 0) for kind in ("clean", *DISTURBANCES, *MOVES))


def scenes_of(case: Case, people: Sequence[tuple[Clip, str]]) -> Iterator[tuple[Scene, set[str]]]:
    """Yield a scene for each clip, and the labels that are right for it."""
    for number, (clip, label) in enumerate(people):
        clips, labels = ([clip], {label}) if case.side else ([], {"idle"})
        if case.kind == FILMED:
            yield Scene(clip, [(0, 0)]), labels
            continue
        if case.kind == TWO:
            other = people[(5 * number + 3) % len(people)]
            clips, labels = [clip, other[0]], {label, other[1]}
        rng = np.random.default_rng([number, case.side, case.picture[0]])
        yield draw_scene(clips, case.side, case.picture, case.kind, rng, len(clip)), labels


def count_right(
    recognizer: Recognizer, case: Case, people: Sequence[tuple[Clip, str]]
) -> dict[str, dict[str, int]]:
    """Return, for each way of finding the region, right answers and regions that are the whole."""
    names = [*FINDERS, *([KNOWN] if case.side else [])]
    found = {name: {"right": 0, "whole": 0} for name in names}
    for scene, labels in scenes_of(case, people):
        images = [context_frame(image, recognizer.spec) for image in scene.images]
        greys = [small_grey(image) for image in images]
        tracks = {name: find(greys) for name, find in FINDERS.items()}
        if case.side:
            x, y = scene.places[0]
            half, side = case.side / 2, case.side * KNOWN_MARGIN
            tracks[KNOWN] = Track(region=_square(x + half, y + half, side, case.picture))
        for name, track in tracks.items():
            shown = [
                preprocess_frame(cut(image, track.region_at(n)), recognizer.spec)
                for n, image in enumerate(images)
            ]
            found[name]["right"] += recognizer.predict(np.stack(shown)).label in labels
            found[name]["whole"] += track.region == WHOLE
    return found


def measure(model: Path | None, index: Path, every: int) -> Result:
    """Count right answers in all cases; return them, ready for JSON.

    Args:
        model: the model file, the bundled one by default.
        index: the list of the clips.
        every: take each n-th clip only.
    """
    rows: list[dict[str, Any]] = []
    with Recognizer(model, num_threads=THREADS) as recognizer:
        people = read_people(index, recognizer.spec)[::every]
        for case in cases():
            found = count_right(recognizer, case, people)
            kind = case.kind if case.side else f"{NOBODY}, {case.kind}"
            row = {"kind": kind, "picture": list(case.picture), "side_px": case.side}
            rows.append({**row, "clips": len(people), "found": found})
            right = ", ".join(f"{name} {counts['right']}" for name, counts in found.items())
            log.info("%s %s %d px: %s", kind, case.picture, case.side, right)
        info = recognizer.info
    return {
        "what": "right answers of clips of one person pasted into larger scenes, by region",
        "model": info.name,
        "engine": f"{info.engine} {info.versions[info.engine]}",
        "data": index.parent.name,
        "rows": rows,
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
    parser.add_argument("index", type=Path, help="CSV with columns file and label")
    parser.add_argument("--model", type=Path, help="the bundled model by default")
    parser.add_argument("--every", type=int, default=1, help="take each n-th clip only")
    parser.add_argument("--plot", type=Path, help="draw the curves here, as a PNG")
    args = parser.parse_args(argv)
    measured = partial(measure, args.model, args.index, args.every)
    return run_comparison(args, measured, threads=THREADS, then=lambda r: save_curve(r, args.plot))


if __name__ == "__main__":
    sys.exit(main())
