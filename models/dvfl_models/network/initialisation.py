"""Initial weights from another network: an ImageNet FocalNet, a narrower or a shallower one."""

from __future__ import annotations

import torch
from torch import Tensor

from dvfl_models.network.checkpoint import StateDict
from dvfl_models.network.video_focalnet import VideoFocalNet
from dvfl_runtime.errors import CheckpointError

WIDTH = "patch_embed.norm.weight"  # has one value per channel of the first stage


def init_from_focalnet(model: VideoFocalNet, state: StateDict) -> dict[str, list[str]]:
    """Load the matching part of an ImageNet FocalNet (2D); all other weights keep their values.

    The spatial part has the same key names (arXiv 2307.06947, section 4.1). A FocalNet has no
    temporal part, and its head knows other classes.

    Returns:
        Keys: "loaded", "not_in_file" and "skipped" (in the file, but absent or of another shape
        here).
    """
    own = model.state_dict()
    loaded = [k for k, v in state.items() if k in own and own[k].shape == v.shape]
    model.load_state_dict({k: state[k] for k in loaded}, strict=False)
    return {
        "loaded": loaded,
        "not_in_file": [k for k in own if k not in loaded],
        "skipped": [k for k in state if k not in loaded],
    }


def widened(given: StateDict, wanted: StateDict) -> dict[str, Tensor]:
    """Return weights of a wide network that computes what a narrow one does.

    Each channel becomes k equal ones, as in Net2Net (arXiv 1511.05641, section 2.3); LayerNorm,
    GELU and the products of the modulation leave them equal. A layer that reads the k copies
    divides its weight among them at random, so that the copies get different gradients. The shares
    add up to 1, and the weights have the spread with which a network of the new width starts.

    Args:
        given: weights of the narrow network. Tensors that do not fit the wide one stay as they are.
        wanted: weights of the wide network, of the same depths and focal levels, for their shapes.

    Raises:
        CheckpointError: if the wide network is not 2, 3 ... times as wide.
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
    # The rows of gates and classes come last; there are as many of them in both networks. Solved
    # for `fixed`: shape[0] = times * (len(value) - fixed) + fixed
    fixed = (times * len(value) - shape[0]) // (times - 1)
    if not 0 <= fixed <= len(value):
        return value
    grown, kept = value[: len(value) - fixed], value[len(value) - fixed :]
    value = torch.cat([grown.repeat_interleave(times, 0), kept])
    if value.dim() == 1 or value.shape[1] == shape[1]:  # has no inputs, or reads pixels
        return value
    # (out, in, ...) -> (out, in, times, ...) -> (out, in * times, ...)
    noise = torch.randn(*value.shape[:2], times, *value.shape[2:]) / times**0.5
    shares = 1 / times + noise - noise.mean(2, keepdim=True)
    parts: Tensor = value.unsqueeze(2) * shares
    return parts.flatten(1, 2)


def deepened(given: StateDict, wanted: StateDict) -> dict[str, Tensor]:
    """Return weights of a deep network that computes what a shallow one of its width does.

    Each additional block copies the last block of its stage, except that the last linear layer of
    both its branches is zero: it passes its input on until it is trained.

    Args:
        given: weights of the shallow network.
        wanted: weights of the deep network, for their keys.
    """
    out = dict(given)
    for key in wanted:
        parts = key.split(".")  # layers.STAGE.blocks.BLOCK.*
        if key in out or "blocks" not in parts:
            continue
        prefix = ".".join(parts[:3]) + "."
        last = max(int(name.split(".")[3]) for name in given if name.startswith(prefix))
        source = given[prefix + ".".join([str(last), *parts[4:]])]
        ends_a_branch = any(f".{end}." in key for end in ("modulation.proj", "mlp.fc2"))
        out[key] = torch.zeros_like(source) if ends_a_branch else source.clone()
    return out
