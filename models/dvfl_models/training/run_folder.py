"""The checkpoints of a run: the last one to go on from, the best one, the final one.

`last.pth` holds the weights, the optimiser, the averaged weights, the scaler of fp16, the step, the
best accuracy so far, the recipe and the fingerprint of the data. The learning rate, the clips and
every random number follow from the recipe's seed and the step, so they need no state of their own.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import pydantic
import torch
from torch.optim.swa_utils import AveragedModel

from dvfl_models.network.checkpoint import StateDict, read_checkpoint, save_checkpoint
from dvfl_models.network.video_focalnet import VideoFocalNet
from dvfl_models.recipe.recipe import Recipe
from dvfl_runtime.errors import CheckpointError, DvflError, OutputError
from dvfl_runtime.files import replacing


@dataclass(frozen=True)
class Saved:
    """What a `last.pth` holds.

    Attributes:
        weights: of the network.
        trainer: the rest.
    """

    weights: StateDict
    trainer: Mapping[str, Any]

    def restore(
        self,
        model: VideoFocalNet,
        optimizer: torch.optim.Optimizer,
        averaged: AveragedModel | None,
    ) -> int:
        """Puts everything back in place; returns the step."""
        model.load_state_dict(self.weights)
        optimizer.load_state_dict(self.trainer["optimizer"])
        if averaged is not None:
            averaged.load_state_dict(self.trainer["averaged"])
        return int(self.trainer["step"])


def check_folder(folder: Path, *, resume: bool) -> None:
    """Makes sure that the folder holds a run if one is to be continued, and none if not.

    Raises:
        DvflError: if not.
    """
    there = (folder / "last.pth").exists()
    if there and not resume:
        raise DvflError(f"{folder} holds a run already; pass --resume or another --out folder")
    if resume and not there:
        raise DvflError(
            f"{folder} holds no run to go on with (there is no last.pth); leave out --resume to "
            f"begin one, or give the --out folder of the run"
        )


class Snapshots:
    """Writes and reads the checkpoints of one folder, each complete or not at all.

    Args:
        folder: of the run.
        recipe: as resolved.
        data: fingerprint of the listed videos.
    """

    def __init__(self, folder: Path, recipe: Recipe, data: str) -> None:
        self.folder, self.recipe, self.data = folder, recipe, data
        self.best = -1.0  # accuracy, mean over the test sets

    def open(self, *, resume: bool, main: bool) -> Saved | None:
        """Reads `last.pth` to go on from, or makes the folder of a new run.

        Args:
            resume: whether a run that is there is continued.
            main: whether this process writes.

        Raises:
            DvflError: as `check_folder`, or if the run cannot be continued.
            OutputError: if the folder cannot be made or written.
        """
        check_folder(self.folder, resume=resume)
        if resume:
            return self._read(self.folder / "last.pth")
        if main:
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
            except OSError as err:
                places = (self.folder, *self.folder.parents)
                file = next((place for place in places if place.is_file()), None)
                problem = f"{file} is a file" if file else err.strerror
                raise OutputError(
                    f"cannot make the folder {self.folder}: {problem}; choose another --out"
                ) from err
            with replacing(self.folder / "recipe.json") as part:
                part.write_text(self.recipe.model_dump_json(indent=1) + "\n", encoding="utf-8")
        return None

    def _read(self, last: Path) -> Saved:
        checkpoint = read_checkpoint(last)
        trainer = checkpoint.trainer
        if not trainer:
            raise CheckpointError(f"{last} holds weights alone; it cannot be resumed")
        try:
            recipe = Recipe.model_validate_json(trainer["recipe"])  # fills in what is new since
        except pydantic.ValidationError as err:
            raise CheckpointError(f"{last} holds a recipe that is not valid any more") from err
        if checkpoint.spec is not None:  # today's defaults may differ from those of the run
            recipe = recipe.model_copy(update={"clip": checkpoint.spec.to_dict()})
        if differences := _differences(_values(recipe), _values(self.recipe)):
            raise DvflError(
                f"{last} was trained with another recipe ({'; '.join(differences[:3])}); set what "
                f"differs as it was, or choose another --out folder"
            )
        if trainer.get("data", self.data) != self.data:
            raise DvflError(
                f"{last} was trained on other videos: some have come, gone or changed since; put "
                f"them back, or choose another --out folder"
            )
        self.best = float(trainer.get("best", -1.0))
        return Saved(checkpoint.state_dict, trainer)

    def is_best(self, results: Mapping[str, float]) -> bool:
        """Whether these accuracies are, on the mean, the best so far; remembers them if so."""
        if not results or mean(results.values()) <= self.best:
            return False
        self.best = mean(results.values())
        return True

    def save_last(
        self,
        step: int,
        model: VideoFocalNet,
        optimizer: torch.optim.Optimizer,
        averaged: AveragedModel | None,
        more: Mapping[str, Any],
    ) -> None:
        """Writes `last.pth`.

        Raises:
            DvflError: if a weight or what the optimiser keeps is not finite.
            OutputError: if the file cannot be written.
        """
        trainer: dict[str, Any] = {
            "step": step,
            "recipe": self.recipe.model_dump_json(),
            "optimizer": optimizer.state_dict(),
            "best": self.best,
            "data": self.data,
            **more,
        }
        if averaged is not None:
            trainer["averaged"] = averaged.state_dict()
        self._check_finite({"model": model.state_dict(), **trainer}, step)
        save_checkpoint(self.folder / "last.pth", model, about=self._about(), trainer=trainer)

    def save_best(self, model: VideoFocalNet, training: Mapping[str, Any]) -> None:
        """Writes `best.pth`, weights alone."""
        about = {**self._about(), "training": dict(training)}
        save_checkpoint(self.folder / "best.pth", model, about=about)

    def save_final(self, model: VideoFocalNet, training: Mapping[str, Any]) -> None:
        """Writes `final.pth`, weights alone."""
        about = {**self._about(), "training": dict(training)}
        save_checkpoint(self.folder / "final.pth", model, about=about)

    def _check_finite(self, content: Any, step: int) -> None:
        """Raises if anything is infinite or NaN, so that `last.pth` can always be continued."""
        if isinstance(content, Mapping):
            for value in content.values():
                self._check_finite(value, step)
        elif isinstance(content, torch.Tensor) and not torch.isfinite(content).all():
            last = self.folder / "last.pth"
            kept = f"; {last} stays that of an earlier step" if last.exists() else ""
            raise DvflError(f"the weights are not finite after step {step}{kept}; lower optim.lr")

    def _about(self) -> dict[str, Any]:
        return {
            "variant": self.recipe.model.variant,
            "labels": list(self.recipe.labels),
            "spec": self.recipe.spec.to_dict(),
        }


def _values(recipe: Recipe) -> Any:
    """All values that a result depends on: not how often a run is tested and saved."""
    return json.loads(recipe.model_dump_json(exclude={"test_every", "checkpoint_every"}))


def _differences(saved: Any, given: Any, where: str = "") -> list[str]:
    """What two recipes' values differ in, like "optim.lr was 0.001, is 0.01"."""
    if isinstance(saved, list) and isinstance(given, list) and len(saved) == len(given):
        saved, given = dict(enumerate(saved)), dict(enumerate(given))
    if not (isinstance(saved, dict) and isinstance(given, dict)):
        return [] if saved == given else [f"{where} was {saved!r}, is {given!r}"]
    return [
        difference
        for key in saved | given
        for difference in _differences(
            saved.get(key), given.get(key), f"{where}.{key}" if where else str(key)
        )
    ]
