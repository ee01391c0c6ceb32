"""The recipe of a run on a user's clips: a small network with a taught head is fine-tuned."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from dvfl_export.own_actions.gathering import HELD_BACK, TRAIN
from dvfl_models.network.checkpoint import Checkpoint, config_of, variant_of
from dvfl_models.network.config import VideoFocalNetConfig
from dvfl_models.recipe.recipe import Recipe
from dvfl_models.training.consistency import UNSETTLED, mirror_images
from dvfl_models.training.initial_weights import new_network
from dvfl_runtime.clips.spec import ClipSpec
from dvfl_runtime.files import replacing

BATCH_SIZE = 16
STEPS_PER_CLIP = 5
LEAST_STEPS, MOST_STEPS = 150, 3000
WARM_UP, EMA = 50, 0.99
TESTS = 5  # in a training, and as many times is it saved
SPANS = 0.6, 3.0  # of training clips, in windows of the model
BESIDE = 1.4  # of a step: time with the reading and augmenting of its clips and the tests
# values that a network of dim 32 and depths 1, 1, 2, 1 keeps of 8 x 64 x 64 px: 18 MB
# (models/README.md, "Memory"); so much may be kept at a time
KEPT_MB, MOST_MB = 18.0, 2000.0

ALL_CLIPS = ("test=[]", "train.0.only={}")  # settings of the training on all clips


def steps_for(clips: int) -> int:
    """Return the steps of a training on so many clips."""
    return min(MOST_STEPS, max(LEAST_STEPS, STEPS_PER_CLIP * clips))


def write_recipe(
    path: Path, start: Checkpoint, spec: ClipSpec, labels: tuple[str, ...], steps: int
) -> None:
    """Write the recipe of the training that leaves out the clips held back.

    Args:
        path: of the file, beside `clips.csv`.
        start: the checkpoint to start from.
        spec: of the clips.
        labels: the classes.
        steps: of the training.

    Raises:
        OutputError: if it cannot be written.
    """
    index, window_s = str(path.absolute().with_name("clips.csv")), spec.window_s
    videos = {"kind": "videos", "index": index, "group": "group"}
    clip = {key: value for key, value in spec.to_dict().items() if value is not None}
    optim = {
        "steps": steps,
        "batch_size": BATCH_SIZE,
        "accumulate": _parts(config_of(start), spec),
        "lr": 3e-4,
        "warmup_steps": min(WARM_UP, steps // 6),
        "label_smoothing": 0.1,
        # the first weights are gone from the averaged ones by the end
        "ema": min(EMA, int(1000 * UNSETTLED ** (1 / steps)) / 1000),
    }
    lines = [
        "# Written by dvfl-train: fine-tunes a network on the clips that are not held back.",
        *_lines({"name": "own_actions", "labels": labels}),
        *_lines(dict.fromkeys(("test_every", "checkpoint_every"), max(1, steps // TESTS))),
        "",
        "[model]",
        *_lines({"variant": variant_of(start), "start": str(start.path.absolute())}),
        "",
        "[clip]",
        *_lines(clip),
        "",
        "[[train]]",
        *_lines({**videos, "name": "own_clips", "window_s": [s * window_s for s in SPANS]}),
        f"only = {{part = [{json.dumps(TRAIN)}]}}",
        "",
        "[[test]]",
        *_lines({**videos, "name": HELD_BACK, "middle_s": SPANS[1] * window_s}),
        f"only = {{part = [{json.dumps(HELD_BACK)}]}}",
        "",
        "[optim]",
        *_lines(optim),
    ]
    if mirror_images(labels):
        lines += ["", "[augment]", "flip = 0  # a class is the mirror image of another one"]
    with replacing(path) as part:
        part.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _lines(values: dict[str, Any]) -> Iterable[str]:
    """Return lines of TOML, whose texts, numbers and lists are written as in JSON."""
    return [f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in values.items()]


def _parts(config: VideoFocalNetConfig, spec: ClipSpec) -> int:
    """Return in how many parts a step is computed, so that its values fit into memory."""
    pixels = spec.num_frames * spec.size[0] * spec.size[1] / (8 * 64 * 64)
    clip_mb = KEPT_MB * pixels * config.embed_dim / 32 * sum(config.depths) / 5
    parts = 1
    while parts < BATCH_SIZE and clip_mb * BATCH_SIZE / parts > MOST_MB:
        parts *= 2
    return parts


def device_of(*, cpu: bool) -> torch.device:
    """Return the GPU, if there is one that may be used, or the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() and not cpu else "cpu")


def seconds_per_step(recipe: Recipe, *, cpu: bool = False) -> float:
    """Measure a step of a recipe with random pictures, most of which is the network.

    Args:
        recipe: of the run.
        cpu: stay on the CPU where there is a GPU.
    """
    device = device_of(cpu=cpu)
    network, spec, optim = new_network(recipe).to(device).train(), recipe.spec, recipe.optim
    clips = torch.rand(optim.batch_size // optim.accumulate, spec.num_frames, 3, *spec.size)
    times_s = []
    for _ in range(3):
        began_s = time.perf_counter()
        network(clips.to(device)).square().mean().backward()
        if device.type == "cuda":
            torch.cuda.synchronize()
        times_s.append(time.perf_counter() - began_s)
    return min(times_s) * optim.accumulate * BESIDE
