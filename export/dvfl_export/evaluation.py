"""Accuracy of a checkpoint or of an exported file on labelled videos, by the published protocol.

It is not in `dvfl_models`, because the engines of the runtime run an exported file, and training
may not import them.
"""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from functools import reduce
from operator import add
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from dvfl_models.data.clips import ClipSet, to_batch
from dvfl_models.data.video_clips import VideoClips, check_corrupt
from dvfl_models.network.checkpoint import model_of, read_checkpoint
from dvfl_models.recipe.labels import labels_of, spec_of
from dvfl_models.training.confusion import Confusion, count
from dvfl_runtime import FakeEngine, Recognizer
from dvfl_runtime.artifact import Artifact, ModelFile
from dvfl_runtime.clips.evaluation import Views, sample_video
from dvfl_runtime.clips.spec import Clip, ClipSpec
from dvfl_runtime.engines import open_engine
from dvfl_runtime.errors import RecipeError, SourceError
from dvfl_runtime.sources import open_source
from dvfl_runtime.streams.scoring import Scorer

log = logging.getLogger(__name__)

Scores: TypeAlias = NDArray[np.float32]


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A model to evaluate.

    Attributes:
        name: the file.
        labels: of its logits.
        spec: the clips that it takes.
        about: facts about the model and its engine, ready for JSON; "leaks" of the test sets of
            its training, as `data.leaks` reports them.
        scores: from clips, each (T, H, W, 3) preprocessed, to their mean scores (num_classes,).
    """

    name: str
    labels: tuple[str, ...]
    spec: ClipSpec
    about: dict[str, Any]
    scores: Callable[[Sequence[Clip]], Scores]


def open_candidate(
    path: Path,
    labels: str = "",
    *,
    engine: str = "auto",
    device: str = "auto",
    precision: str = "file",
) -> AbstractContextManager[Candidate]:
    """Open a .onnx file, or else a checkpoint.

    Args:
        path: the file.
        labels: of a checkpoint that does not hold its own: a file, or a published data set.
        engine: name of the engine that runs a .onnx file.
        device: on which it does.
        precision: in which it does, see `Recognizer`.

    Raises:
        DvflError: (on entering) if the file cannot be read or has no labels.
    """
    if path.suffix == ".onnx":
        return _open_exported(path, engine, device, precision)
    return _open_checkpoint(path, labels)


@contextmanager
def _open_exported(path: Path, engine: str, device: str, precision: str) -> Iterator[Candidate]:
    file = ModelFile(path)
    artifact = file.artifact
    opened = open_engine(engine, file, device=device, precision=precision)
    scorer = Scorer(artifact, opened, str(path))

    def scores(clips: Sequence[Clip]) -> Scores:
        found = [scorer.scores(clip[None])[0] for clip in clips]
        return np.asarray(np.mean(found, axis=0), np.float32)

    info = scorer.info
    about = {"engine": info.engine, "provider": info.provider, "precision": info.precision}
    about["leaks"] = artifact.training.get("leaks", [])
    try:
        yield Candidate(str(path), artifact.labels, artifact.spec, about, scores)
    finally:
        scorer.close()


@contextmanager
def _open_checkpoint(path: Path, labels: str) -> Iterator[Candidate]:
    checkpoint = read_checkpoint(path)
    names, spec = labels_of(checkpoint, labels), spec_of(checkpoint)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = model_of(checkpoint).to(device)

    @torch.inference_mode()
    def scores(clips: Sequence[Clip]) -> Scores:
        logits = torch.cat([model(to_batch([clip], spec).to(device)) for clip in clips])
        return np.asarray(logits.float().softmax(1).mean(0).cpu().numpy(), np.float32)

    about: dict[str, Any] = {"engine": "torch", "device": device.type, "sha256": checkpoint.sha256}
    about["leaks"] = checkpoint.training.get("leaks", [])
    yield Candidate(str(path), names, spec, about, scores)


def recognizer_of(candidate: Candidate) -> Recognizer:
    """Return a Recognizer that asks a candidate, as a checkpoint has no engine of the runtime."""

    def scores(clips: NDArray[np.uint8]) -> Scores:
        return np.stack([candidate.scores([clip]) for clip in clips])

    return Recognizer(description_of(candidate), engine=FakeEngine(scores))


def description_of(candidate: Candidate) -> Artifact:
    """Return what a Recognizer has to know of a candidate."""
    name = Path(candidate.name).name
    return Artifact(name, "", candidate.labels, candidate.spec)


def evaluate_on(
    candidate: Candidate, clips: ClipSet, views: Views, *, progress: bool = False
) -> tuple[Confusion, float]:
    """Run each clip or video of a test set once.

    Args:
        candidate: the model; the clips must have been opened with its labels and its spec.
        clips: the test set. From videos `views` are cut; rendered clips are taken as they are.
        views: whose scores are averaged.
        progress: whether to show a bar.

    Returns:
        The confusion, and how long it took, s.

    Raises:
        RecipeError: if more than 1 % of the videos cannot be decoded.
        ValueError: if the views do not suit the model's input.
    """
    labels, began = candidate.labels, time.perf_counter()
    found, skipped = [], []
    for index in tqdm(range(len(clips)), unit="clip", disable=not progress):
        try:
            views_of_one, class_id = _views_of(clips, index, candidate.spec, views)
        except SourceError as err:
            log.warning("left out: %s", err)
            skipped.append(clips.entries[index].path if isinstance(clips, VideoClips) else "")
            continue
        found.append(count(labels, candidate.scores(views_of_one)[None], [class_id]))
    check_corrupt(clips.name, skipped, len(clips))
    if not found:
        raise RecipeError(f"test set {clips.name!r} has no clips; set clips in its table")
    total = reduce(add, found)
    return dataclasses.replace(total, skipped=tuple(skipped)), time.perf_counter() - began


def _views_of(
    clips: ClipSet, index: int, spec: ClipSpec, views: Views
) -> tuple[Sequence[Clip], int]:
    """Return the clips (T, H, W, 3) of an entry of a test set, and its class."""
    if not isinstance(clips, VideoClips):
        clip, class_id = clips[index]
        return [clip], class_id
    entry = clips.entries[index]
    with closing(open_source(entry.path)) as source:
        return sample_video(source, spec, views)[0], entry.class_id
