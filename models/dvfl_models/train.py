"""The training loop: AdamW or SGD, warm-up and cosine, averaged weights, resumable at any step."""

from __future__ import annotations

import csv
import json
import logging
import math
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader, Subset
from tqdm import tqdm

from dvfl_models.checkpoint import load_checkpoint, read_checkpoint, save_checkpoint
from dvfl_models.data import TrainingBatches, clip_set, quiet_worker
from dvfl_models.evaluate import Confusion, evaluate, normalise
from dvfl_models.recipe import Recipe
from dvfl_models.video_focalnet import VideoFocalNet, build_model, init_weights
from dvfl_runtime.errors import CheckpointError, DvflError
from dvfl_runtime.files import replacing

log = logging.getLogger(__name__)


class Trainer:
    """One run of a recipe in a folder of its own.

    The folder holds `recipe.json` (as resolved), `metrics.csv`, `last.pth` (resumable) and, when
    the run is complete, `final.pth` (weights alone) and `confusion_<test set>.png`.
    """

    def __init__(self, recipe: Recipe, folder: Path, *, resume: bool = False) -> None:
        """Prepares a run.

        Raises:
            DvflError: if the folder holds another run, a data set is missing, or a checkpoint
                does not fit.
        """
        self.recipe, self.folder, self.step = recipe, folder, 0
        optim = recipe.optim
        self.batches = TrainingBatches(recipe)
        self.tests = [clip_set(part, recipe) for part in recipe.test]
        self.model = self._new_model()
        self.averaged: AveragedModel | None = None
        if optim.ema:
            average = get_ema_multi_avg_fn(optim.ema)
            self.averaged = AveragedModel(self.model, multi_avg_fn=average)
        self.optimizer = self._new_optimizer()
        self.confusions: dict[str, Confusion] = {}
        last = folder / "last.pth"
        if resume and last.exists():
            self._resume(last)
        elif last.exists():
            raise DvflError(f"{folder} holds a run already; pass --resume or another --out folder")
        else:
            folder.mkdir(parents=True, exist_ok=True)
            with replacing(folder / "recipe.json") as part:
                part.write_text(recipe.model_dump_json(indent=1) + "\n", encoding="utf-8")

    def _new_model(self) -> VideoFocalNet:
        part = self.recipe.model
        torch.manual_seed(self.recipe.seed)
        model = build_model(
            part.variant, num_classes=len(self.recipe.labels), drop_path_rate=part.drop_path
        )
        init_weights(model, part.init)
        if part.start:
            load_checkpoint(model, part.start)
        return model

    def _new_optimizer(self) -> torch.optim.Optimizer:
        optim = self.recipe.optim
        params = [p for p in self.model.parameters() if p.requires_grad]
        groups = [
            {"params": [p for p in params if p.dim() > 1], "weight_decay": optim.weight_decay},
            {"params": [p for p in params if p.dim() <= 1], "weight_decay": 0.0},
        ]
        if optim.optimizer == "sgd":
            return torch.optim.SGD(groups, lr=optim.lr, momentum=0.9)
        return torch.optim.AdamW(groups, lr=optim.lr)

    @property
    def deployed(self) -> VideoFocalNet:
        """The weights to keep: the averaged ones if the recipe averages."""
        model = self.model if self.averaged is None else self.averaged.module
        assert isinstance(model, VideoFocalNet)
        return model

    def lr_at(self, step: int) -> float:
        """Learning rate of a step: linear warm-up, then a cosine to zero."""
        optim = self.recipe.optim
        if step < optim.warmup_steps:
            return optim.lr * (step + 1) / optim.warmup_steps
        done = (step - optim.warmup_steps) / max(1, optim.steps - optim.warmup_steps)
        return optim.lr * 0.5 * (1 + math.cos(math.pi * done))

    def run(self, *, workers: int = 1, progress: bool = True) -> dict[str, Confusion]:
        """Trains to the last step and returns the confusion on each test set.

        Raises:
            DvflError: if the loss is not finite, with the step and the learning rate.
        """
        self.model.train()
        with tqdm(
            total=self.recipe.optim.steps, initial=self.step, unit="step", disable=not progress
        ) as bar:
            for clips, classes in self._remaining_batches(workers):
                started = time.perf_counter()
                loss, accuracy = self._train_step(clips, classes)
                speed = len(clips) / (time.perf_counter() - started)
                bar.set_postfix(
                    {"loss": f"{loss:.3f}", "clips/s": f"{speed:.0f}", **self.results()}
                )
                bar.update()
                self._after_step(loss, accuracy, speed)
        return self._finish()

    def _remaining_batches(self, workers: int) -> Iterator[tuple[Tensor, Tensor]]:
        todo = Subset(self.batches, range(self.step, self.recipe.optim.steps))
        return iter(
            DataLoader(todo, batch_size=None, num_workers=workers, worker_init_fn=quiet_worker)
        )

    def _train_step(self, clips: Tensor, classes: Tensor) -> tuple[float, float]:
        optim, lr = self.recipe.optim, self.lr_at(self.step)
        torch.manual_seed(hash((self.recipe.seed, self.step)) % 2**31)  # for stochastic depth
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        logits = self.model(normalise(clips, self.recipe.spec))
        loss = F.cross_entropy(logits, classes, label_smoothing=optim.label_smoothing)
        if not torch.isfinite(loss):
            raise DvflError(
                f"loss is {loss.item()} at step {self.step}, lr {lr:.2g}; lower optim.lr"
            )
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), optim.clip_grad)
        self.optimizer.step()
        if self.averaged is not None:
            self.averaged.update_parameters(self.model)
        self.step += 1
        return loss.item(), (logits.argmax(1) == classes).float().mean().item()

    def _after_step(self, loss: float, accuracy: float, speed: float) -> None:
        row: dict[str, Any] = {
            "step": self.step,
            "lr": f"{self.lr_at(self.step - 1):.3g}",
            "loss": f"{loss:.4f}",
            "train_accuracy": f"{accuracy:.4f}",
            "clips_per_s": f"{speed:.1f}",
        }
        done = self.step == self.recipe.optim.steps
        if self.step % self.recipe.test_every == 0 or done:
            self.confusions = self._test()
        row.update({test.name: self.results().get(test.name, "") for test in self.tests})
        self._append_metrics(row)
        if self.step % self.recipe.checkpoint_every == 0 or done:
            self._save_last()

    def _append_metrics(self, row: Mapping[str, Any]) -> None:
        path = self.folder / "metrics.csv"
        new = not path.exists()
        with path.open("a", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(row))
            if new:
                writer.writeheader()
            writer.writerow(row)

    def results(self) -> dict[str, float]:
        """Accuracy on each test set at the last test, 0 to 1."""
        return {name: round(c.accuracy, 4) for name, c in self.confusions.items()}

    def _test(self) -> dict[str, Confusion]:
        recipe = self.recipe
        return {
            test.name: evaluate(self.deployed, test, recipe.labels, recipe.spec)
            for test in self.tests
        }

    def _finish(self) -> dict[str, Confusion]:
        confusions = self.confusions or self._test()  # none: a finished run, resumed
        for name, confusion in confusions.items():
            title = f"{name}: {confusion.accuracy:.1%} of {confusion.clips} clips"
            confusion.save_png(self.folder / f"confusion_{name}.png", title)
        training = {
            "recipe": self.recipe.name,
            "seed": self.recipe.seed,
            "steps": self.recipe.optim.steps,
            "data": [part.name for part in self.recipe.train],
            "accuracy": {
                name: {"top1": round(c.accuracy, 4), "clips": c.clips}
                for name, c in confusions.items()
            },
        }
        about = {**self._about(), "training": training}
        save_checkpoint(self.folder / "final.pth", self.deployed, about=about)
        return confusions

    def _about(self) -> dict[str, Any]:
        return {
            "variant": self.recipe.model.variant,
            "labels": list(self.recipe.labels),
            "spec": self.recipe.spec.to_dict(),
        }

    def _save_last(self) -> None:
        trainer: dict[str, Any] = {
            "step": self.step,
            "recipe": self.recipe.model_dump_json(),
            "optimizer": self.optimizer.state_dict(),
        }
        if self.averaged is not None:
            trainer["averaged"] = self.averaged.state_dict()
        save_checkpoint(self.folder / "last.pth", self.model, about=self._about(), trainer=trainer)

    def _resume(self, last: Path) -> None:
        checkpoint = read_checkpoint(last)
        trainer = checkpoint.trainer
        if not trainer:
            raise CheckpointError(f"{last} holds weights alone; it cannot be resumed")
        if json.loads(trainer["recipe"]) != json.loads(self.recipe.model_dump_json()):
            raise DvflError(f"{last} was trained with another recipe; choose another --out folder")
        self.model.load_state_dict(checkpoint.state_dict)
        self.optimizer.load_state_dict(trainer["optimizer"])
        if self.averaged is not None:
            self.averaged.load_state_dict(trainer["averaged"])
        self.step = int(trainer["step"])
        self._forget_metrics_after(self.step)
        log.info("resumed %s at step %d", self.folder, self.step)

    def _forget_metrics_after(self, step: int) -> None:
        path = self.folder / "metrics.csv"
        if not path.exists():
            return
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            rows = [row for row in reader if int(row["step"]) <= step]
            names = reader.fieldnames or []
        with replacing(path) as part, part.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, names)
            writer.writeheader()
            writer.writerows(rows)
