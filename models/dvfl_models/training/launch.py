"""The options, the device and the processes of a run.

experimental: not yet run on several GPUs, nor with fp16 on one.
"""

from __future__ import annotations

import hashlib
import math
import os
import platform
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object

from dvfl_models.recipe.tables import OptimTable
from dvfl_runtime.errors import DvflError, RecipeError

COMPILED_STEPS = 2000  # compiling `nano` took an H200 a minute, what 1,400 compiled steps save
# where torchrun and MPI tell how many processes they have started
WORLD_SIZES = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")


@dataclass(frozen=True)
class TrainOptions:
    """Options that change nothing of what a run computes.

    Attributes:
        resume: go on from the folder's `last.pth`.
        strict_split: refuse test sets that share sources with training.
        cpu: stay on the CPU where there is a GPU.
        tensorboard: write event files too.
        until_s: when to end before the last step, as a request would; `time.monotonic`.
    """

    resume: bool = False
    strict_split: bool = False
    cpu: bool = False
    tensorboard: bool = False
    until_s: float = math.inf


def with_precision(table: OptimTable, options: TrainOptions) -> OptimTable:
    """Return the table with the precision that "auto" stands for.

    It is bf16 on a GPU that computes in it, and none on CPUs. One with instructions for bf16 took
    0.8 (`femto`) and 0.6 times (`nano`) as long for a step (models/results/step_speed.json); others
    were not measured.
    """
    if table.precision != "auto":
        return table
    on_gpu = not options.cpu and torch.cuda.is_available()
    bf16 = on_gpu and torch.cuda.is_bf16_supported(including_emulation=False)
    return table.model_copy(update={"precision": "bf16" if bf16 else "no"})


def is_compiled(table: OptimTable, device: torch.device) -> bool:
    """Return whether a run compiles its network: "auto" does for long runs on a GPU."""
    if table.compile != "auto":
        return table.compile
    return device.type == "cuda" and table.steps >= COMPILED_STEPS


def new_accelerator(table: OptimTable, options: TrainOptions) -> Accelerator:
    """Return the device, the processes and the precision of a run.

    Raises:
        RecipeError: if the precision cannot be had here.
        DvflError: if this is one of several processes that do not see each other.
    """
    precision = table.precision
    autocast = precision if precision in ("bf16", "fp16") else "no"
    try:
        accelerator = Accelerator(cpu=options.cpu, mixed_precision=autocast)
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
    # beside bf16 and fp16 it concerns the tests: ten bits of mantissa move a logit by 3e-4 at most
    # where bf16 moves it by 5e-3 (models/results/h200/training.json)
    torch.backends.cuda.matmul.allow_tf32 = precision != "no"
    torch.backends.cudnn.allow_tf32 = precision != "no"
    return accelerator


def check_same_start(accelerator: Accelerator, last: Path | None) -> None:
    """Raise DvflError unless all processes of a run go on from the same file, or all begin.

    On machines without a disk of their own to share, only that of the first process has the file
    of the last step; another may have one of an earlier run.

    Args:
        accelerator: of the run.
        last: the file that this process goes on from; `None` if it begins.

    Raises:
        DvflError: in every process, if they differ.
    """
    if accelerator.num_processes == 1:
        return
    content = hashlib.sha256()
    if last is not None:
        with last.open("rb") as file:
            while chunk := file.read(1 << 20):
                content.update(chunk)
    found = gather_object([(content.hexdigest(), platform.node())])
    if len({digest for digest, _ in found}) > 1:
        first = found[0][0]
        others = sorted({node for digest, node in found if digest != first})
        raise DvflError(
            f"the processes of this run do not go on from the same last.pth: {', '.join(others)} "
            f"has another one than {found[0][1]}, or none; copy it from there to the same folder "
            "on all machines, or use a disk that they share"
        )
