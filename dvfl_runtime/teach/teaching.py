"""From folders of clips to a model file: features, a head, and a check of what was written.

Two kinds of features are tried, those of the network and how what moves moves (`motion`), and the
kind with which the groups that are left out come out best is taken.
"""

from __future__ import annotations

import hashlib
import logging
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from dvfl_runtime.artifact import Artifact, ModelFile
from dvfl_runtime.clips.accuracy import Answers
from dvfl_runtime.clips.labelled import IDLE, LabelledVideos, find_labelled
from dvfl_runtime.clips.spec import Clip, ClipSpec, Focus
from dvfl_runtime.console.terminal import CountProgress
from dvfl_runtime.errors import ArtifactError, SourceError
from dvfl_runtime.files import replacing
from dvfl_runtime.recognizer import BUNDLED_MODEL
from dvfl_runtime.teach.confidence import learn_confidence
from dvfl_runtime.teach.features import (
    WHOLE_SHARE,
    EngineChoice,
    FeatureReader,
    VideoFeatures,
    cut_windows,
    open_features,
    read_by_all,
)
from dvfl_runtime.teach.graph import Head, with_head
from dvfl_runtime.teach.head import CrossValidation, Examples, teach_head
from dvfl_runtime.teach.motion import FEATURES, motion_model
from dvfl_runtime.version import __version__

log = logging.getLogger(__name__)

CHECKED_VIDEOS = 8  # whose clips the new file is run on
LARGEST_DIFFERENCE = 1e-2  # of its logits from those of the head in numpy; scores move by 0.003


@dataclass(frozen=True)
class TeachRequest:
    """What to teach, and on which features.

    Attributes:
        place: a folder with a folder of videos for each action, or an index.
        output: path of the .onnx file to write.
        model: whose features serve.
        negatives: videos and folders of videos in which nothing in particular happens.
        negative_label: what they are called.
        focus: what the model is shown; by default as its file says.
        name: of the new model; by default the output's stem.
        engine: computes the features.
    """

    place: Path
    output: Path
    model: Path = BUNDLED_MODEL
    negatives: tuple[Path, ...] = ()
    negative_label: str = IDLE
    focus: Focus | None = None
    name: str = ""
    engine: EngineChoice = field(default_factory=EngineChoice)


@dataclass(frozen=True, eq=False)
class Taught:
    """What was taught and written.

    Attributes:
        artifact: the description of the new file.
        found: the videos that were learnt.
        examples: their windows.
        validation: how the head was chosen.
        others: answers by the features that were not taken: name of their model -> answers.
        answers: about the videos of groups that were left out.
    """

    artifact: Artifact
    found: LabelledVideos
    examples: Examples
    validation: CrossValidation
    answers: Answers
    others: dict[str, Answers]


@dataclass(frozen=True, eq=False)
class _Fit:
    """A head on the features of one reader, and what is known of it."""

    reader: FeatureReader
    examples: Examples
    head: Head
    validation: CrossValidation

    @property
    def answers(self) -> Answers:
        return answers_of(self.examples, self.validation)


def teach(request: TeachRequest) -> Taught:
    """Write a model file for the actions in a folder, or nothing; show a bar on a terminal.

    Args:
        request: what to teach.

    Raises:
        RecipeError: if there is nothing to learn from.
        ArtifactError: if the model cannot be used, or the new file does not compute what was
            taught.
        EngineUnavailable: if the engine or the device cannot be used here.
        OutputError: if the file cannot be written.
        DvflError: if onnx is not installed.
    """
    found = find_labelled(request.place, request.negatives, request.negative_label)
    file = ModelFile(request.model)
    spec = replace(file.artifact.spec, focus=request.focus or file.artifact.spec.focus)
    # opened first: a folder that is not writable shows before the work
    with replacing(request.output) as part, open_readers(file, spec, request.engine) as readers:
        found, features = _read_all(readers, found)
        _warn_of_short_videos(found, features[0], spec)
        fits = [_fit(reader, found, its) for reader, its in zip(readers, features, strict=True)]
        best = min(fits, key=lambda fit: fit.validation.loss)  # the network's, if nothing is tested
        reader, examples, validation = best.reader, best.examples, best.validation
        parent = reader.file.artifact
        _warn_of_what_is_not_tested(found, examples, validation)
        familiarity, calibration = learn_confidence(examples, validation) or (None, None)
        head = replace(best.head, familiarity=familiarity)
        described = replace(
            parent,
            name=request.name or request.output.stem,
            labels=found.labels,
            spec=spec,
            training=_training(request, best, found),
            parity={},
            confidence_calibration=calibration,  # that of the parent is for its own logits
            tools={**parent.tools, "dvfl": __version__},
        )
        part.write_bytes(with_head(reader.file, head, described))
        checked = _check(part, reader, head, _clips_to_check(found, spec), request.engine)
        parity = {"head": checked, "parent": dict(parent.parity)}
        part.write_bytes(with_head(reader.file, head, replace(described, parity=parity)))
        artifact = ModelFile(part).artifact  # raises where the runtime would refuse the file
    others = {fit.reader.file.artifact.name: fit.answers for fit in fits if fit is not best}
    return Taught(artifact, found, examples, validation, best.answers, others)


@contextmanager
def open_readers(
    file: ModelFile, spec: ClipSpec, choice: EngineChoice
) -> Iterator[list[FeatureReader]]:
    """Open the features of a model, and those of what moves, for the same clips.

    Raises:
        ArtifactError: if the head is not one linear layer, or the engine cannot load the file.
        EngineUnavailable: if the engine or the device cannot be used here.
        DvflError: if onnx is not installed.
    """
    with ExitStack() as stack:
        files = [file]
        content = None if file.artifact.features == FEATURES else motion_model(spec)
        if content is not None:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="dvfl-teach-"))
            path = Path(folder) / "motion.onnx"
            path.write_bytes(content)
            files.append(ModelFile(path))
        yield [stack.enter_context(open_features(one, spec, choice)) for one in files]


def _fit(reader: FeatureReader, found: LabelledVideos, features: list[VideoFeatures]) -> _Fit:
    examples = Examples.of(found, features)
    return _Fit(reader, examples, *teach_head(examples))


def answers_of(examples: Examples, validation: CrossValidation) -> Answers:
    """Return the answers about the videos of groups that were left out."""
    tested = validation.tested
    means = examples.video_means(validation.logits)[tested]
    return Answers.of(examples.labels, examples.class_of[tested], means.argmax(1))


def _read_all(
    readers: Sequence[FeatureReader], found: LabelledVideos
) -> tuple[LabelledVideos, list[list[VideoFeatures]]]:
    """Return the videos that can be read, and by each reader the features of all of them."""
    features: dict[Path, list[VideoFeatures]] = {}
    with CountProgress(len(found.videos), 0, "clips") as bar:
        for video in found.videos:
            try:
                features[video.path] = read_by_all(readers, video.path)
            except SourceError as err:
                log.warning("%s is left out: %s", video.path, err)
            bar.add(video.path.name)
    damaged = [video.path for video in found.videos if video.path not in features]
    found = found.without(damaged) if damaged else found
    by_video = [features[video.path] for video in found.videos]
    return found, [[its[number] for its in by_video] for number in range(len(readers))]


def _warn_of_short_videos(
    found: LabelledVideos, features: Sequence[VideoFeatures], spec: ClipSpec
) -> None:
    lengths = [one.length_s for one in features]
    short = [length for length in lengths if length < WHOLE_SHARE * spec.window_s]
    if short:
        shortest = found.videos[int(np.argmin(lengths))].path
        log.warning(
            "%d of %d clips are shorter than the %g s that the model looks at, and are seen in "
            "slow motion; the shortest, %s, has %.2g s: record longer ones",
            *(len(short), len(lengths), spec.window_s, shortest, min(short)),
        )


def _warn_of_what_is_not_tested(
    found: LabelledVideos, examples: Examples, validation: CrossValidation
) -> None:
    if not found.grouped_by:
        log.warning(
            "nothing tells which clips are of one person or place, so that clips alike are on both "
            "sides of the test, and the accuracy comes out too high; name them PERSON_01.mp4, or "
            "give an index.csv with the columns file, label and group"
        )
    for number, label in enumerate(found.labels):
        of_class = examples.class_of == number
        if not (of_class & validation.tested).any():
            clips = int(of_class.sum())
            log.warning(
                "%r has %s, so it is learnt and not tested; record others%s",
                label,
                "one clip" if clips == 1 else f"{clips} clips of one group",
                "" if clips == 1 else " of another person or at another place",
            )


def _training(request: TeachRequest, fit: _Fit, found: LabelledVideos) -> dict[str, Any]:
    """Return what the file tells about its training."""
    file, examples, validation = fit.reader.file, fit.examples, fit.validation
    return {
        "data": [request.place.resolve().name],
        "videos": {label: len(found.of(label)) for label in found.labels},
        "windows": len(examples.video),
        "groups": len({video.group for video in found.videos}),
        "grouped_by": found.grouped_by,
        "accuracy": {"cross_validated": fit.answers.report()} if fit.answers.clips else {},
        "head": {
            "strength": round(validation.strength, 6),
            "mirror": validation.mirror,
            "scale": validation.scale,
            "folds": validation.folds,
        },
        "parent": {
            "name": file.artifact.name,
            "sha256": hashlib.sha256(file.content).hexdigest(),
            "training": dict(file.artifact.training),
        },
    }


def _clips_to_check(found: LabelledVideos, spec: ClipSpec) -> list[Clip]:
    """Return a clip of each of a few videos, of all classes in turn."""
    chosen = [video for label in found.labels for video in found.of(label)[:2]]
    step = max(1, len(chosen) // CHECKED_VIDEOS)
    return [cut_windows(video.path, spec)[0][0] for video in chosen[::step][:CHECKED_VIDEOS]]


def _check(
    path: Path, reader: FeatureReader, head: Head, clips: list[Clip], choice: EngineChoice
) -> dict[str, Any]:
    """Run the new file and compare its logits with those of the head in numpy.

    Raises:
        ArtifactError: if they differ.
    """
    wanted = head.logits(reader.features_of(clips))
    # the engine that computed the features, also where it was chosen as the fastest one
    same = replace(choice, name=reader.engine.name, device=reader.engine.device)
    with closing(same.open(ModelFile(path))) as engine:
        logits = np.concatenate([engine.run(clip[None]) for clip in clips])
    difference = float(np.abs(logits - wanted).max())
    top1 = float((logits.argmax(1) == wanted.argmax(1)).mean())
    if not (difference <= LARGEST_DIFFERENCE and top1 == 1):
        raise ArtifactError(
            f"the new file does not compute what was taught: in {reader.engine.name} its logits "
            f"differ by {difference:.2g} on {len(clips)} clips; pass --engine with another engine"
        )
    return {
        "what": "logits of this file beside those of its head on the parent's features, in numpy",
        "engine": f"{reader.engine.name} {reader.engine.version}",
        "clips": len(clips),
        "max_difference": difference,
        "top1": top1,
    }
