"""The layers of the deploy form: normalisation, linears, embeddings, modulation.

Tokens stay (B, T*H*W, C) between layers. Around a convolution they are permuted, but never reshaped
across the permutation, so that OpenVINO and ONNX Runtime absorb it into the convolution.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dvfl_export.deploy.folding import (
    Affine,
    affine_of,
    after_bias,
    after_norm,
    after_pixels,
    before_scale,
    padded_bias,
    project_then_convolve,
)
from dvfl_export.deploy.fused_ops import bias_gelu_node, context_node, writes_fused_nodes
from dvfl_models.network.video_focalnet import PatchEmbed, SpatioTemporalFocalModulation
from dvfl_runtime.clips.spec import ClipSpec


class Grid(NamedTuple):
    """The number of tokens along time, height and width."""

    frames: int
    height: int
    width: int

    @property
    def pixels(self) -> int:
        """Number of tokens of one frame."""
        return self.height * self.width

    @property
    def tokens(self) -> int:
        """Number of tokens of one clip."""
        return self.frames * self.pixels


def constant(value: Tensor) -> nn.Parameter:
    """Return folded weights as a parameter, rounded to float32 once."""
    return nn.Parameter(value.detach().to(torch.float32).contiguous(), requires_grad=False)


def constants(values: Iterable[Tensor]) -> nn.ParameterList:
    """Return folded weights as parameters, see `constant`."""
    return nn.ParameterList(constant(value) for value in values)


class FoldedLinear(nn.Module):
    """x W + b with W stored as (I, O), so that the graph holds one MatMul and one Add.

    Attributes:
        adds_bias: False once the next linear has taken the bias over; then it is zero.
    """

    def __init__(self, affine: Affine) -> None:
        super().__init__()
        self.weight = constant(affine.weight.T)
        self.bias = constant(affine.bias)
        self.adds_bias = True

    def give_bias(self) -> Tensor:
        """Return the bias (O,), which the next linear is to add; this one adds none from now on."""
        bias = self.bias.clone()
        self.bias.zero_()
        self.adds_bias = False
        return bias

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, I) -> (B, N, O)."""
        product = torch.matmul(x, self.weight)
        return product + self.bias if self.adds_bias else product


class FoldedLinearGelu(FoldedLinear):
    """Gelu(x W + b): one product, then one node for the bias and the exact GELU."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, I) -> (B, N, O)."""
        product = torch.matmul(x, self.weight)
        if writes_fused_nodes():
            return bias_gelu_node(product, self.bias)
        return F.gelu(product + self.bias)


class Normalize(nn.Module):
    """LayerNorm; without scale and shift where the next linear has taken them over."""

    def __init__(self, dim: int, norm: nn.LayerNorm | None = None, scale: Tensor | None = None):
        super().__init__()
        weight = torch.ones(dim) if norm is None else norm.weight
        bias = torch.zeros(dim) if norm is None else norm.bias
        self.weight = constant(weight if scale is None else weight * scale)
        self.bias = constant(bias if scale is None else bias * scale)
        self.eps = 1e-5 if norm is None else norm.eps

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, C) -> (B, N, C)."""
        return F.layer_norm(x, self.weight.shape, self.weight, self.bias, self.eps)


class PatchProduct(nn.Module):
    """A convolution whose stride is its kernel, as a matrix product over patches.

    Args:
        embed: the training form.
        source: the grid of the input.
        before: what is taken over: the normalisation of pixels, or a bias (I,) of the last layer.
    """

    def __init__(self, embed: PatchEmbed, source: Grid, before: ClipSpec | Tensor) -> None:
        super().__init__()
        weight, bias = embed.proj.weight.detach().double(), bias_of(embed)
        if isinstance(before, Tensor):
            bias = bias + after_bias(weight, before)
        else:
            weight, taps = after_pixels(weight, before.mean, before.std)
            bias = bias + taps.flatten(1).sum(1)
        if weight.dim() == 4:
            weight = weight[:, :, None]  # (O, I, k, k) -> (O, I, 1, k, k), a tubelet of one frame
        self.dim, _, self.tubelet, self.stride, _ = weight.shape
        self.source = source
        self.grid = Grid(
            source.frames // self.tubelet,
            source.height // self.stride,
            source.width // self.stride,
        )
        # (O, I, t, k, k) -> (O, t*k*k*I), the order of channels-last pixels in memory
        self.linear = FoldedLinear(Affine(weight.permute(0, 2, 3, 4, 1).flatten(1), bias))
        self.norm = Normalize(self.dim, embed.norm)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, H, W, I) or (B, T*H*W, I) -> (B, T'*H'*W', O)."""
        source, grid, stride = self.source, self.grid, self.stride
        channels = x.shape[-1]
        height, width = grid.height * stride, grid.width * stride
        if (height, width) != source[1:]:  # a strided convolution leaves the rest out, too
            # (B, T*H*W, I) -> (B, T, H, W, I) -> (B, T, H'*k, W'*k, I)
            x = x.reshape(-1, *source, channels)[:, :, :height, :width]
        if self.tubelet == 1:
            # (B, T, H'*k, W'*k, I) -> (B*T*H', k, W', k*I) -> (B*T*H', W', k, k*I)
            x = x.reshape(-1, stride, grid.width, stride * channels).transpose(1, 2)
        else:
            # (B, T'*t, H'*k, W'*k, I) -> (B*T', t, H', k, W', k*I) -> (B*T', H', W', t, k, k*I)
            x = x.reshape(-1, self.tubelet, grid.height, stride, grid.width, stride * channels)
            x = x.permute(0, 2, 4, 1, 3, 5)
        # -> (B, T'*H'*W', t*k*k*I)
        x = x.reshape(-1, grid.tokens, self.tubelet * stride * stride * channels)
        out: Tensor = self.norm(self.linear(x))
        return out


class OverlappedEmbedding(nn.Module):
    """A zero-padded convolution of each frame, then LayerNorm.

    Args:
        embed: the training form.
        source: the grid of the input.
        pixels: the spec, if the input is the clip: its normalisation is taken over.
    """

    def __init__(self, embed: PatchEmbed, source: Grid, pixels: ClipSpec | None) -> None:
        super().__init__()
        conv = embed.proj
        self.stride, self.padding = int(conv.stride[0]), int(conv.padding[0])
        weight, bias = conv.weight.detach().double(), bias_of(embed)
        shape = (source.height, source.width)
        taps = torch.zeros_like(weight)
        if pixels is not None:
            weight, taps = after_pixels(weight, pixels.mean, pixels.std)
        bias_map = padded_bias(taps, shape, self.stride, self.padding) + bias[None, :, None, None]
        self.source, self.grid = source, Grid(source.frames, *bias_map.shape[2:])
        self.weight = constant(weight)
        self.bias_map = constant(bias_map) if pixels is not None else None
        self.bias = constant(bias) if pixels is None else None
        self.norm = Normalize(len(weight), embed.norm)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, H, W, I) or (B, T*H*W, I) -> (B, T*H'*W', O)."""
        channels = x.shape[-1]
        # (B, T, H, W, I) or (B, T*H*W, I) -> (B*T, H, W, I) -> (B*T, I, H, W)
        x = x.reshape(-1, self.source.height, self.source.width, channels).permute(0, 3, 1, 2)
        x = F.conv2d(x, self.weight, self.bias, stride=self.stride, padding=self.padding)
        if self.bias_map is not None:
            x = x + self.bias_map
        # (B*T, O, H', W') -> (B*T, H', W', O) -> (B, T*H'*W', O)
        x = x.permute(0, 2, 3, 1).reshape(-1, self.grid.tokens, len(self.weight))
        out: Tensor = self.norm(x)
        return out


def bias_of(embed: PatchEmbed) -> Tensor:
    """Return the bias (O,) of an embedding's convolution."""
    bias = embed.proj.bias
    assert bias is not None  # PatchEmbed always makes one
    return bias.detach().double()


def level_kernels(levels: nn.ModuleList) -> list[Tensor]:
    """Return the weights of the levels' convolutions, first level first."""
    kernels = []
    for level in levels:
        assert isinstance(level, nn.Sequential)
        weight = level[0].weight
        assert isinstance(weight, Tensor)
        kernels.append(weight.detach())
    return kernels


def scaled_linear(layer: nn.Conv1d | nn.Conv2d, scale: float) -> FoldedLinear:
    """Return a convolution with a kernel of 1 that takes over a scale of its input."""
    affine = affine_of(layer)
    return FoldedLinear(Affine(affine.weight * scale, affine.bias))


class Context(nn.Module):
    """Sum the gated levels of a stack of convolutions and their mean, then apply `h`.

    A subclass says how tokens are laid out for its convolutions, as planes (N, C, *plane).

    Args:
        layer: the training form.
        grid: of the tokens.

    Attributes:
        kernels: weights of the convolutions, first level first.
        h: the last projection.
        plane: the two axes that a convolution sees.
        mean_axes: those axes of (N, C, *plane) that the global context is averaged over.
        first_gate: index of the first of the levels + 1 gates that are this context's.
    """

    kernels: nn.ParameterList
    h: FoldedLinear
    plane: tuple[int, int]
    mean_axes: tuple[int, ...]
    first_gate: int

    def __init__(self, layer: SpatioTemporalFocalModulation, grid: Grid) -> None:
        super().__init__()
        self.grid, self.dim, self.levels = grid, layer.dim, layer.levels

    def forward(self, x: Tensor, gates: Tensor) -> Tensor:
        """Normalised tokens (B, T*H*W, C), all gates (B, T*H*W, G) -> (B, T*H*W, C)."""
        aggregate = self.node if writes_fused_nodes() else self.aggregate
        out: Tensor = self.h(aggregate(x, gates))
        return out

    def node(self, ctx: Tensor, gates: Tensor) -> Tensor:
        """Write `aggregate` as one node of the exported graph."""
        raise NotImplementedError

    def aggregate(self, ctx: Tensor, gates: Tensor) -> Tensor:
        """Tokens (B, T*H*W, C), all gates (B, T*H*W, G) -> (B, T*H*W, C)."""
        ctx, gates = self.as_planes(ctx), self.as_planes(gates)
        total = None
        for level in range(self.levels):
            ctx = F.gelu(self.convolve(ctx, level))
            part = ctx * self.gate(gates, level)
            total = part if total is None else total + part
        everywhere = F.gelu(ctx.mean(self.mean_axes, keepdim=True))
        assert total is not None  # there is at least one level
        total = total + everywhere * self.gate(gates, self.levels)
        # (N, C, *plane) -> (N, *plane, C) -> (B, T*H*W, C)
        return total.permute(0, 2, 3, 1).reshape(-1, self.grid.tokens, self.dim)

    def as_planes(self, x: Tensor) -> Tensor:
        """(B, T*H*W, C) -> (N, *plane, C) -> (N, C, *plane)."""
        return x.reshape(-1, *self.plane, x.shape[-1]).permute(0, 3, 1, 2)

    def gate(self, gates: Tensor, level: int) -> Tensor:
        """(N, G, *plane) -> (N, 1, *plane), the gate of a level."""
        index = self.first_gate + level
        return gates[:, index : index + 1]

    def convolve(self, ctx: Tensor, level: int) -> Tensor:
        """(N, C, *plane) -> (N, C, *plane), the convolution of a level."""
        raise NotImplementedError


class SpatialContext(Context):
    """The spatial modulator: depthwise convolutions over the pixels of each frame."""

    mean_axes = (2, 3)
    first_gate = 0

    def __init__(
        self, layer: SpatioTemporalFocalModulation, ctx: Affine, grid: Grid, scale: float
    ) -> None:
        super().__init__(layer, grid)
        self.ctx = FoldedLinear(ctx)
        self.kernels = constants(level_kernels(layer.focal_layers))
        self.h = scaled_linear(layer.h, scale)
        self.plane = (grid.height, grid.width)  # (B, T*H*W, C) -> (B*T, C, H, W)

    def forward(self, x: Tensor, gates: Tensor) -> Tensor:
        """Normalised tokens (B, T*H*W, C), all gates (B, T*H*W, G) -> (B, T*H*W, C)."""
        return super().forward(self.ctx(x), gates)

    def node(self, ctx: Tensor, gates: Tensor) -> Tensor:
        """Tokens (B, T*H*W, C), all gates (B, T*H*W, G) -> (B, T*H*W, C)."""
        return context_node("SpatialContext", self, ctx, gates)

    def convolve(self, ctx: Tensor, level: int) -> Tensor:
        """(B*T, C, H, W) -> (B*T, C, H, W)."""
        kernel = self.kernels[level]
        return F.conv2d(ctx, kernel, padding=kernel.shape[-1] // 2, groups=self.dim)


class TemporalContext(Context):
    """The temporal modulator: dense convolutions over the frames of each pixel."""

    mean_axes = (2,)

    def __init__(
        self, layer: SpatioTemporalFocalModulation, ctx: Affine, grid: Grid, scale: float
    ) -> None:
        super().__init__(layer, grid)
        kernels = level_kernels(layer.focal_layers_temporal)
        first, bias = project_then_convolve(ctx, kernels[0], grid.frames)
        # (O, I, k) -> (O, I, k, 1)
        self.kernels = constants(kernel[..., None] for kernel in [first, *kernels[1:]])
        self.bias = constant(bias)
        self.h = scaled_linear(layer.h_temporal, scale)
        self.plane = (grid.frames, grid.pixels)  # (B, T*H*W, C) -> (B, C, T, H*W)
        self.first_gate = layer.levels + 1  # the spatial gates come first

    def node(self, ctx: Tensor, gates: Tensor) -> Tensor:
        """Tokens (B, T*H*W, C), all gates (B, T*H*W, G) -> (B, T*H*W, C)."""
        return context_node("TemporalContext", self, ctx, gates, self.bias)

    def convolve(self, ctx: Tensor, level: int) -> Tensor:
        """(B, C, T, H*W) -> (B, C, T, H*W)."""
        kernel = self.kernels[level]
        ctx = F.conv2d(ctx, kernel, padding=(kernel.shape[2] // 2, 0))
        # the first convolution has taken over the projection, with a bias for each frame
        return ctx + self.bias if level == 0 else ctx


class Modulation(nn.Module):
    """out = proj(q * spatial modulator * temporal modulator) (arXiv 2307.06947, eq. 9)."""

    def __init__(
        self,
        layer: SpatioTemporalFocalModulation,
        norm: nn.LayerNorm | None,
        scale: Tensor | None,
        grid: Grid,
    ) -> None:
        super().__init__()
        dim = layer.dim
        spatial, temporal = affine_of(layer.f), affine_of(layer.f_temporal)
        if norm is not None:
            spatial, temporal = after_norm(spatial, norm), after_norm(temporal, norm)
        # rows of the projections: q, context and gates; context and gates
        gates = (spatial.rows(2 * dim), temporal.rows(dim))
        self.q = FoldedLinear(spatial.rows(0, dim))
        self.gates = FoldedLinear(
            Affine(torch.cat([g.weight for g in gates]), torch.cat([g.bias for g in gates]))
        )
        factor = 1 / (layer.levels + 1) if layer.normalize_modulator else 1.0
        self.spatial = SpatialContext(layer, spatial.rows(dim, 2 * dim), grid, factor)
        self.temporal = TemporalContext(layer, temporal.rows(0, dim), grid, factor)
        proj = affine_of(layer.proj)
        self.norm = None
        if layer.ln is not None:
            proj, self.norm = after_norm(proj, layer.ln), Normalize(dim)
        self.proj = FoldedLinear(proj if scale is None else before_scale(proj, scale))

    def forward(self, x: Tensor) -> Tensor:
        """(B, T*H*W, C) -> (B, T*H*W, C)."""
        gates = self.gates(x)  # (B, T*H*W, G), those of both contexts: G = 2 (levels + 1)
        x = self.q(x) * self.spatial(x, gates) * self.temporal(x, gates)
        if self.norm is not None:
            x = self.norm(x)
        out: Tensor = self.proj(x)
        return out
