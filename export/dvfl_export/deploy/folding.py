"""Exact algebra on weights, by which one layer takes over the work of its neighbours.

All functions compute in float64 and return float64. The modules of the deploy form round once, to
float32, when they store the result.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Affine(NamedTuple):
    """y = weight x + bias, with weight (O, I) and bias (O,), both float64."""

    weight: Tensor
    bias: Tensor

    def rows(self, start: int, stop: int | None = None) -> Affine:
        """Return the part that computes outputs `start` to `stop`."""
        return Affine(self.weight[start:stop], self.bias[start:stop])


def affine_of(layer: nn.Linear | nn.Conv1d | nn.Conv2d) -> Affine:
    """Return a Linear, or a convolution with a kernel of 1, as weight (O, I) and bias (O,)."""
    weight = layer.weight.detach().double().flatten(1)  # (O, I, 1, 1) -> (O, I)
    if layer.bias is None:
        return Affine(weight, weight.new_zeros(len(weight)))
    return Affine(weight, layer.bias.detach().double())


def after_norm(affine: Affine, norm: nn.LayerNorm) -> Affine:
    """Take over the affine of the LayerNorm before: W (g n + s) + b = (W g) n + (W s + b)."""
    scale, shift = norm.weight.detach().double(), norm.bias.detach().double()
    return Affine(affine.weight * scale, affine.bias + affine.weight @ shift)


def before_scale(affine: Affine, scale: Tensor) -> Affine:
    """Take over the LayerScale after: g (W x + b) = (g W) x + g b, with g (O,)."""
    scale = scale.detach().double()
    return Affine(affine.weight * scale[:, None], affine.bias * scale)


def after_pixels(
    weight: Tensor, mean: tuple[float, ...], std: tuple[float, ...]
) -> tuple[Tensor, Tensor]:
    """Take over (pixel - mean) / std before a patch embedding.

    Args:
        weight: (O, 3, *K), any kernel.
        mean: per channel, on the pixels' scale.
        std: per channel, on the pixels' scale.

    Returns:
        Weight (O, 3, *K) for raw pixels, and the shift (O, 3, *K) that each tap adds for a pixel
        inside the picture. The sum over all taps is the bias where no tap is on the padding.
    """
    # (3,) -> (1, 3, 1, 1) or (1, 3, 1, 1, 1)
    column = (1, 3, *[1] * (weight.dim() - 2))
    scaled = weight.detach().double() / weight.new_tensor(std, dtype=torch.float64).view(column)
    return scaled, -scaled * weight.new_tensor(mean, dtype=torch.float64).view(column)


def after_bias(weight: Tensor, bias: Tensor) -> Tensor:
    """Take over the bias (I,) of the layer before a patch embedding that pads nothing.

    Args:
        weight: (O, I, *K), any kernel.
        bias: of each value that the embedding reads.

    Returns:
        (O,), what the bias adds to each output: W (x + b) = W x + W b.
    """
    return weight.detach().double().flatten(2).sum(2) @ bias.detach().double()


def padded_bias(taps: Tensor, size: tuple[int, int], stride: int, padding: int) -> Tensor:
    """Return the bias of a zero-padded convolution whose input's shift was folded into `taps`.

    The training form pads after the normalisation, so a tap on the padding sees 0 and must not add
    its shift. Other taps are on the padding at other places, so the bias becomes a map.

    Args:
        taps: (O, I, k, k), the shift that each tap adds inside the picture.
        size: (H, W) of the convolution's input.
        stride: of the convolution.
        padding: zeros on each side.

    Returns:
        (1, O, H', W').
    """
    # a picture of ones, padded with zeros, sums up the taps that are inside
    inside = taps.new_ones(1, taps.shape[1], *size)
    return F.conv2d(inside, taps, stride=stride, padding=padding)


def project_then_convolve(project: Affine, weight: Tensor, frames: int) -> tuple[Tensor, Tensor]:
    """Make one temporal convolution of a Linear and a zero-padded temporal convolution.

    conv(F x + b)_t = sum_j W_j F x_(t+j) + sum_(j: t+j inside) W_j b. The padded frames are zeros
    of the *projected* tokens without b, so the frames at the edges have biases of their own.

    Args:
        project: the Linear, weight (D, I).
        weight: (O, D, k), the convolution that follows, zero padding k // 2.
        frames: T.

    Returns:
        Weight (O, I, k), and the bias of each frame (1, O, T, 1).
    """
    weight = weight.detach().double()
    folded = torch.einsum("odk,di->oik", weight, project.weight)
    inside = project.bias[None, :, None].expand(1, -1, frames)
    bias = F.conv1d(inside, weight, padding=weight.shape[-1] // 2)
    return folded, bias[..., None]  # (1, O, T) -> (1, O, T, 1)
