"""The network that a run trains, with its average and its optimiser, and one step of all three."""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from dvfl_models.data.batches import Batch, InputMaker
from dvfl_models.distillation.extras import WithExtras, with_extras
from dvfl_models.distillation.objective import Losses, Objective
from dvfl_models.network.checkpoint import Checkpoint
from dvfl_models.network.video_focalnet import VideoFocalNet
from dvfl_models.recipe.recipe import Recipe
from dvfl_models.recipe.tables import OptimTable
from dvfl_models.training.initial_weights import new_network
from dvfl_models.training.launch import is_compiled
from dvfl_models.training.skipped_steps import IN_A_ROW, IN_A_ROW_SCALED, SkippedSteps
from dvfl_runtime.interrupts import asked_to_end

log = logging.getLogger(__name__)


class Learner:
    """All that a step of training changes.

    Args:
        recipe: with its steps resolved.
        accelerator: the device, the processes and the precision.
        failed_steps: file for the clips of steps that end the run.

    Attributes:
        network: its weights are those of the last step.
        averaged: the average of all steps' weights, if the recipe asks for one.
        skipped: the steps that changed no weight.
        stop_requested: whether a process was asked to end before the last step was done.

    Raises:
        DvflError: if a checkpoint to start from, or the teacher, cannot be read or does not fit.
    """

    def __init__(self, recipe: Recipe, accelerator: Accelerator, failed_steps: Path) -> None:
        self.recipe, self.accelerator = recipe, accelerator
        self.network = new_network(recipe)
        if recipe.optim.checkpointing:
            self.network.recompute_blocks()
        self.averaged: AveragedModel | None = None
        if recipe.optim.ema:
            average = get_ema_multi_avg_fn(recipe.optim.ema)
            self.averaged = AveragedModel(self.network, multi_avg_fn=average)
        learner = with_extras(self.network, recipe)
        self.extras = learner if isinstance(learner, WithExtras) else None
        optimizer = new_optimizer(recipe.optim, learner)
        self.objective = Objective(recipe, accelerator.device)
        self.inputs = InputMaker(recipe, accelerator.device)
        wrapped: Any = accelerator.prepare(learner, optimizer)
        self.trained: nn.Module = wrapped[0]
        # what computes the forward pass: the trained network itself, or its compiled form
        self.student: Any = self.trained
        if is_compiled(recipe.optim, accelerator.device):
            self.student = torch.compile(self.trained)
        self.optimizer: torch.optim.Optimizer = wrapped[1]
        if self.averaged is not None:
            self.averaged.to(accelerator.device)
        most = IN_A_ROW if accelerator.scaler is None else IN_A_ROW_SCALED
        self.skipped = SkippedSteps(min(recipe.optim.steps, most), failed_steps)
        self.stop_requested = False

    @property
    def deployed(self) -> VideoFocalNet:
        """The network to test and to keep: the averaged one if the recipe averages."""
        network = self.network if self.averaged is None else self.averaged.module
        assert isinstance(network, VideoFocalNet)
        return network

    def state(self) -> dict[str, Any]:
        """Return what a resumed run needs besides the network's weights."""
        states = {name: part.state_dict() for name, part in self._stateful().items()}
        return {**states, "skipped": self.skipped.count}

    def restore(self, saved: Checkpoint) -> None:
        """Put back the weights and the state of a `last.pth`."""
        self.network.load_state_dict(saved.state_dict)
        for name, part in self._stateful().items():
            part.load_state_dict(saved.trainer[name])
        self.skipped.count = saved.trainer.get("skipped", 0)

    def _stateful(self) -> dict[str, Any]:
        """Return the parts with a state of their own, by their names in `last.pth`."""
        parts = {
            "optimizer": self.optimizer,
            "averaged": self.averaged,
            "scaler": self.accelerator.scaler,
            "joints": self.extras and self.extras.joints,
            "heads": self.extras and self.extras.heads,
        }
        return {name: part for name, part in parts.items() if part is not None}

    def train_step(self, batch: Batch, step: int) -> dict[str, float]:
        """Update the weights once, and return the step's row of metrics: means over all processes.

        Raises:
            DvflError: if too many steps in a row had no finite loss or gradient.
        """
        lr = lr_at(self.recipe.optim, step)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        try:
            measured = self._compute_gradients(batch, step)
        except RuntimeError as err:
            if self.student is self.trained or not _is_of_compiler(err):
                raise
            reason = str(err).strip().splitlines()[0]
            log.warning(
                "torch.compile cannot be used here, training goes on without it: %s", reason
            )
            self.student = self.trained
            measured = self._compute_gradients(batch, step)
        parameters = self.trained.parameters()
        norm = self.accelerator.clip_grad_norm_(parameters, self.recipe.optim.clip_grad)
        losses, row, norm_read = self._read(measured, norm)
        problem = ""
        if bad := [loss for loss in losses if not math.isfinite(loss)]:
            problem = f"the loss is {bad[0]}"
        elif not math.isfinite(norm_read):
            problem = f"the gradient is {norm_read}"
        self._update(problem, of_loss=bool(bad))
        if problem:
            # fp16 is only looking for its scale when a gradient is not finite
            expected = self.accelerator.scaler is not None and not bad
            self.skipped.add(problem, step, lr, list(batch.names), expected=expected)
        else:
            self.skipped.finite()
        return self._row(step + 1, lr, row)

    def _compute_gradients(self, batch: Batch, step: int) -> list[Tensor]:
        """Compute the gradient of a step, part by part, and return what `_measure` has of each.

        Nothing here waits for the device.
        """
        self._seed(step)
        self.optimizer.zero_grad()
        parts = batch.parts(self.recipe.optim.accumulate)
        measured: list[Tensor] = []
        first = self.accelerator.process_index * len(batch.seeds)  # clips of the step before these
        for number, part in enumerate(parts, 1):
            inputs = self.inputs.make(part, step, first)
            first += len(part.seeds)
            alone = number < len(parts)  # gradients are exchanged once, with the last part
            with self.accelerator.no_sync(self.trained) if alone else contextlib.nullcontext():
                autocast = self.accelerator.autocast()
                losses = self.objective(
                    self.student, inputs.clips, inputs.targets, autocast, inputs.joints
                )
                measured.append(_measure(losses, inputs.classes, len(self.recipe.labels)))
                self.accelerator.backward(losses.total / len(parts))
        return measured

    def _seed(self, step: int) -> None:
        """Seed stochastic depth by the step alone, so there is no generator state to keep."""
        rank = self.accelerator.process_index
        numbers = (self.recipe.seed, step, rank) if rank else (self.recipe.seed, step)
        torch.manual_seed(hash(numbers) % 2**31)  # hashes of integers are the same in all processes

    def _read(
        self, measured: Sequence[Tensor], norm: Tensor
    ) -> tuple[list[float], list[float], float]:
        """Wait for the device, once in a step.

        Args:
            measured: of each part, see `_measure`.
            norm: of the gradient.

        Returns:
            The loss of each part, what was measured of the step, means over all processes; the
            norm. The second ends with the share of processes that were asked to end.
        """
        values = torch.stack([*measured])  # (parts, terms)
        asked = values.new_full((len(values), 1), float(asked_to_end()))
        values = torch.cat([values, asked], 1)
        if self.accelerator.num_processes > 1:
            values = self.accelerator.reduce(values, "mean")
        read = torch.cat([values[:, 0], values.mean(0), norm.detach().float().view(1)]).tolist()
        return read[: len(values)], read[len(values) : -1], read[-1]

    def _update(self, problem: str, *, of_loss: bool) -> None:
        """Change the weights unless there is a problem: a loss or gradient that is not finite."""
        scaler = self.accelerator.scaler
        if scaler is not None and of_loss:
            scaler.update()  # it has seen the gradient and takes no step
        elif scaler is not None or not problem:
            self.optimizer.step()  # fp16's scaler leaves the step out itself, and learns by it
        if self.averaged is not None and not problem:
            self.averaged.update_parameters(self.network)

    def _row(self, step: int, lr: float, measured: Sequence[float]) -> dict[str, float]:
        loss, accuracy, task, kd, modulation, joints, asked = measured
        self.stop_requested = asked > 0
        row = {"step": step, "lr": lr, "loss": loss, "train_accuracy": accuracy}
        row["skipped"] = self.skipped.count
        if self.recipe.distill is not None:
            row |= {"task_loss": task, "kd_loss": kd, "modulation_loss": modulation}
        if self.recipe.optim.joints:
            row |= {"task_loss": task, "joint_loss": joints}
        return row


def _measure(losses: Losses, classes: Tensor, count: int) -> Tensor:
    """Return the losses and the accuracy of some clips, (6,), still on the device.

    The accuracy is that of the clips of the first `count` classes, which are the recipe's.
    """
    known = (classes >= 0) & (classes < count)
    right = known & (losses.logits[:, :count].argmax(1) == classes)
    right = right.sum() / known.sum().clamp(min=1)
    parts = (losses.total, right, losses.task, losses.kd, losses.modulation, losses.joints)
    return torch.stack([part.detach().float() for part in parts])


def _is_of_compiler(err: RuntimeError) -> bool:
    """Return whether an error is of torch.compile; its module takes a second to import."""
    return type(err).__module__.startswith(("torch._dynamo", "torch._inductor"))


def new_optimizer(table: OptimTable, network: nn.Module) -> torch.optim.Optimizer:
    """Return AdamW, or SGD with momentum 0.9; biases and norms are not decayed."""
    params = [p for p in network.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in params if p.dim() > 1], "weight_decay": table.weight_decay},
        {"params": [p for p in params if p.dim() <= 1], "weight_decay": 0.0},
    ]
    if table.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=table.lr, momentum=0.9, nesterov=table.nesterov)
    return torch.optim.AdamW(groups, lr=table.lr)


def lr_at(table: OptimTable, step: int) -> float:
    """Return the learning rate of a step: a linear warm-up, then a cosine to `lr_min`."""
    if step < table.warmup_steps:
        return table.warmup_lr + (table.lr - table.warmup_lr) * (step + 1) / table.warmup_steps
    first = table.warmup_steps if table.cosine_from == "warmup" else 0
    done = (step - first) / max(1, table.steps - first)
    return table.lr_min + (table.lr - table.lr_min) * 0.5 * (1 + math.cos(math.pi * done))
