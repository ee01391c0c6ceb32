"""Students, alone and taught, of clips in memory: how one is trained, and how they compare."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import pydantic
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from dvfl_models.distillation.losses import dist_loss, kd_loss, standardised_kd_loss
from dvfl_models.network.checkpoint import StateDict
from dvfl_models.network.initialisation import deepened, widened
from dvfl_models.network.video_focalnet import VideoFocalNet, build_model
from dvfl_models.recipe.messages import in_words
from dvfl_models.recipe.tables import OptimTable, Table
from dvfl_models.studies.kept_clips import Clips, bf16_where_fast, normalised
from dvfl_models.studies.paired import Outcome, Outcomes, difference
from dvfl_models.training.learner import lr_at, new_optimizer
from dvfl_runtime.errors import RecipeError

Row = dict[str, Any]
Network = TypeVar("Network", bound=nn.Module)
P = TypeVar("P", bound=Table)
Loss = Callable[[Tensor, Tensor, float], Tensor]


@dataclass(frozen=True)
class Arm:
    """A way to teach: alpha * loss + (1 - alpha) * cross-entropy; alpha 0 is no teaching."""

    alpha: float = 0.0
    loss: Loss = kd_loss
    temperature: float = 1.0


ARMS = {
    "alone": Arm(),
    "kl": Arm(0.2, kd_loss, 10.0),  # alpha and temperature of DVFL-Net's script
    "kl_more": Arm(0.9, kd_loss, 4.0),
    "kl_z": Arm(0.9, standardised_kd_loss, 2.0),
    "dist": Arm(0.5, dist_loss, 1.0),
}


def read_plan(plan: type[P], text: str) -> P:
    """Read the plan of an experiment from JSON.

    Raises:
        RecipeError: if the text is no such plan.
    """
    try:
        return plan.model_validate_json(text)
    except pydantic.ValidationError as err:
        wrong = in_words(err.errors()[0], list(plan.model_fields))
        raise RecipeError(f"the plan {text} cannot be used: {wrong}") from err


def grown_model(
    variant: str, num_classes: int, start: StateDict | None, drop_path: float
) -> VideoFocalNet:
    """Return a network that computes what the small network `start` does, with a new head."""
    model = build_model(variant, num_classes=num_classes, drop_path_rate=drop_path)
    if start is None:
        return model
    wanted = model.state_dict()
    body = {key: value for key, value in start.items() if not key.startswith("head.")}
    if len(body["norm.weight"]) < len(wanted["norm.weight"]):
        body = widened(body, wanted)
    model.load_state_dict(deepened(body, wanted), strict=False)
    return model


def train(
    model: Network,
    batches: Iterator[tuple[Tensor, Tensor, Tensor | None]],
    steps: int,
    lr: float,
    arm: Arm,
) -> Network:
    """Train by AdamW with a warm-up and a cosine; return the averaged weights.

    Args:
        model: changed in place.
        batches: inputs (see `_input`), targets and the teacher's logits.
        steps: number of batches to train on.
        lr: the highest learning rate.
        arm: the loss.
    """
    model.train()
    device = next(model.parameters()).device
    optim = OptimTable.model_validate(
        {"steps": steps, "warmup_steps": max(1, steps // 20), "lr": lr}
    )
    optimizer = new_optimizer(optim, model)
    decay = min(0.995, 1 - 5 / max(steps, 6))
    averaged = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay))
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = lr_at(optim, step)
        clips, targets, wanted = next(batches)
        with bf16_where_fast(device):
            logits = model(_input(clips))
        loss = (1 - arm.alpha) * F.cross_entropy(logits.float(), targets)
        if arm.alpha:
            assert wanted is not None
            loss = loss + arm.alpha * arm.loss(logits, wanted, arm.temperature)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        averaged.update_parameters(model)
    out = averaged.module
    assert isinstance(out, type(model))
    return out.eval()


def _input(given: Tensor) -> Tensor:
    """Return what a network takes: clips (B, T, H, W, 3) uint8 normalised, or tokens."""
    return normalised(given) if given.dtype == torch.uint8 else given.float()


@torch.inference_mode()
def logits_of(model: nn.Module, given: Tensor, batch: int = 256) -> Tensor:
    """Inputs of N clips (see `_input`) -> logits (N, num_classes) float32."""
    model.eval()
    out = []
    for some in given.split(batch):
        with bf16_where_fast(given.device):
            out.append(model(_input(some)).float())
    return torch.cat(out)


def summary(rows: Sequence[Row], clips: Clips) -> Row:
    """Return the accuracy of each arm, and its difference from the student alone.

    `given` is the list's own split; `folds` are all others together. A seed counts if it ran on
    all of these folds. The interval of a difference comes from drawing groups of clips anew, each
    with all its clips and seeds. A teacher has no seeds: it is compared with each one alone.
    """
    out: Row = {}
    for name, folds in (("given", {0}), ("folds", set(range(1, len(clips.tests))))):
        of_folds = [row for row in rows if row["fold"] in folds]
        alone = _outcomes(of_folds, "alone", folds, clips)
        out[name] = {}
        for arm in dict.fromkeys(row["arm"] for row in of_folds):
            found = _outcomes(of_folds, arm, folds, clips)
            if not found:
                continue
            right = [outcome.right for outcome in found.values()]
            seeds = len({clip.partition(":")[0] for clip in found})
            out[name][arm] = {"accuracy": round(sum(right) / len(right), 4)}
            out[name][arm]["accuracy_ci95"] = difference(found, _all_wrong(found))[
                "difference_ci95"
            ]
            out[name][arm] |= {"clips": len(right) // seeds, "seeds": seeds}
            if arm == "teacher":
                found = {clip: found["seed 0:" + clip.partition(":")[2]] for clip in alone}
            same = {clip: value for clip, value in alone.items() if clip in found}
            if arm != "alone" and same:
                out[name][arm]["over_alone"] = difference({c: found[c] for c in same}, same)
    return out


def _all_wrong(outcomes: Outcomes) -> Outcomes:
    return {clip: Outcome(outcome.group, False) for clip, outcome in outcomes.items()}


def _outcomes(rows: Sequence[Row], arm: str, folds: set[int], clips: Clips) -> Outcomes:
    """Return those of an arm, by seed and clip, for the seeds that ran on all folds."""
    of_arm = [row for row in rows if row["arm"] == arm]
    seeds = {row["seed"] for row in of_arm}
    whole = {s for s in seeds if folds == {row["fold"] for row in of_arm if row["seed"] == s}}
    return {
        f"seed {row['seed']}: {clip}": Outcome(clips.groups[clip], mark == "1")
        for row in of_arm
        if row["seed"] in whole
        for clip, mark in zip(clips.tests[row["fold"]], row["right"], strict=True)
    }
