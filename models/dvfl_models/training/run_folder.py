"""The folder of a run: its recipe, its result and its checkpoints, the last, best and final one.

`last.pth`, from which a run goes on, holds the weights, the optimiser, the averaged weights, the
scaler of fp16, the step, the best accuracy so far, the recipe and the fingerprint of the data. The
learning rate, the clips and every random number follow from the recipe's seed and the step, so they
need no state of their own.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from statistics import mean
from typing import Any

import pydantic
import torch

from dvfl_models.network.checkpoint import Checkpoint, read_checkpoint, save_checkpoint
from dvfl_models.network.video_focalnet import VideoFocalNet
from dvfl_models.recipe.recipe import Recipe
from dvfl_runtime.errors import CheckpointError, DvflError, OutputError
from dvfl_runtime.files import replacing, write_json


def check_folder(folder: Path, *, resume: bool) -> None:
    """Raise DvflError unless the folder holds a run to `resume`, or none if a run is to begin."""
    there = (folder / "last.pth").exists()
    if there and not resume:
        raise DvflError(f"{folder} holds a run already; pass --resume or another --out folder")
    if resume and not there:
        raise DvflError(
            f"{folder} holds no run to go on with (there is no last.pth); leave out --resume to "
            f"begin one, or give the --out folder of the run"
        )


class RunFolder:
    """Reads and writes the files of a run, each complete or not at all.

    Args:
        path: of the folder.
        recipe: as resolved.
        data: fingerprint of the listed videos.

    Attributes:
        last: the path of `last.pth`.
        best: the best accuracy so far, as the mean over the test sets.
    """

    def __init__(self, path: Path, recipe: Recipe, data: str) -> None:
        self.path, self.recipe, self.data = path, recipe, data
        self.last = path / "last.pth"
        self.best = -1.0

    def open(self, *, resume: bool, main: bool) -> Checkpoint | None:
        """Return the `last.pth` to go on from, or make the folder of a new run.

        Args:
            resume: whether the run in the folder is continued.
            main: whether this process writes.

        Raises:
            DvflError: as `check_folder`, or if the run cannot be continued.
            OutputError: if the folder cannot be made or written.
        """
        check_folder(self.path, resume=resume)
        if resume:
            return self._read_last()
        if main:
            try:
                self.path.mkdir(parents=True, exist_ok=True)
            except OSError as err:
                places = (self.path, *self.path.parents)
                file = next((place for place in places if place.is_file()), None)
                problem = f"{file} is a file" if file else err.strerror
                raise OutputError(
                    f"cannot make the folder {self.path}: {problem}; choose another --out"
                ) from err
            self._save_text("recipe.json", self.recipe.model_dump_json(indent=1))
        return None

    def _read_last(self) -> Checkpoint:
        last = self.last
        checkpoint = read_checkpoint(last)
        trainer = checkpoint.trainer
        if not trainer:
            raise CheckpointError(f"{last} holds weights alone; it cannot be resumed")
        try:
            recipe = Recipe.model_validate_json(trainer["recipe"])  # fills in newer keys
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
        return checkpoint

    def is_best(self, results: Mapping[str, float]) -> bool:
        """Return whether the mean of these accuracies is the best so far, and remember it if so."""
        if not results or mean(results.values()) <= self.best:
            return False
        self.best = mean(results.values())
        return True

    def save_last(self, step: int, network: VideoFocalNet, state: Mapping[str, Any]) -> None:
        """Write `last.pth`.

        Args:
            step: the number of steps done.
            network: the one that is trained.
            state: tensors and plain values that a resumed run needs besides.

        Raises:
            DvflError: if a weight or a tensor of the state is not finite.
            OutputError: if the file cannot be written.
        """
        trainer: dict[str, Any] = {
            "step": step,
            "recipe": self.recipe.model_dump_json(),
            "best": self.best,
            "data": self.data,
            **state,
        }
        self._check_finite({"model": network.state_dict(), **trainer}, step)
        save_checkpoint(self.last, network, about=self._about(), trainer=trainer)

    def save_weights(self, name: str, network: VideoFocalNet, training: Mapping[str, Any]) -> None:
        """Write a checkpoint of weights alone, "best.pth" or "final.pth".

        Args:
            name: of the file.
            network: the one to keep.
            training: how it was made, ready for JSON.

        Raises:
            OutputError: if the file cannot be written.
        """
        about = {**self._about(), "training": dict(training)}
        save_checkpoint(self.path / name, network, about=about)

    def save_results(self, report: Mapping[str, Any]) -> None:
        """Write `results.json`.

        Raises:
            OutputError: if the file cannot be written.
        """
        write_json(self.path / "results.json", report)

    def _save_text(self, name: str, text: str) -> None:
        with replacing(self.path / name) as part:
            part.write_text(text + "\n", encoding="utf-8")

    def _check_finite(self, content: Any, step: int) -> None:
        """Raise DvflError for an infinity or a NaN, so that `last.pth` can always be continued."""
        if isinstance(content, Mapping):
            for value in content.values():
                self._check_finite(value, step)
        elif isinstance(content, torch.Tensor) and not torch.isfinite(content).all():
            kept = f"; {self.last} stays that of an earlier step" if self.last.exists() else ""
            raise DvflError(f"the weights are not finite after step {step}{kept}; lower optim.lr")

    def _about(self) -> dict[str, Any]:
        return {
            "variant": self.recipe.model.variant,
            "labels": list(self.recipe.labels),
            "spec": self.recipe.spec.to_dict(),
        }


def _values(recipe: Recipe) -> Any:
    """Return all values that a result depends on, up to the rounding of compiled code."""
    left_out: dict[str, Any] = dict.fromkeys(("test_every", "checkpoint_every"), True)
    left_out["optim"] = {"checkpointing", "compile"}
    return json.loads(recipe.model_dump_json(exclude=left_out))


def _differences(saved: Any, given: Any, where: str = "") -> list[str]:
    """Return the differences of two recipes, such as "optim.lr was 0.001, is 0.01"."""
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
