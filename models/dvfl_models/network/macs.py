"""The multiply-accumulates of a network."""

from __future__ import annotations

import copy

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


def count_macs(model: nn.Module, clip_shape: tuple[int, int, int, int]) -> int:
    """Count those of the matrix products and convolutions of `model` for one clip.

    Runs on the meta device, which takes neither memory nor arithmetic. One MAC is two FLOPs; the
    official script prints MACs under the label "gflops".

    Args:
        model: takes (B, T, C, H, W).
        clip_shape: (T, C, H, W).
    """
    shadow = copy.deepcopy(model).to("meta").eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        shadow(torch.empty(1, *clip_shape, device="meta"))
    return int(counter.get_total_flops()) // 2
