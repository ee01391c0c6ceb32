"""How often model files are right on labelled videos, in the engines that were timed."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from dvfl_runtime.artifact import Artifact
from dvfl_runtime.clips.accuracy import Answers
from dvfl_runtime.clips.evaluation import Views, sample_video
from dvfl_runtime.clips.labelled import LabelledVideos, find_labelled
from dvfl_runtime.clips.spec import Clip, ClipSpec
from dvfl_runtime.engines import Engine
from dvfl_runtime.errors import DvflError, SourceError
from dvfl_runtime.sources import open_source

log = logging.getLogger(__name__)


class Candidate(Protocol):
    """A model file in an engine."""

    @property
    def artifact(self) -> Artifact:
        """The file's description of itself."""

    @property
    def engine(self) -> Engine:
        """Gives logits of clips."""


def find_test_set(place: Path, models: Sequence[tuple[str, Artifact]]) -> LabelledVideos:
    """Find labelled videos whose classes every model knows.

    Args:
        place: a folder with a folder of videos per class, or an index, see `find_labelled`.
        models: the names of the files, and their descriptions.

    Raises:
        DvflError: if there are none, or a model does not know one of their classes.
    """
    videos = find_labelled(place)
    for name, artifact in models:
        if unknown := [label for label in videos.labels if label not in artifact.labels]:
            raise DvflError(
                f"--accuracy {place} has videos of {unknown[0]!r}, which {name} does not know; its "
                f"labels are {', '.join(artifact.labels[:8])}"
                f"{', ...' if len(artifact.labels) > 8 else ''}"
            )
    return videos


def measure_accuracy(
    models: Sequence[Candidate], videos: LabelledVideos, step: Callable[[str], None]
) -> list[dict[str, Any]]:
    """Ask every model about every video: one clip of each, cut as the model wants it.

    A video is decoded once for all models that take the same clips.

    Args:
        models: to ask.
        videos: what `find_test_set` found.
        step: called with what is done, as it begins.

    Returns:
        Of each model the number of clips, the share of right answers with its 95 % interval, and
        how many videos could not be read, ready for JSON.

    Raises:
        DvflError: if no video can be read.
    """
    takers: dict[ClipSpec, list[int]] = defaultdict(list)
    for index, model in enumerate(models):
        takers[model.artifact.spec].append(index)
    truth: list[str] = []
    answers: list[list[int]] = [[] for _ in models]
    for number, video in enumerate(videos.videos, 1):
        step(f"accuracy, video {number} of {len(videos.videos)}")
        try:
            clips = {spec: _clip_of(video.path, spec) for spec in takers}
        except SourceError as err:
            log.warning("left out: %s", err)
            continue
        truth.append(video.label)
        for spec, indices in takers.items():
            for index in indices:
                answers[index].append(int(models[index].engine.run(clips[spec]).argmax()))
    if not truth:
        raise DvflError(f"none of the {len(videos.videos)} videos for --accuracy can be read")
    unreadable = len(videos.videos) - len(truth)
    return [
        {**_report(model.artifact.labels, truth, found), "unreadable": unreadable}
        for model, found in zip(models, answers, strict=True)
    ]


def _clip_of(path: Path, spec: ClipSpec) -> NDArray[np.uint8]:
    """Return the clip (1, T, H, W, 3) of a whole video."""
    with closing(open_source(path)) as source:
        clips: list[Clip] = sample_video(source, spec, Views())[0]
    return clips[0][None]


def _report(
    labels: tuple[str, ...], truth: Sequence[str], answers: Sequence[int]
) -> dict[str, Any]:
    known = np.array([labels.index(label) for label in truth])
    return Answers.of(labels, known, np.array(answers)).report()
