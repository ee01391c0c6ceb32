"""The options, the device and the processes of a run.

experimental: not yet run on several GPUs, nor with fp16 on one.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from accelerate import Accelerator

from dvfl_models.recipe.tables import OptimTable
from dvfl_runtime.errors import DvflError, RecipeError

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
    """

    resume: bool = False
    strict_split: bool = False
    cpu: bool = False
    tensorboard: bool = False


def new_accelerator(table: OptimTable, options: TrainOptions) -> Accelerator:
    """Return the device, the processes and the precision of a run.

    Raises:
        RecipeError: if the precision cannot be had here.
        DvflError: if this is one of several processes that do not see each other.
    """
    precision = table.precision
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
