"""Networks alone, the teacher that they are together, and the students of its soft labels.

The numbers of such an experiment, what it trains in which order, and how; `few_labels` runs it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import pydantic
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dvfl_models.network.checkpoint import read_checkpoint
from dvfl_models.recipe.tables import Table
from dvfl_models.studies.frozen_stages import KeptTokens, LastStages
from dvfl_models.studies.kept_clips import Clips, RandomForms, centre_clips
from dvfl_models.studies.students import ARMS, Arm, Row, grown_model, logits_of, train

Count = Annotated[int, pydantic.Field(ge=1)]
ArmName = Literal["kl", "kl_more", "kl_z", "dist"]


class Plan(Table):
    """The numbers of an experiment.

    Attributes:
        start: checkpoint of a small network that all networks start from.
        student: variant of the student.
        teacher: variant of the teacher's networks.
        members: number of the teacher's networks.
        labels: labelled clips of each class; 0 labels all.
        steps: of each network.
        batch: number of clips in a step.
        lr: the highest learning rate.
        crop: smallest share of the picture in a random form.
        views: random forms of a clip that the soft labels are a mean over.
        frozen: first stages that keep the weights of the start, in all networks.
        kept_forms: with frozen stages, random forms of each clip whose tokens are kept.
    """

    start: str = ""
    student: str = "femto"
    teacher: str = "femto"
    members: Count = 3
    labels: int = pydantic.Field(0, ge=0)
    steps: Count = 400
    batch: Count = 16
    lr: float = 4e-4
    crop: float = 0.5
    views: Count = 4
    frozen: int = pydantic.Field(0, ge=0, le=3)
    kept_forms: Count = 16


@dataclass(frozen=True)
class Task:
    """A network to train: `alone`, one of the teacher's (`member`), or by an arm of `ARMS`."""

    fold: int
    arm: str
    seed: int

    @property
    def name(self) -> str:
        """Name of the file of its logits."""
        return f"fold{self.fold}_{self.arm}_seed{self.seed}.pt"


def tasks_of(
    plan: Plan, folds: list[int], arms: list[ArmName], seeds: list[int], done: list[Row]
) -> list[Task]:
    """Return what is not done yet: those that teach first, then seed after seed of the students."""
    member = "alone" if plan.teacher == plan.student else "member"
    out = [Task(fold, member, m) for fold in folds for m in range(plan.members) if arms]
    for seed in seeds:
        out += [Task(fold, arm, seed) for fold in folds for arm in ("alone", *arms)]
    finished = {(row["fold"], row["arm"], row["seed"]) for row in done}
    once = dict.fromkeys(out)
    return [task for task in once if (task.fold, task.arm, task.seed) not in finished]


def labelled_videos(clips: Clips, fold: int, labels: int) -> list[int]:
    """Return the videos of a fold whose labels may be used: `labels` of each class, 0 for all.

    The fold alone decides which; more labels hold those of fewer.
    """
    out, trained = [], np.array(clips.trained(fold))
    classes = clips.classes.numpy()[trained]
    for class_id in np.unique(classes):
        own = np.random.default_rng([fold, class_id]).permutation(trained[classes == class_id])
        out += [int(video) for video in own[: labels or None]]
    return sorted(out)


class Experiment:
    """The networks of one data set and plan.

    Args:
        folder: of rows and logits.
        clips: the data set.
        plan: its numbers.
    """

    def __init__(self, folder: Path, clips: Clips, plan: Plan) -> None:
        self.folder, self.clips, self.plan = folder, clips, plan
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.num_classes = int(clips.classes.max()) + 1
        self.forms = RandomForms(clips, self.device, self.num_classes, crop=plan.crop)
        self.tokens = KeptTokens(folder / "tokens.pt") if plan.frozen else None

    def run(self, task: Task) -> Row:
        """Train and test a network; keep its logits and its row."""
        began_s, plan = time.perf_counter(), self.plan
        labelled = labelled_videos(self.clips, task.fold, plan.labels)
        arm = ARMS.get(task.arm, Arm())
        videos = self.clips.trained(task.fold) if arm.alpha else labelled
        soft = self.soft_labels(task.fold) if arm.alpha else None
        torch.manual_seed(1000 * task.fold + task.seed)
        model = self._network(plan.teacher if task.arm == "member" else plan.student)
        batches = self.batches(videos, labelled, soft, task.seed)
        model = train(model, batches, plan.steps, plan.lr, arm)
        found = {"test": self._logits(model, self.clips.tests[task.fold])}
        if task.arm in ("alone", "member") and task.seed < plan.members:
            found["soft"] = self._soft(model, self.clips.trained(task.fold))
        found["labelled"] = self._logits(model, labelled)
        torch.save(found, self.folder / f"{task.name}.part")
        os.replace(self.folder / f"{task.name}.part", self.folder / task.name)
        return self._row(task, found, labelled, time.perf_counter() - began_s)

    def _network(self, variant: str) -> nn.Module:
        start = read_checkpoint(self.plan.start).state_dict if self.plan.start else None
        model = grown_model(variant, self.num_classes, start, 0.1)
        frozen = self.plan.frozen
        return (LastStages(model, frozen) if frozen else model).to(self.device)

    def _inputs(self, videos: Tensor) -> Tensor:
        """Return random forms of videos, or their tokens."""
        if self.tokens is None:
            return self.forms(videos)[0]
        return self.tokens.random(videos.cpu()).to(self.device)

    def _row(self, task: Task, found: dict[str, Tensor], labelled: list[int], took_s: float) -> Row:
        right = self._right(found["test"], self.clips.tests[task.fold])
        row = {"fold": task.fold, "arm": task.arm, "seed": task.seed, "seconds": round(took_s, 1)}
        row |= {"accuracy": round(float(right.float().mean()), 4)}
        fitted = self._right(found["labelled"], labelled).float().mean()
        row |= {"labelled_accuracy": round(float(fitted), 4)}
        return {**row, "right": "".join("1" if mark else "0" for mark in right.tolist())}

    def teacher_row(self, fold: int) -> Row | None:
        """Return the row of a fold's teacher, the ensemble, once its networks are trained."""
        found = self._members(fold, wait=False)
        if not found:
            return None
        test = torch.stack([logits["test"] for logits in found]).mean(0)
        row = self._row(Task(fold, "teacher", 0), {"test": test, "labelled": test[:0]}, [], 0.0)
        trained, labelled = (
            self.clips.trained(fold),
            set(labelled_videos(self.clips, fold, self.plan.labels)),
        )
        soft = self.soft_labels(fold)
        rest = [n for n, video in enumerate(trained) if video not in labelled]
        del row["labelled_accuracy"], row["seconds"]
        scores = test.softmax(1).amax(1)
        row["test_confidence"] = round(float(scores.mean()), 4)
        if rest:
            right = self._right(soft[rest], [trained[n] for n in rest]).float()
            row["unlabelled_accuracy"] = round(float(right.mean()), 4)
        return row

    def _members(self, fold: int, *, wait: bool) -> list[dict[str, Tensor]]:
        """Return the logits of the teacher's networks; they may be in training elsewhere."""
        arm = "alone" if self.plan.teacher == self.plan.student else "member"
        paths = [self.folder / Task(fold, arm, m).name for m in range(self.plan.members)]
        while wait and not all(path.exists() for path in paths):
            time.sleep(2)
        if not all(path.exists() for path in paths):
            return []
        return [torch.load(path, weights_only=True) for path in paths]

    def soft_labels(self, fold: int) -> Tensor:
        """Return the teacher's logits of the clips to train on, (N, num_classes)."""
        return torch.stack([found["soft"] for found in self._members(fold, wait=True)]).mean(0)

    def _soft(self, model: nn.Module, videos: list[int]) -> Tensor:
        torch.manual_seed(0)
        parts = []
        for some in torch.tensor(videos, device=self.device).split(64):
            views = [logits_of(model, self._inputs(some)) for _ in range(self.plan.views)]
            parts.append(torch.stack(views).mean(0))
        return torch.cat(parts).cpu()

    def _logits(self, model: nn.Module, videos: list[int] | tuple[int, ...]) -> Tensor:
        asked = torch.tensor(videos)
        centres = (
            centre_clips(self.clips, asked) if self.tokens is None else self.tokens.centres[asked]
        )
        return logits_of(model, centres.to(self.device), 64).cpu()

    def _right(self, logits: Tensor, videos: list[int] | tuple[int, ...]) -> Tensor:
        return logits.argmax(1) == self.clips.classes[list(videos)]

    def batches(
        self, videos: list[int], labelled: list[int], soft: Tensor | None, seed: int
    ) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
        """Yield random forms without end; the target of a clip without a label is zero."""
        generator = torch.Generator().manual_seed(seed)
        every = torch.tensor(videos, device=self.device)
        known = torch.isin(every, torch.tensor(labelled, device=self.device)).float()
        wanted = None if soft is None else soft.to(self.device)
        batch = min(self.plan.batch, len(every))
        while True:
            for some in torch.randperm(len(every), generator=generator).split(batch):
                if len(some) == batch:
                    here = some.to(self.device)
                    classes = self.forms.classes[every[here]]
                    targets = F.one_hot(classes, self.num_classes) * known[here, None]
                    taught = None if wanted is None else wanted[here]
                    yield self._inputs(every[here]), targets, taught
