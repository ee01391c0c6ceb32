"""Starting a wide network from a trained narrow one (Net2Net, arXiv 1511.05641, section 2.3)."""

from __future__ import annotations

import torch
from torch import Tensor

from dvfl_models.network.checkpoint import StateDict
from dvfl_runtime.errors import CheckpointError

WIDTH = "patch_embed.norm.weight"  # has one value per channel of the first stage


def widened(given: StateDict, wanted: StateDict) -> dict[str, Tensor]:
    """Weights of the wide network that compute what the narrow one does.

    Each channel becomes k equal ones, which LayerNorm, GELU and the products of the modulation
    leave equal. What reads k copies shares its weight among them at random, so that they get
    different gradients; the shares add up to 1, and the weights have the spread that a
    network of the new width starts with.

    Args:
        given: weights of the narrow network. What does not fit the wide one stays as it is.
        wanted: weights of the wide one, for their shapes; the same depths and focal levels.

    Raises:
        CheckpointError: if the widths are not one a multiple of the other, at least twice.
    """
    narrow, wide = (len(state[WIDTH]) if WIDTH in state else 0 for state in (given, wanted))
    times, rest = divmod(wide, max(narrow, 1))
    if times < 2 or rest:
        raise CheckpointError(
            f"model.widen: {wide} channels are not 2, 3 ... times the {narrow} of the start"
        )
    return {
        key: _repeat(value, wanted[key].shape, times)
        if key in wanted and wanted[key].dim() == value.dim()
        else value
        for key, value in given.items()
    }


def _repeat(value: Tensor, shape: torch.Size, times: int) -> Tensor:
    # Rows that do not grow, the gates' and the classes', come last: there are as many in both.
    fixed = (times * len(value) - shape[0]) // (times - 1)
    if not 0 <= fixed <= len(value):
        return value
    grown, kept = value[: len(value) - fixed], value[len(value) - fixed :]
    value = torch.cat([grown.repeat_interleave(times, 0), kept])
    if value.dim() == 1 or value.shape[1] == shape[1]:  # no inputs, or those of pixels
        return value
    noise = torch.randn(*value.shape[:2], times, *value.shape[2:]) / times**0.5
    shares = 1 / times + noise - noise.mean(2, keepdim=True)
    parts: Tensor = value.unsqueeze(2) * shares
    return parts.flatten(1, 2)
