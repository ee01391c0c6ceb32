"""What a run starts with: a device, a network and an optimiser."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from torch import nn

from dvfl_models.network.checkpoint import (
    compare,
    matching_variant,
    num_classes_of,
    other_clips,
    read_checkpoint,
)
from dvfl_models.network.initialisation import init_from_focalnet, widened
from dvfl_models.network.video_focalnet import VideoFocalNet, build_model, init_weights
from dvfl_models.recipe.parts import OptimPart
from dvfl_models.recipe.recipe import Recipe
from dvfl_runtime.errors import CheckpointError, DvflError, RecipeError

log = logging.getLogger(__name__)

# where torchrun and MPI say how many processes they have started
WORLD_SIZES = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")


@dataclass(frozen=True)
class TrainOptions:
    """How a run is run, which changes nothing of what it computes.

    Attributes:
        resume: go on from the folder's `last.pth`.
        strict_split: refuse test sets that share sources with training.
        cpu: stay on the CPU where there is a GPU.
        tensorboard: write event files too.
    """

    resume: bool = False
    strict_split: bool = False
    cpu: bool = False
    tensorboard: bool = False


def new_accelerator(part: OptimPart, options: TrainOptions) -> Accelerator:
    """The device, the processes and the precision.

    Raises:
        RecipeError: if the precision cannot be had here.
        DvflError: if this is one of several processes that do not see each other.
    """
    precision = part.precision
    try:
        accelerator = Accelerator(cpu=options.cpu, mixed_precision=precision)
    except ValueError as err:
        raise RecipeError(f"optim.precision {precision!r}: {err}") from err
    started = max(int(os.environ.get(name) or 1) for name in WORLD_SIZES)
    if started > accelerator.num_processes:  # each would train by itself, in one folder
        raise DvflError(
            f"{started} processes were started for this run, but each would train alone: no GPUs "
            f"are found that they could share; pass --cpu to train on CPUs, or start one process"
        )
    if precision == "fp16" and accelerator.device.type == "cpu":  # it would compute in float32
        raise RecipeError("optim.precision 'fp16' needs a GPU; use 'bf16' or 'no' on a CPU")
    return accelerator


def new_model(recipe: Recipe) -> VideoFocalNet:
    """The recipe's network with the weights that it starts from; the same for the same seed.

    Raises:
        CheckpointError: if a checkpoint to start from cannot be read or does not fit.
    """
    part = recipe.model
    torch.manual_seed(recipe.seed)
    model = build_model(part.variant, num_classes=len(recipe.labels), drop_path_rate=part.drop_path)
    init_weights(model, part.init)
    if part.imagenet:
        _load_imagenet(model, part.imagenet)
    if part.start:
        _load_start(model, recipe)
    return model


def _load_imagenet(model: VideoFocalNet, path: str) -> None:
    report = init_from_focalnet(model, read_checkpoint(path, "model.imagenet").state_dict)
    loaded, missing = (
        [key for key in report[what] if "temporal" not in key and not key.startswith("head.")]
        for what in ("loaded", "not_in_file")
    )
    spatial = len(loaded) + len(missing)
    if not loaded:
        raise CheckpointError(
            f"model.imagenet {path}: it has not one of the {spatial} spatial weights of the model, "
            f"but {', '.join(report['skipped'][:3]) or 'nothing'}; give the checkpoint of an "
            f"ImageNet FocalNet (SRF) that is as wide and deep as the variant"
        )
    log.log(
        logging.WARNING if missing else logging.INFO,
        "from %s: %d of %d spatial weights (%.0f %%)%s",
        *(path, len(loaded), spatial, 100 * len(loaded) / spatial),
        f"; the others start at random, the first is {missing[0]}" if missing else "",
    )


def _load_start(model: VideoFocalNet, recipe: Recipe) -> None:
    """Loads the weights to start from, all or all but the head."""
    part, labels = recipe.model, recipe.labels
    checkpoint = read_checkpoint(part.start, "model.start")
    if doubt := other_clips(part.start, checkpoint.spec, recipe.spec):
        log.warning("%s", doubt)
    given, wanted = checkpoint.state_dict, model.state_dict()
    classes = checkpoint.labels
    if part.new_head:
        given, wanted = (
            {key: value for key, value in state.items() if not key.startswith("head.")}
            for state in (given, wanted)
        )
    elif num_classes_of(given) not in (None, len(labels)):
        raise CheckpointError(
            f"{part.start} knows {num_classes_of(given)} classes, the recipe has {len(labels)}; "
            f"set model.new_head = true to learn them with a new head"
        )
    elif classes and classes != labels:
        differ = [pair for pair in zip(classes, labels, strict=True) if pair[0] != pair[1]]
        log.warning(
            "%s is taken with its head, but %d of %d labels differ from its own: what was %r "
            "begins as %r; set model.new_head = true unless they mean the same",
            *(part.start, len(differ), len(labels), *differ[0]),
        )
    if part.widen:
        given = widened(given, wanted)
    if report := compare(wanted, given):
        fits = matching_variant(checkpoint.state_dict)
        hint = f"; these weights fit variant {fits!r}" if fits else ""
        raise CheckpointError(f"{part.start} does not fit the model: {report}{hint}")
    model.load_state_dict(given, strict=False)


def new_optimizer(part: OptimPart, model: nn.Module) -> torch.optim.Optimizer:
    """AdamW, or SGD with momentum 0.9; biases and norms are not decayed."""
    params = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in params if p.dim() > 1], "weight_decay": part.weight_decay},
        {"params": [p for p in params if p.dim() <= 1], "weight_decay": 0.0},
    ]
    if part.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=part.lr, momentum=0.9)
    return torch.optim.AdamW(groups, lr=part.lr)
