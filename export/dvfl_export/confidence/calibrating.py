"""The calibration of a model file's confidence, on clips that were held back and on negatives.

The clips are cut as a device cuts a stream: window after window, a whole window apart.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from dvfl_models.studies.folds import held_out_of
from dvfl_runtime import FakeEngine, Recognizer
from dvfl_runtime.artifact import Artifact, ConfidenceCalibration, ModelFile, fit_calibration
from dvfl_runtime.artifact.calibration import MIN_CLIPS
from dvfl_runtime.clips.labelled import IDLE, LabelledVideo, find_labelled
from dvfl_runtime.clips.spec import Clip
from dvfl_runtime.engines import open_engine
from dvfl_runtime.errors import ExportError, SourceError
from dvfl_runtime.sources.folders import videos_below
from dvfl_runtime.streams.scoring import softmax

log = logging.getLogger(__name__)

Logits: TypeAlias = NDArray[np.float32]
Scores: TypeAlias = NDArray[np.float32]


def calibrate_confidence(
    file: ModelFile,
    held_back: Path,
    negatives: Sequence[Path],
    share: Callable[[float], None] = lambda _done: None,
) -> ConfidenceCalibration:
    """Fit how sure a model may be.

    Args:
        file: the model, in its own precision.
        held_back: labelled videos that it was not trained on: a folder per class, or an index; or
            the folder of a cross-validation, with a model.onnx in each run: what a run held out is
            shown to its own model.
        negatives: videos, or folders of them, that show none of its actions.
        share: called with the share of the videos that is done, 0 to 1.

    Raises:
        ExportError: if a class of the clips is none of the model's, or there are too few clips.
        RecipeError: if there are no labelled videos.
    """
    labels = file.artifact.labels
    if recipes := sorted(held_back.glob("*/recipe.json")):
        return _calibrate_by_runs(file.artifact, recipes, negatives, share)
    videos = find_labelled(held_back).videos
    foreign = [path for place in negatives for path in _videos(place)]
    if strange := sorted({video.label for video in videos} - set(labels)):
        raise ExportError(
            f"--held-back {held_back} has the class {strange[0]!r}, which is none of the model's: "
            f"{', '.join(labels[:5])}{' and more' if len(labels) > 5 else ''}"
        )
    if shared := {video.path.resolve() for video in videos} & {path.resolve() for path in foreign}:
        raise ExportError(
            f"{min(shared)} is a held-back clip and one of the negatives; take it out of one"
        )
    paths = [*(video.path for video in videos), *foreign]
    found = _logits_of_file(file, paths, share)
    try:
        return _fitted(found, videos, foreign, labels)
    except ValueError as err:
        raise ExportError(f"--held-back {held_back}: {err}") from err


def _calibrate_by_runs(
    described: Artifact,
    recipes: Sequence[Path],
    negatives: Sequence[Path],
    share: Callable[[float], None],
) -> ConfidenceCalibration:
    """Fit on what each run of a cross-validation held out; what is idle there is a negative, too.

    Other negatives are dealt out to the runs.
    """
    runs = recipes[0].parent.parent
    found: dict[Path, Logits] = {}
    videos: list[LabelledVideo] = []
    others = [path for place in negatives for path in _videos(place)]
    for number, recipe in enumerate(recipes):
        file = ModelFile(recipe.with_name("model.onnx"))
        if file.artifact.labels != described.labels or file.artifact.spec != described.spec:
            raise ExportError(
                f"--held-back {runs}: {file.path.parent.name} has other labels or other clips "
                f"than the model; give the runs of the same recipe"
            )
        held_out = held_out_of(recipe)
        if twice := {video.path for video in held_out} & (found.keys() | {*others}):
            raise ExportError(
                f"--held-back {runs}: {min(twice)} is held out by two runs, or is one of the "
                f"negatives; give runs of one seed, and other negatives"
            )
        paths = [*(video.path for video in held_out), *others[number :: len(recipes)]]
        found |= _logits_of_file(file, paths)
        videos += held_out
        share((number + 1) / len(recipes))
    foreign = [*others, *(video.path for video in videos if video.label == IDLE)]
    try:
        return _fitted(found, videos, foreign, described.labels)
    except ValueError as err:
        raise ExportError(f"--held-back {runs}: {err}") from err


def _logits_of_file(
    file: ModelFile, paths: Sequence[Path], share: Callable[[float], None] = lambda _done: None
) -> dict[Path, Logits]:
    engine = open_engine("auto", file)
    try:
        return _logits(file.artifact, engine.run, paths, share)
    finally:
        engine.close()


def calibrate_own(
    described: Artifact, scores: Callable[[Sequence[Clip]], Scores], videos: Sequence[LabelledVideo]
) -> ConfidenceCalibration | None:
    """Fit how sure a training on a user's clips may be.

    Args:
        described: the labels and the clips of the weights.
        scores: of clips, by weights that have not seen these videos.
        videos: held back. Those that are idle are the negatives.

    Returns:
        `None` where there are fewer than ten.
    """
    if len(videos) < MIN_CLIPS:
        return None

    def logits(clips: NDArray[np.uint8]) -> Logits:
        return np.log(np.maximum(np.stack([scores([clip]) for clip in clips]), 1e-30))

    found = _logits(described, logits, [video.path for video in videos])
    foreign = [video.path for video in videos if video.label == IDLE]
    return _fitted(found, videos, foreign, described.labels)


def _fitted(
    found: Mapping[Path, Logits],
    videos: Sequence[LabelledVideo],
    foreign: Sequence[Path],
    labels: Sequence[str],
) -> ConfidenceCalibration:
    """Fit a calibration on the logits of the videos that could be read."""
    known = [(found[v.path], labels.index(v.label)) for v in videos if v.path in found]
    strangers = [found[path] for path in foreign if path in found]
    none = np.empty((0, len(labels)), np.float32)
    fitted = fit_calibration(
        np.concatenate([none, *(rows for rows, _ in known)]),
        np.array([class_id for rows, class_id in known for _ in rows], int),
        labels,
        np.concatenate([none, *strangers]) if foreign else None,
    )
    if warning := fitted.report.get("warning"):
        log.warning("negatives: %s", warning)
    return fitted


def in_words(calibration: ConfidenceCalibration) -> str:
    """Return what a calibration does, in a line."""
    report = calibration.report
    line = (
        f"temperature {calibration.temperature:g}, calibration error {report['ece_before']:.3f} -> "
        f"{report['ece_after']:.3f} on {report['clips']} held-back windows"
    )
    if calibration.min_margin:
        line += (
            f"; unknown: {report['rejected']:.1%} of the windows of negatives that looked like "
            f"actions, and {1 - report['kept']:.1%} of those of actions"
        )
    return line


def _videos(place: Path) -> list[Path]:
    if not place.exists():
        raise ExportError(f"--negatives: there is no {place}; give videos or folders of them")
    found = list(videos_below(place)) if place.is_dir() else [place]
    if not found:
        raise ExportError(f"--negatives: there is no video in {place}")
    return found


def _logits(
    artifact: Artifact,
    run: Callable[[NDArray[np.uint8]], Logits],
    paths: Sequence[Path],
    share: Callable[[float], None] = lambda _done: None,
) -> dict[Path, Logits]:
    """Return the (windows, num_classes) logits of each video that can be read."""
    kept: list[Logits] = []

    def scores(clips: NDArray[np.uint8]) -> Logits:
        kept.append(run(clips))
        return softmax(kept[-1])

    found: dict[Path, Logits] = {}
    with Recognizer(artifact, engine=FakeEngine(scores)) as recognizer:
        for number, path in enumerate(paths):
            kept.clear()
            try:
                for _ in recognizer.stream(path, hop_s=artifact.spec.window_s):
                    pass
            except SourceError as err:
                log.warning("left out: %s", err)
            else:
                found[path] = np.concatenate(kept)
            share((number + 1) / len(paths))
    return found
