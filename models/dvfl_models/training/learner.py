"""The network that a run trains, with its average and its optimiser, and one step of all three."""

from __future__ import annotations

import contextlib
import math
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from dvfl_models.data.batches import Batch, InputMaker
from dvfl_models.distillation.objective import Losses, Objective
from dvfl_models.network.checkpoint import Checkpoint
from dvfl_models.network.video_focalnet import VideoFocalNet
from dvfl_models.recipe.recipe import Recipe
from dvfl_models.recipe.tables import OptimTable
from dvfl_models.rendered.joints import WithJoints
from dvfl_models.training.initial_weights import new_network
from dvfl_models.training.skipped_steps import IN_A_ROW, IN_A_ROW_SCALED, SkippedSteps
from dvfl_runtime.interrupts import asked_to_end


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
        self.averaged: AveragedModel | None = None
        if recipe.optim.ema:
            average = get_ema_multi_avg_fn(recipe.optim.ema)
            self.averaged = AveragedModel(self.network, multi_avg_fn=average)
        learner = WithJoints(self.network) if recipe.optim.joints else self.network
        self.joints = learner.joints if isinstance(learner, WithJoints) else None
        optimizer = new_optimizer(recipe.optim, learner)
        self.objective = Objective(recipe, accelerator.device)
        self.inputs = InputMaker(recipe, accelerator.device)
        wrapped: Any = accelerator.prepare(learner, optimizer)
        self.trained: nn.Module = wrapped[0]
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
            "joints": self.joints,
        }
        return {name: part for name, part in parts.items() if part is not None}

    def train_step(self, batch: Batch, step: int) -> dict[str, float]:
        """Update the weights once, and return the step's row of metrics: means over all processes.

        Raises:
            DvflError: if too many steps in a row had no finite loss or gradient.
        """
        optim, lr = self.recipe.optim, lr_at(self.recipe.optim, step)
        self._seed(step)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        parts = batch.parts(optim.accumulate)
        self.optimizer.zero_grad()
        measured: list[Tensor] = []
        problem = ""
        first = self.accelerator.process_index * len(batch.seeds)  # clips of the step before these
        for number, part in enumerate(parts, 1):
            inputs = self.inputs.make(part, step, first)
            first += len(part.seeds)
            alone = number < len(parts)  # gradients are exchanged once, with the last part
            with self.accelerator.no_sync(self.trained) if alone else contextlib.nullcontext():
                autocast = self.accelerator.autocast()
                losses = self.objective(
                    self.trained, inputs.clips, inputs.targets, autocast, inputs.joints
                )
                measured.append(self._measure(losses, inputs.classes))
                if not torch.isfinite(measured[-1][0]):  # the same mean in every process
                    problem = f"the loss is {measured[-1][0].item()}"
                    break
                self.accelerator.backward(losses.total / len(parts))
        self._update(problem, batch, step, lr)
        return self._row(step + 1, lr, torch.stack(measured).mean(0))

    def _seed(self, step: int) -> None:
        """Seed stochastic depth by the step alone, so there is no generator state to keep."""
        rank = self.accelerator.process_index
        numbers = (self.recipe.seed, step, rank) if rank else (self.recipe.seed, step)
        torch.manual_seed(hash(numbers) % 2**31)  # hashes of integers are the same in all processes

    def _measure(self, losses: Losses, classes: Tensor) -> Tensor:
        """Return the losses, the accuracy and the share of processes that were asked to end."""
        right = (losses.logits.argmax(1) == classes).float().mean()
        parts = (losses.total, right, losses.task, losses.kd, losses.modulation, losses.joints)
        asked = right.new_tensor(float(asked_to_end()))
        values = torch.stack([part.detach().float() for part in (*parts, asked)])
        if self.accelerator.num_processes == 1:
            return values
        mean: Tensor = self.accelerator.reduce(values, "mean")
        return mean

    def _update(self, problem: str, batch: Batch, step: int, lr: float) -> None:
        """Change the weights unless there is a problem: a loss or gradient that is not finite."""
        scaled = self.accelerator.scaler is not None
        expected = False
        if not problem:
            parameters = self.trained.parameters()
            norm = self.accelerator.clip_grad_norm_(parameters, self.recipe.optim.clip_grad)
            if not torch.isfinite(norm):
                problem, expected = f"the gradient is {norm.item()}", scaled
            if scaled or not problem:  # fp16's scaler leaves the step out itself, and learns by it
                self.optimizer.step()
        if problem:
            self.skipped.add(problem, step, lr, list(batch.names), expected=expected)
            return
        self.skipped.finite()
        if self.averaged is not None:
            self.averaged.update_parameters(self.network)

    def _row(self, step: int, lr: float, measured: Tensor) -> dict[str, float]:
        loss, accuracy, task, kd, modulation, joints, asked = measured.tolist()
        self.stop_requested = asked > 0
        row = {"step": step, "lr": lr, "loss": loss, "train_accuracy": accuracy}
        row["skipped"] = self.skipped.count
        if self.recipe.distill is not None:
            row |= {"task_loss": task, "kd_loss": kd, "modulation_loss": modulation}
        if self.recipe.optim.joints:
            row |= {"task_loss": task, "joint_loss": joints}
        return row


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
