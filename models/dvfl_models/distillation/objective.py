"""The loss of a step, with or without a teacher or joints to find."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dvfl_models.distillation.losses import Lesson, Teacher, kd_loss, modulation_loss
from dvfl_models.distillation.teacher_cache import TeacherCache
from dvfl_models.recipe.recipe import Recipe
from dvfl_models.rendered.joints import joint_loss


class Losses(NamedTuple):
    """The loss and what it is made of, each a mean over the batch.

    Attributes:
        total: what is minimised.
        task: cross-entropy with the labels.
        kd: with the teacher's logits; 0 without a teacher.
        modulation: with the teacher's modulators; 0 where they are not compared.
        joints: of finding the joints of rendered people; 0 where that is not asked for.
        logits: (B, num_classes) of the student.
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
        device: where the teacher runs.

    Raises:
        DvflError: if the teacher cannot be read or does not fit, or its cache cannot be written.
    """

    def __init__(self, recipe: Recipe, device: torch.device) -> None:
        self.distill, self.smoothing = recipe.distill, recipe.optim.label_smoothing
        self.joints, self.size = recipe.optim.joints, recipe.spec.size
        self.teacher: Teacher | None = None
        self.cache: TeacherCache | None = None
        if self.distill is None or not (self.distill.alpha or self.distill.beta):
            return  # a teacher that has no weight is not run
        self.teacher = Teacher(self.distill.teacher, recipe.labels, recipe.spec)
        self.teacher.model.to(device)
        if self.distill.cache_mb:
            folder = Path(self.distill.teacher).parent / "teacher_cache"
            sha256, classes = self.teacher.sha256, len(recipe.labels)
            self.cache = TeacherCache(folder, sha256, classes, self.distill.cache_mb)

    def __call__(
        self,
        student: nn.Module,
        clips: Tensor,
        targets: Tensor,
        autocast: AbstractContextManager[None],
        joints: Tensor | None = None,
    ) -> Losses:
        """Runs both networks on the same clips.

        Args:
            student: the network that learns; with `joints` a `WithJoints`.
            clips: (B, T, 3, H, W) normalised, augmented and mixed.
            targets: (B,) classes or (B, num_classes) shares.
            autocast: the precision that the teacher runs in; the student knows its own.
            joints: (B, T, 13, 2) in pixels; the recipe has no teacher then.
        """
        distill = self.distill
        if joints is not None:
            logits, maps = student(clips)
            return self._with_joints(logits, maps, targets, joints)
        if distill is None or self.teacher is None:
            logits = student(clips)
            task = self._task(logits, targets)
            none = torch.zeros_like(task)
            return Losses(task, task, none, none, none, logits)
        with autocast:
            lesson = self._lesson(self.teacher, clips, with_modulators=distill.beta > 0)
        if distill.beta:
            logits, modulators = student(clips, return_modulators=True)
            modulation = modulation_loss(modulators, lesson.modulators)
        else:
            logits = student(clips)
            modulation = logits.new_zeros(())
        task, kd = self._task(logits, targets), kd_loss(logits, lesson.logits, distill.temperature)
        total = distill.alpha * kd + (1 - distill.alpha) * task + distill.beta * modulation
        return Losses(total, task, kd, modulation, torch.zeros_like(task), logits)

    def _with_joints(self, logits: Tensor, maps: Tensor, targets: Tensor, joints: Tensor) -> Losses:
        task, found = self._task(logits, targets), joint_loss(maps, joints, self.size)
        none = torch.zeros_like(task)
        return Losses(task + self.joints * found, task, none, none, found, logits)

    def _task(self, logits: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(logits, targets, label_smoothing=self.smoothing)

    def _lesson(self, teacher: Teacher, clips: Tensor, *, with_modulators: bool) -> Lesson:
        if self.cache is None:
            return teacher.teach(clips, modulators=with_modulators)

        def teach(some: Tensor) -> Tensor:
            return teacher.teach(some, modulators=False).logits

        return Lesson(self.cache.logits(clips, teach), [])
