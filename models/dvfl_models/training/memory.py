"""What to do when a GPU has too little memory for a run.

experimental: the error has only been raised by a fake, not by a GPU.
"""

from __future__ import annotations

from dvfl_models.recipe.recipe import Recipe
from dvfl_runtime.errors import DvflError


def clips_at_once(recipe: Recipe, processes: int) -> int:
    """Return how many clips a process computes at a time, in training and at most in a test."""
    optim = recipe.optim
    return max(1, optim.batch_size // (processes * optim.accumulate))


def out_of_memory(recipe: Recipe, processes: int, step: int) -> DvflError:
    """Return the error of a run whose clips do not fit into memory: what to set, and to what.

    Args:
        recipe: of the run.
        processes: that share each step.
        step: the number of steps done.
    """
    optim, spec = recipe.optim, recipe.spec
    unit = processes * (2 if recipe.augment.mixup or recipe.augment.cutmix else 1)
    fits = range(optim.accumulate + 1, optim.batch_size // unit + 1)
    parts = [str(n) for n in fits if optim.batch_size % (unit * n) == 0][:3]
    tries = []
    if parts:
        tries.append(f"optim.accumulate={' or '.join(parts)} (the same steps in smaller parts)")
    if not optim.checkpointing:
        tries.append("optim.checkpointing=true (less memory of a clip, more time)")
    if optim.batch_size > unit:
        tries.append(f"an optim.batch_size below {optim.batch_size}")
    height, width = spec.size
    return DvflError(
        f"out of memory after step {step}, with {clips_at_once(recipe, processes)} clips of "
        f"{recipe.model.variant}, {spec.num_frames} x {height} x {width}, at a time; "
        f"set {', or '.join(tries) or 'a smaller model.variant or clip.size'}; "
        f"models/README.md tells the memory of a clip"
    )
