"""Values of a recipe that do not go together: each finding is a sentence with both numbers.

A network learns whatever it is shown. Where training shows other pictures or spans of time than a
test and a device do, it is right about its batches and wrong about everything else.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from dvfl_models.data.clips import ClipSet
from dvfl_models.data.video_clips import VideoClips
from dvfl_models.recipe.recipe import Recipe
from dvfl_models.recipe.tables import SyntheticTable, VideosTable
from dvfl_models.training.confusion import Confusion
from dvfl_runtime.clips.accuracy import wilson
from dvfl_runtime.clips.spec import ClipSpec

Range = tuple[float, float]

SLACK = 1.25  # factor by which a test or a device may be outside of training's range
GAP = 0.1  # how much more accurate batches may be than training clips without augmentation
UNSETTLED = 0.1  # largest share that the first weights may have in the averaged ones
USUAL_FPS = 25  # to turn a number of frames into a time


def doubts(recipe: Recipe, train: Sequence[ClipSet], tests: Sequence[ClipSet]) -> list[str]:
    """Return sentences on all that a user should check before a run.

    Args:
        recipe: with its steps resolved.
        train: the opened `train` tables, in the order of the recipe.
        tests: the opened `test` tables.
    """
    found = [_pictures(recipe), *_spans(recipe, train, tests), _schedule(recipe), _flip(recipe)]
    return [text for text in found if text]


def gap_warning(batches: float, fit: Confusion) -> str:
    """Return a warning if training clips prepared like test clips do much worse, else "".

    Args:
        batches: accuracy of the last batches, which are augmented.
        fit: the result on training clips that were prepared like test clips.
    """
    right, (_, most) = fit.accuracy, wilson(round(fit.accuracy * fit.clips), fit.clips)
    if most > batches - GAP:
        return ""
    return (
        f"accuracy is {batches:.0%} in the last batches, but {right:.0%} on {fit.clips} training "
        f"clips that are prepared like test clips: training shows the network other pictures than "
        f"a test and a device do; compare clip (size, resize, crop, window_s) with augment and "
        f"with window_s of the train tables"
    )


def shown_share(spec: ClipSpec) -> float:
    """Return the share of a picture, at the model's aspect ratio, that a test and a device show."""
    return 1.0 if spec.resize is None else (min(spec.size) / spec.resize) ** 2


def trained_shares(recipe: Recipe) -> Range:
    """Return the least and the largest share that training shows, by its crops and scales."""
    augment, (smallest, largest) = recipe.augment, recipe.augment.scale
    least, most = augment.crop or (1.0, 1.0)
    base = 1.0 if recipe.crops_whole_pictures else shown_share(recipe.spec)
    return base * least / largest**2, min(1.0, base * most / smallest**2)


def _pictures(recipe: Recipe) -> str:
    """Compare the shares of a picture that a test and training show."""
    shown, (least, most) = shown_share(recipe.spec), trained_shares(recipe)
    if _within(shown, (least, most)):
        return ""
    spec = recipe.spec
    return (
        f"a test and a device show {shown:.0%} of a picture (clip.size {spec.size}, clip.resize "
        f"{spec.resize}, clip.crop {spec.crop!r}), training {least:.0%} to {most:.0%} of it "
        f"(augment.crop {recipe.augment.crop}, augment.scale {recipe.augment.scale}); leave out "
        f"clip.resize, which follows from the size, or change augment"
    )


def _spans(recipe: Recipe, train: Sequence[ClipSet], tests: Sequence[ClipSet]) -> list[str]:
    """Compare the spans of time that clips cover; those of a test cover whole videos."""
    ranges = [
        span
        for table, clips in zip(recipe.learnt, train, strict=True)
        if isinstance(table, SyntheticTable | VideosTable) and (span := _span(table, clips))
    ]
    if not ranges:
        return []
    trained = min(low for low, _ in ranges), max(high for _, high in ranges)
    has = (
        f"training clips last {trained[0]:.3g} to {trained[1]:.3g} s (window_s of the train tables)"
    )
    found = []
    if not _within(recipe.spec.window_s, trained):
        found.append(
            f"{has}, but clips on a device last {recipe.spec.window_s:.3g} s (clip.window_s); set "
            f"clip.window_s to a length that training has"
        )
    cut_s = (recipe.spec.frame_interval - 1) / USUAL_FPS
    for test in tests:
        length_s = test.usual_length_s() if isinstance(test, VideoClips) else None
        if length_s and not _within(length_s - cut_s, trained):
            found.append(
                f"{has}, but those of the test set {test.name!r} last {length_s - cut_s:.3g} s, "
                f"because a test spreads its frames over the whole video (clip.frame_interval "
                f"{recipe.spec.frame_interval}); change window_s, or cut the videos to the length "
                f"of an action"
            )
    return found


def _span(table: SyntheticTable | VideosTable, clips: ClipSet) -> Range | None:
    low, high = table.window_s
    length_s = clips.usual_length_s() if isinstance(clips, VideoClips) else math.inf
    return None if length_s is None else (min(low, length_s), min(high, length_s))


def _schedule(recipe: Recipe) -> str:
    """Find a warm-up or an averaging of weights that is too long for the run."""
    optim = recipe.optim
    if optim.warmup_steps >= optim.steps:
        return (
            f"the run has {optim.steps} steps and its warm-up {optim.warmup_steps}, so the "
            f"learning rate rises to {optim.lr * optim.steps / optim.warmup_steps:.2g} only "
            f"(optim.lr {optim.lr:.2g}); lower optim.warmup_steps"
        )
    if (left := optim.ema**optim.steps) > UNSETTLED:
        return (
            f"after {optim.steps} steps the first weights still make up {left:.0%} of the averaged "
            f"ones, which are tested and kept (optim.ema {optim.ema}); lower optim.ema to "
            f"{UNSETTLED ** (1 / optim.steps):.3g} or less"
        )
    return ""


def _flip(recipe: Recipe) -> str:
    """Find two classes that are mirror images, if training mirrors clips."""
    pair = mirror_images(recipe.labels)
    if not recipe.augment.flip or pair is None:
        return ""
    return (
        f"mirrored, {pair[0]!r} looks like {pair[1]!r}, and augment.flip {recipe.augment.flip} "
        f"mirrors clips; set augment.flip = 0"
    )


def mirror_images(labels: Sequence[str]) -> tuple[str, str] | None:
    """Return two classes that are mirror images by their names, or None."""
    words = {label: re.split(r"[^a-z]+", label.lower()) for label in labels}
    swap = {"left": "right", "right": "left"}
    for label, parts in words.items():
        mirrored = [swap.get(word, word) for word in parts]
        for other in labels:
            if words[other] == mirrored != parts:
                return label, other
    return None


def _within(value: float, span: Range) -> bool:
    return span[0] / SLACK <= value <= span[1] * SLACK
