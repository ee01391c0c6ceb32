"""The loss of a training step, with or without a teacher or joints to find."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dvfl_models.data.datasets import UNLABELLED
from dvfl_models.distillation.losses import LOSSES, cross_entropy_in_sets, modulation_loss
from dvfl_models.distillation.teacher import Teacher
from dvfl_models.recipe.recipe import Recipe
from dvfl_models.rendered.joints import joint_loss


class Losses(NamedTuple):
    """The loss and its terms, each a mean over the batch.

    Attributes:
        total: the sum to minimise.
        task: cross-entropy with the labels.
        kd: with the teacher's logits; 0 without a teacher.
        modulation: with the teacher's modulators; 0 where they are not compared.
        joints: of finding the joints of rendered people; 0 where the recipe does not ask for them.
        logits: (B, num_classes) of the student, of all sets of labels.
    """

    total: Tensor
    task: Tensor
    kd: Tensor
    modulation: Tensor
    joints: Tensor
    logits: Tensor


class Objective:
    """Computes the losses of a recipe.

    Args:
        recipe: its `distill`, `optim.label_smoothing` and `optim.joints`.
        device: that the teacher runs on.

    Raises:
        DvflError: if the teacher cannot be read or does not fit, or its cache cannot be written.
    """

    def __init__(self, recipe: Recipe, device: torch.device) -> None:
        self.distill, self.smoothing = recipe.distill, recipe.optim.label_smoothing
        self.joint_weight, self.size = recipe.optim.joints, recipe.spec.size
        self.set_sizes = [len(labels) for labels in recipe.label_sets]
        self.extras = len(self.set_sizes) > 1 or recipe.optim.joints > 0
        self.teacher: Teacher | None = None
        if (distill := recipe.distill) is not None and distill.teaches:
            self.teacher = Teacher(distill.teacher, recipe.labels, recipe.spec, distill.cache_mb)
            self.teacher.model.to(device)

    def __call__(
        self,
        student: nn.Module,
        clips: Tensor,
        targets: Tensor,
        autocast: AbstractContextManager[None],
        joints: Tensor | None = None,
    ) -> Losses:
        """Run student and teacher on the same clips and compare them.

        Args:
            student: the network that learns; a `WithExtras` where the recipe asks for more.
            clips: (B, T, 3, H, W) normalised, augmented and mixed.
            targets: (B,) classes or UNLABELLED, or (B, num_classes) shares, zero without a label.
            autocast: the precision of the teacher; the student is wrapped in its own.
            joints: (B, T, 13, 2) in pixels; only given by recipes without a teacher.
        """
        zero = torch.zeros((), device=clips.device)
        if self.extras:
            logits, maps = student(clips)
            task, found = self._task_loss(logits, targets), zero
            if joints is not None:
                found = joint_loss(maps, joints, self.size)
            return Losses(task + self.joint_weight * found, task, zero, zero, found, logits)
        if self.distill is None or self.teacher is None:
            logits = student(clips)
            task = self._task_loss(logits, targets)
            return Losses(task, task, zero, zero, zero, logits)
        alpha, beta = self.distill.alpha, self.distill.beta
        with autocast:
            wanted = self.teacher.teach(clips, modulators=beta > 0)
        if beta:
            logits, modulators = student(clips, return_modulators=True)
            modulation = modulation_loss(modulators, wanted.modulators)
        else:
            logits, modulation = student(clips), zero
        kd = LOSSES[self.distill.loss](logits, wanted.logits, self.distill.temperature)
        task = self._task_loss(logits, targets)
        total = alpha * kd + (1 - alpha) * task + beta * modulation
        return Losses(total, task, kd, modulation, zero, logits)

    def _task_loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the mean over all clips of the cross-entropy, which is 0 without a label."""
        if len(self.set_sizes) > 1:
            return cross_entropy_in_sets(logits, targets, self.set_sizes, self.smoothing)
        if targets.dim() == 1:
            losses = F.cross_entropy(
                logits, targets, reduction="none", ignore_index=UNLABELLED,
                label_smoothing=self.smoothing,
            )  # fmt: skip
            return losses.mean()
        known = targets.sum(1, keepdim=True)  # share of a mixed clip whose label is known
        smooth = (1 - self.smoothing) * targets + self.smoothing / logits.shape[1] * known
        return F.cross_entropy(logits, smooth)
