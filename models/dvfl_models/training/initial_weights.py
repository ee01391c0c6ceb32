"""The network of a run with the weights that it starts from."""

from __future__ import annotations

import logging

import torch

from dvfl_models.network.checkpoint import (
    check_fit,
    clip_mismatch,
    num_classes_of,
    read_checkpoint,
)
from dvfl_models.network.initialisation import init_from_focalnet, widened
from dvfl_models.network.video_focalnet import VideoFocalNet, build_model, init_weights
from dvfl_models.recipe.recipe import Recipe
from dvfl_runtime.errors import CheckpointError, RecipeError

log = logging.getLogger(__name__)

# the files of FocalNet's official release (one receptive field, "SRF") whose widths fit
IMAGENET_FILES = {
    "nano": "focalnet_tiny_srf.pth",
    "tiny": "focalnet_tiny_srf.pth",
    "small": "focalnet_small_srf.pth",
    "base": "focalnet_base_srf.pth",
}


def new_network(recipe: Recipe) -> VideoFocalNet:
    """Return the recipe's network with its first weights; the same for the same seed.

    Raises:
        RecipeError: if the recipe asks for a start and names none.
        CheckpointError: if a checkpoint to start from cannot be read or does not fit.
    """
    table, classes = recipe.model, len(recipe.labels)
    torch.manual_seed(recipe.seed)
    if not (table.scratch or table.imagenet or table.start):
        raise RecipeError(_start_is_missing(table.variant))
    network = build_model(table.variant, num_classes=classes, drop_path_rate=recipe.drop_path)
    init_weights(network, table.init)
    if table.imagenet:
        _load_imagenet(network, table.imagenet)
    if table.start:
        _load_start(network, recipe)
    return network


def _start_is_missing(variant: str) -> str:
    if file := IMAGENET_FILES.get(variant):
        wanted = (
            f"it starts from ImageNet weights, for {variant} those of {file} (FocalNet's official "
            f"release): --set model.imagenet=path/to/{file}"
        )
    else:
        wanted = (
            f"there are no ImageNet weights for {variant}; give a checkpoint of its own: --set "
            f"model.start=FILE.pth"
        )
    return f"this recipe does not train from random weights: {wanted}; or set model.scratch=true"


def _load_imagenet(network: VideoFocalNet, path: str) -> None:
    """Load the spatial part from an ImageNet FocalNet, and log how much of it was found."""
    report = init_from_focalnet(network, read_checkpoint(path, "model.imagenet").state_dict)
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


def _load_start(network: VideoFocalNet, recipe: Recipe) -> None:
    """Load the weights of `model.start`, all or all but the head."""
    table, labels = recipe.model, recipe.labels
    checkpoint = read_checkpoint(table.start, "model.start")
    if doubt := clip_mismatch(table.start, checkpoint.spec, recipe.spec):
        log.warning("%s", doubt)
    given, wanted = checkpoint.state_dict, network.state_dict()
    classes = checkpoint.labels
    if table.new_head:
        given, wanted = (
            {key: value for key, value in state.items() if not key.startswith("head.")}
            for state in (given, wanted)
        )
    elif num_classes_of(given) not in (None, len(labels)):
        raise CheckpointError(
            f"{table.start} knows {num_classes_of(given)} classes, the recipe has {len(labels)}; "
            f"set model.new_head = true to learn them with a new head"
        )
    elif classes and classes != labels:
        differ = [pair for pair in zip(classes, labels, strict=True) if pair[0] != pair[1]]
        log.warning(
            "%s is taken with its head, but %d of %d labels differ from its own: what was %r "
            "begins as %r; set model.new_head = true unless they mean the same",
            *(table.start, len(differ), len(labels), *differ[0]),
        )
    if table.widen:
        given = widened(given, wanted)
    check_fit(wanted, checkpoint, given)
    network.load_state_dict(given, strict=False)
