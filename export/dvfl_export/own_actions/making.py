"""From a user's clips to a model file: two trainings, and an export that is verified on clips.

The first training leaves some clips out, by whole persons or recordings, and is measured on them.
The second one repeats it on all clips, and its weights go into the file: see models/RESULTS.md for
what these additional clips are worth. Where there is no time for it, or the run is stopped, the
weights that were measured go into the file.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import os
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dvfl_export.confidence.calibrating import calibrate_own
from dvfl_export.deploy.unfolding import restore_checkpoint
from dvfl_export.evaluation import description_of, evaluate_on, open_candidate
from dvfl_export.own_actions.gathering import HELD_BACK, TRAIN, Clips, gather
from dvfl_export.own_actions.recipe import (
    ALL_CLIPS,
    device_of,
    seconds_per_step,
    steps_for,
    write_recipe,
)
from dvfl_export.own_actions.start import write_start
from dvfl_export.pipeline import Exported, ExportRequest, export, progress_bar
from dvfl_export.precision.calibration import calibration_set
from dvfl_models.data.loader import default_workers
from dvfl_models.data.video_clips import VideoClips
from dvfl_models.network.checkpoint import (
    Checkpoint,
    model_of,
    read_checkpoint,
    save_checkpoint,
    variant_of,
)
from dvfl_models.recipe.labels import spec_of
from dvfl_models.recipe.recipe import read_recipe
from dvfl_models.recipe.tables import VideosTable
from dvfl_models.training.confusion import Confusion
from dvfl_models.training.launch import WORLD_SIZES, TrainOptions
from dvfl_models.training.stopping import Stopped
from dvfl_models.training.trainer import Trainer
from dvfl_runtime.artifact import ConfidenceCalibration, Precision
from dvfl_runtime.clips.evaluation import MAX_WINDOWS, Views
from dvfl_runtime.clips.spec import ClipSpec
from dvfl_runtime.errors import DvflError, OutputError

log = logging.getLogger(__name__)

EXPORT_S = 20.0  # least time that is set aside for the export, where the time is bounded
MOST_VERIFIED = 64  # clips
LEAST_STEPS = 20


@dataclass(frozen=True)
class OwnActions:
    """What to make.

    Attributes:
        place: a folder with a folder per class, or an index.
        output: the .onnx file.
        model: where the training starts: a .onnx file in fp32, or a checkpoint.
        negatives: videos and folders of videos of nothing in particular.
        folder: of the run.
        precision: of the file.
        minutes: bound of the whole work.
        settings: changes of the recipe, `key=value`.
        workers: processes that read clips; None for one per core.
        options: of the trainings.
    """

    place: Path
    output: Path
    model: Path
    negatives: tuple[Path, ...]
    folder: Path
    precision: Precision = "fp32"
    minutes: float = math.inf
    settings: tuple[str, ...] = ()
    workers: int | None = None
    options: TrainOptions = dataclasses.field(default_factory=TrainOptions)


@dataclass(frozen=True)
class Trained:
    """The result of a training.

    Attributes:
        checkpoint: with its weights.
        confusion: on the clips held back; None if it has seen them.
        stopped: why it ended before its last step, if it did.
    """

    checkpoint: Path
    confusion: Confusion | None
    stopped: Stopped | None = None


@dataclass(frozen=True)
class Made:
    """What was made.

    Attributes:
        clips: the clips.
        confusion: of the measured weights on those held back; None if none were.
        on_all: whether the weights in the file have been trained on all clips.
        exported: the file.
        stopped: the request that ended the work early, if one did.
    """

    clips: Clips
    confusion: Confusion | None
    on_all: bool
    exported: Exported
    stopped: Stopped | None


def make(wanted: OwnActions) -> Made:
    """Train on a user's clips and write the model file.

    Raises:
        DvflError: if the clips, the start or the folder cannot be used.
        VerificationFailed: if the file does not agree with PyTorch; the weights are kept.
        Stopped: if the first step was not reached.
    """
    if any(int(os.environ.get(name) or 1) > 1 for name in WORLD_SIZES):
        raise DvflError("a folder of clips is trained on by one process; start it alone")
    end_s = time.monotonic() + 60 * wanted.minutes
    clips = gather(wanted.place, wanted.negatives)
    end_s -= _prepare(wanted, clips, end_s)
    measured, final = _train(wanted, clips, end_s)
    about = _about(clips, measured, on_all=final.confusion is None)
    checkpoint = wanted.folder / "final.pth"
    weights = read_checkpoint(final.checkpoint)
    _rewrite(weights, checkpoint, spec_of(weights), about)
    confusion = None if measured is None else measured.confusion
    if confusion is not None:
        confusion.save_png(wanted.folder / "confusion.png", confusion.title("clips held back"))
    try:
        exported = _export(wanted, clips, checkpoint, _confidence(measured, clips))
    except DvflError:
        log.warning("the weights are kept in %s, from which dvfl-export writes a file", checkpoint)
        raise
    except KeyboardInterrupt as err:
        number = getattr(err, "number", 2)
        raise Stopped(number, f"stopped; the weights are in {checkpoint}, dvfl-export writes them "
                              f"to a file") from err  # fmt: skip
    stopped = final.stopped or (measured.stopped if measured else None)
    return Made(clips, confusion, final.confusion is None, exported, stopped)


def _prepare(wanted: OwnActions, clips: Clips, end_s: float) -> float:
    """Fill the folder of a run with its start, its clips and its recipe.

    Returns:
        The time to set aside for the export, s.
    """
    folder, began_s = wanted.folder, time.monotonic()
    start = folder / "start.pth"
    if wanted.options.resume:
        if not (folder / "recipe.toml").exists():
            raise DvflError(f"{folder} holds no run of clips to go on with; leave out --resume")
        return EXPORT_S
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as err:
        raise OutputError(f"cannot make the folder {folder}: {err.strerror}") from err
    if wanted.model.suffix == ".onnx":
        restore_checkpoint(wanted.model, start)
    else:
        read_checkpoint(wanted.model)  # raises unless it is one
        shutil.copyfile(wanted.model, start)
    reserve_s = max(EXPORT_S, 2 * (time.monotonic() - began_s))
    clips.write_index(folder / "clips.csv")
    checkpoint, labels = read_checkpoint(start), clips.videos.labels
    spec = clips.fitted(spec_of(checkpoint))
    if wanted.precision == "int8":  # too few clips are known before the training
        calibration_set(_paths(clips), spec)
    write_start(checkpoint, clips, spec, device_of(cpu=wanted.options.cpu), start)
    steps = steps_for(len(clips.videos.videos))
    write_recipe(folder / "recipe.toml", checkpoint, spec, labels, steps)
    if wanted.minutes < math.inf:
        recipe = read_recipe(folder / "recipe.toml", wanted.settings)
        step_s, planned = seconds_per_step(recipe, cpu=wanted.options.cpu), recipe.optim.steps
        windows = 2 * MAX_WINDOWS * len(clips.part(HELD_BACK))  # at most
        reserve_s += windows * step_s / recipe.optim.batch_size / 3  # a step goes back, too
        within = _within(end_s - time.monotonic() - reserve_s, step_s, planned)
        if within < planned:
            log.info("--minutes is time for about %d of %d steps", within, planned)
            write_recipe(folder / "recipe.toml", checkpoint, spec, labels, within)
    return reserve_s


def _within(left_s: float, step_s: float, steps: int) -> int:
    """Return the steps of each training that fit into a time.

    Two trainings are worth it if each has half of its steps; else all time goes into the first.

    Raises:
        DvflError: if hardly any fit.
    """
    fit = int(left_s / step_s)
    if fit < LEAST_STEPS:
        more = (LEAST_STEPS * step_s - left_s) / 60
        raise DvflError(f"--minutes is too short for this machine; give {more:.1f} minutes more")
    return min(steps, fit // 2 if fit >= steps else fit)


def _train(wanted: OwnActions, clips: Clips, end_s: float) -> tuple[Trained | None, Trained]:
    """Return the training that is measured, if clips are held back, and that of the file."""
    number = len(clips.videos.videos)
    measured = None
    if clips.held_back:
        shown = len(clips.part(TRAIN))
        log.info("training on %d clips, to measure on the other %d", shown, number - shown)
        began_s = time.monotonic()
        measured = _run(wanted, "measured", (), end_s)
        took_s = time.monotonic() - began_s
        try:
            found = _on_windows(measured.checkpoint, wanted.folder / "clips.csv")
        except KeyboardInterrupt as err:
            if measured.stopped is not None:
                raise
            stop = Stopped(getattr(err, "number", 2), "stopped")
            measured = dataclasses.replace(measured, stopped=stop)
        else:
            measured = dataclasses.replace(measured, confusion=found)
        if measured.stopped is not None:
            return measured, measured
        if time.monotonic() + took_s > end_s:
            log.info("the time does not suffice for a training on all clips")
            return measured, measured
    log.info("training on all %d clips, for the file", number)
    try:
        return measured, _run(wanted, "all", ALL_CLIPS, end_s, keep=measured is None)
    except Stopped as err:
        if measured is None:
            raise
        return measured, dataclasses.replace(measured, stopped=err)  # complete, and measured


def _run(
    wanted: OwnActions, name: str, settings: Sequence[str], end_s: float, *, keep: bool = True
) -> Trained:
    """Run a training, or go on with it.

    Args:
        wanted: what to make.
        name: of the training's folder.
        settings: changes of the recipe.
        end_s: when it has to end; `time.monotonic`.
        keep: whether the weights are of use if it is stopped.

    Raises:
        Stopped: if it was stopped before the first step, or the weights are of no use then.
    """
    recipe = read_recipe(wanted.folder / "recipe.toml", (*settings, *wanted.settings))
    path = wanted.folder / name
    resume = wanted.options.resume and (path / "last.pth").exists()
    trainer = Trainer(
        recipe, path, dataclasses.replace(wanted.options, resume=resume, until_s=end_s)
    )
    workers = default_workers() if wanted.workers is None else wanted.workers
    stopped = None
    try:
        confusions = trainer.run(workers=workers, progress=sys.stderr.isatty())
        checkpoint = path / "final.pth"
    except Stopped as err:
        if err.number:
            log.info("stopped: what has been learnt is written; Ctrl-C again ends at once")
        else:
            log.info("the time is up after %d of %d steps", trainer.step, recipe.optim.steps)
        if not (trainer.step and keep):
            raise
        confusions, checkpoint, stopped = trainer.keep("stopped.pth"), path / "stopped.pth", err
    finally:
        trainer.accelerator.end_training()
    return Trained(checkpoint, confusions.get(HELD_BACK), stopped)


def _on_windows(checkpoint: Path, index: Path) -> Confusion:
    """Return what weights make of the clips held back, by windows all over each."""
    values = {"kind": "videos", "name": HELD_BACK, "index": str(index), "group": "group"}
    table = VideosTable.model_validate({**values, "only": {"part": [HELD_BACK]}})
    with open_candidate(checkpoint) as candidate:
        clips = VideoClips(table, candidate.labels, candidate.spec)
        views, progress = Views(windows=True), sys.stderr.isatty()
        return evaluate_on(candidate, clips, views, progress=progress)[0]


def _about(clips: Clips, measured: Trained | None, *, on_all: bool) -> dict[str, Any]:
    """Return what the file tells about its training besides what a checkpoint does."""
    about: dict[str, Any] = {
        "clips": {label: len(clips.videos.of(label)) for label in clips.videos.labels},
        "trained_on": "all clips" if on_all else "the clips that were not held back",
    }
    if measured is None or measured.confusion is None:
        return about
    found = measured.confusion.report()["top1"]
    about["accuracy"] = {HELD_BACK: {"top1": found["value"], "clips": found["clips"]}}
    about["held_back"] = {
        "ci95": found["ci95"],
        "groups": sorted(clips.held_back),
        "grouped_by": clips.videos.grouped_by or "file",
        "measured": "with weights of the same training without these clips"
        if on_all
        else "with these weights",
    }
    return about


def _rewrite(source: Checkpoint, target: Path, spec: ClipSpec, about: dict[str, Any]) -> None:
    """Write a checkpoint again with another spec and more facts about its training."""
    described = {
        "variant": variant_of(source),
        "labels": list(source.labels),
        "spec": spec.to_dict(),
        "training": {**source.training, **about},
    }
    save_checkpoint(target, model_of(source), about=described)


def _confidence(measured: Trained | None, clips: Clips) -> ConfidenceCalibration | None:
    """Fit how sure the file may be, by the weights that have not seen the clips held back."""
    if measured is None or measured.confusion is None:
        return None
    with open_candidate(measured.checkpoint) as candidate:
        return calibrate_own(description_of(candidate), candidate.scores, clips.part(HELD_BACK))


def _export(
    wanted: OwnActions, clips: Clips, checkpoint: Path, confidence: ConfidenceCalibration | None
) -> Exported:
    """Write the file, verified on clips: those held back, or else all; int8 on the same ones."""
    every = _paths(clips)
    held = [video.path for video in clips.part(HELD_BACK)] or [*every]
    request = ExportRequest(
        checkpoint=checkpoint,
        output=wanted.output,
        precision=wanted.precision,
        confidence=confidence,
        calibration=every if wanted.precision == "int8" else (),
        # int8 is verified on videos that the calibration holds back
        clips=() if wanted.precision == "int8" else tuple(held[:: -(-len(held) // MOST_VERIFIED)]),
    )
    with progress_bar(request) as (step, share):
        return export(request, step, share)


def _paths(clips: Clips) -> tuple[Path, ...]:
    return tuple(video.path for video in clips.videos.videos)
