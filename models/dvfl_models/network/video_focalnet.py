"""Video-FocalNet (arXiv 2307.06947) and its distilled `nano` form, DVFL-Net (arXiv 2507.12426).

Deviations from the official modules, none of which changes a number at inference:

- Tokens keep the layout (B, T, H, W, C) from the patch embedding to the head. T, H and W are read
  from the input: one module serves any number of frames and any size.
- The temporal convolutions run as (k, 1) convolutions over (B, C, T, H*W) instead of as
  convolutions over B*H*W sequences of length T. Their weights keep the official shape (C, C, k).
- `forward` stores nothing on a module: gates and modulators are local values.
- Stochastic depth drops a block for a whole clip, not for single frames of it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from dvfl_models.network.config import NUM_STAGES, PATCH_SIZE, VARIANTS, VideoFocalNetConfig
from dvfl_runtime.errors import ArgumentError

Layer = Callable[[Tensor], Tensor]


class Modulators(NamedTuple):
    """The factors of a block's queries, each (B, T, H, W, C) (arXiv 2307.06947, eq. 9)."""

    spatial: Tensor
    temporal: Tensor


def focal_kernels(window: int, levels: int) -> list[int]:
    """Return the kernel sizes of the context levels: `window`, `window + 2`, ..."""
    return [window + 2 * level for level in range(levels)]


class DropPath(nn.Module):
    """Stochastic depth: in training, drops the branch of a whole clip with probability `rate`."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """(B, ...) -> (B, ...)."""
        if not self.training or self.rate == 0:
            return x
        keep = torch.rand(x.shape[0], *[1] * (x.dim() - 1), device=x.device) >= self.rate
        return x * keep / (1 - self.rate)  # keeps the expected value of the branch


class PatchEmbed(nn.Module):
    """A strided convolution of each frame (or tubelet), then LayerNorm."""

    def __init__(self, in_dim: int, dim: int, config: VideoFocalNetConfig, *, stem: bool) -> None:
        super().__init__()
        self.tubelet = config.tubelet_size if stem else 1
        self.proj: nn.Conv2d | nn.Conv3d
        stride = PATCH_SIZE if stem else 2
        if self.tubelet > 1:
            kernel = (self.tubelet, stride, stride)
            self.proj = nn.Conv3d(in_dim, dim, kernel, stride=kernel)
        elif config.use_conv_embed:
            kernel_size, padding = (7, 2) if stem else (3, 1)
            self.proj = nn.Conv2d(in_dim, dim, kernel_size, stride=stride, padding=padding)
        else:
            self.proj = nn.Conv2d(in_dim, dim, stride, stride=stride)
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, C, H, W) -> (B, T', H', W', dim)."""
        if self.tubelet > 1:
            # (B, T, C, H, W) -> (B, C, T, H, W) -> (B, dim, T', H', W') -> (B, T', H', W', dim)
            x = self.proj(x.transpose(1, 2)).permute(0, 2, 3, 4, 1)
        else:
            batch, frames = x.shape[:2]
            # (B, T, C, H, W) -> (B*T, C, H, W) -> (B*T, dim, H', W') -> (B*T, H', W', dim)
            x = self.proj(x.flatten(0, 1)).permute(0, 2, 3, 1)
            x = x.reshape(batch, frames, *x.shape[1:])
        out: Tensor = self.norm(x)
        return out


def gather_context(
    ctx: Tensor, gates: Tensor, layers: nn.ModuleList | list[nn.Module], dims: tuple[int, ...]
) -> Tensor:
    """Return the gated sum (N, C, *P) of the contexts of all levels (2307.06947, eq. 5-8).

    Args:
        ctx: (N, C, *P), the projected tokens.
        gates: (N, L + 1, *P), a weight for each level and one for the global context.
        layers: the L context layers, each (N, C, *P) -> (N, C, *P), activation included.
        dims: the dimensions over which the global context is averaged.
    """
    total = torch.zeros_like(ctx)
    for level, layer in enumerate(layers):
        ctx = layer(ctx)
        total = total + ctx * gates[:, level : level + 1]
    return total + F.gelu(ctx.mean(dims, keepdim=True)) * gates[:, len(layers) :]


class TemporalConv(nn.Conv1d):
    """A dense convolution over time, computed for all pixels at once."""

    def __init__(self, dim: int, kernel: int) -> None:
        super().__init__(dim, dim, kernel, padding=kernel // 2, bias=False)

    def forward(self, input: Tensor) -> Tensor:
        """(B, C, T, H*W) -> (B, C, T, H*W)."""
        return F.conv2d(input, self.weight.unsqueeze(-1), padding=(self.kernel_size[0] // 2, 0))


class SpatioTemporalFocalModulation(nn.Module):
    """out = proj(q * spatial modulator * temporal modulator) (arXiv 2307.06947, eq. 9)."""

    def __init__(self, dim: int, window: int, levels: int, config: VideoFocalNetConfig) -> None:
        super().__init__()
        self.dim, self.levels = dim, levels
        self.normalize_modulator = config.normalize_modulator
        self.f = nn.Linear(dim, 2 * dim + levels + 1)
        self.h = nn.Conv2d(dim, dim, 1)
        self.proj = nn.Linear(dim, dim)
        self.f_temporal = nn.Linear(dim, dim + levels + 1)
        self.h_temporal = nn.Conv1d(dim, dim, 1)
        kernels = focal_kernels(window, levels)
        self.focal_layers = nn.ModuleList(
            nn.Sequential(nn.Conv2d(dim, dim, k, padding=k // 2, groups=dim, bias=False), nn.GELU())
            for k in kernels
        )
        self.focal_layers_temporal = nn.ModuleList(
            nn.Sequential(TemporalConv(dim, k), nn.GELU()) for k in kernels
        )
        self.ln = nn.LayerNorm(dim) if config.use_postln_in_modulation else None

    def modulators(self, ctx: Tensor, gates: Tensor, temporal: Tensor) -> Modulators:
        """Return the spatial and the temporal modulator.

        Args:
            ctx: (B, T, H, W, C), the tokens projected for the spatial context.
            gates: (B, T, H, W, L + 1), of the spatial levels.
            temporal: (B, T, H, W, C + L + 1), the same for the temporal context, and its gates.
        """
        batch, frames, height, width, dim = ctx.shape
        scale = 1 / (self.levels + 1) if self.normalize_modulator else 1.0
        # (B, T, H, W, C) -> (B*T, C, H, W), a view that is channels-last in memory
        ctx = ctx.flatten(0, 1).permute(0, 3, 1, 2)
        gates = gates.flatten(0, 1).permute(0, 3, 1, 2)
        spatial = gather_context(ctx, gates, self.focal_layers, (2, 3)) * scale
        # (B*T, C, H, W) -> (B, T, H, W, C)
        spatial = self.h(spatial).permute(0, 2, 3, 1).reshape(batch, frames, height, width, dim)
        # (B, T, H, W, C + L + 1) -> (B, C + L + 1, T, H*W)
        temporal = temporal.flatten(2, 3).permute(0, 3, 1, 2)
        ctx, gates = torch.split(temporal, [dim, self.levels + 1], dim=1)
        across = gather_context(ctx, gates, self.focal_layers_temporal, (2,)) * scale
        across = F.conv2d(across, self.h_temporal.weight.unsqueeze(-1), self.h_temporal.bias)
        # (B, C, T, H*W) -> (B, T, H, W, C)
        across = across.permute(0, 2, 3, 1).reshape(batch, frames, height, width, dim)
        return Modulators(spatial, across)

    def forward(self, x: Tensor, collected: list[Modulators] | None = None) -> Tensor:
        """(B, T, H, W, C) -> the same shape; appends its modulators to `collected`, if given."""
        q, ctx, gates = torch.split(self.f(x), [self.dim, self.dim, self.levels + 1], dim=-1)
        modulators = self.modulators(ctx, gates, self.f_temporal(x))
        if collected is not None:
            collected.append(modulators)
        x = q * modulators.spatial * modulators.temporal
        if self.ln is not None:
            x = self.ln(x)
        out: Tensor = self.proj(x)
        return out


class Mlp(nn.Module):
    """Linear, GELU, Linear."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) -> (..., C)."""
        out: Tensor = self.fc2(F.gelu(self.fc1(x)))
        return out


class Block(nn.Module):
    """Modulation and MLP, each in a residual branch."""

    def __init__(
        self, dim: int, window: int, levels: int, config: VideoFocalNetConfig, drop_path: float
    ) -> None:
        super().__init__()
        self.postln = config.use_postln
        self.norm1 = nn.LayerNorm(dim)
        self.modulation = SpatioTemporalFocalModulation(dim, window, levels, config)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, int(dim * config.mlp_ratio))
        self.drop_path = DropPath(drop_path)
        scale = torch.full((dim,), config.layerscale_value)
        self.gamma_1 = nn.Parameter(scale) if config.use_layerscale else None
        self.gamma_2 = nn.Parameter(scale.clone()) if config.use_layerscale else None

    def branch(self, x: Tensor, norm: nn.Module, layer: Layer, gamma: Tensor | None) -> Tensor:
        """Compute one residual branch: `layer` with its normalisation, then LayerScale."""
        out: Tensor = norm(layer(x)) if self.postln else layer(norm(x))
        dropped: Tensor = self.drop_path(out if gamma is None else gamma * out)
        return dropped

    def forward(self, x: Tensor, collected: list[Modulators] | None = None) -> Tensor:
        """(B, T, H, W, C) -> the same shape; appends its modulators to `collected`, if given."""
        modulation = partial(self.modulation, collected=collected)
        x = x + self.branch(x, self.norm1, modulation, self.gamma_1)
        return x + self.branch(x, self.norm2, self.mlp, self.gamma_2)


class Stage(nn.Module):
    """Blocks of one width, then the embedding into the next."""

    def __init__(self, index: int, config: VideoFocalNetConfig, rates: Iterator[float]) -> None:
        super().__init__()
        dim = config.embed_dim * 2**index
        self.blocks = nn.ModuleList(
            Block(dim, config.focal_windows[index], config.focal_levels[index], config, rate)
            for _, rate in zip(range(config.depths[index]), rates, strict=False)
        )
        last = index + 1 == NUM_STAGES
        self.downsample = None if last else PatchEmbed(dim, 2 * dim, config, stem=False)
        self.checkpointing = False

    def forward(self, x: Tensor, collected: list[Modulators] | None = None) -> Tensor:
        """(B, T, H, W, C) -> (B, T, H/2, W/2, 2C), or the same shape in the last stage.

        Appends the modulators of its last block to `collected`, if that is given.
        """
        *first, last = self.blocks
        run = _recomputed if self.checkpointing and torch.is_grad_enabled() else _computed
        for block in first:
            x = run(block, x, None)
        x = run(last, x, collected)
        if self.downsample is not None:
            x = self.downsample(x.permute(0, 1, 4, 2, 3))  # (B, T, H, W, C) -> (B, T, C, H, W)
        return x


def _computed(block: nn.Module, x: Tensor, collected: list[Modulators] | None) -> Tensor:
    out: Tensor = block(x, collected)
    return out


def _recomputed(block: nn.Module, x: Tensor, collected: list[Modulators] | None) -> Tensor:
    """Run a block, of which autograd keeps the input alone and computes the rest once more."""

    def run(x: Tensor) -> tuple[Tensor, list[Modulators]]:
        found: list[Modulators] = []  # of this run, because the second one gives them again
        return block(x, found), found

    out, found = checkpoint(run, x, use_reentrant=False)
    if collected is not None:
        collected += found
    result: Tensor = out
    return result


class VideoFocalNet(nn.Module):
    """Patch embedding, four stages, LayerNorm, mean over pixels and frames, linear head."""

    def __init__(self, config: VideoFocalNetConfig) -> None:
        super().__init__()
        self.config = config
        last = max(sum(config.depths) - 1, 1)
        rates = iter(config.drop_path_rate * block / last for block in range(last + 1))
        self.patch_embed = PatchEmbed(3, config.embed_dim, config, stem=True)
        self.layers = nn.ModuleList(Stage(index, config, rates) for index in range(NUM_STAGES))
        dim = config.embed_dim * 2 ** (NUM_STAGES - 1)
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, config.num_classes)
        init_weights(self, "official")

    def recompute_blocks(self) -> None:
        """Compute each block twice in training instead of keeping its values: less memory."""
        for stage in self.layers:
            assert isinstance(stage, Stage)
            stage.checkpointing = True

    def forward_stages(
        self, clip: Tensor, collected: list[Modulators] | None = None
    ) -> list[Tensor]:
        """(B, T, 3, H, W) normalised -> the tokens (B, T, H, W, C) after each of the stages."""
        tokens = [self.patch_embed(clip)]
        for stage in self.layers:
            tokens.append(stage(tokens[-1], collected))
        return tokens[1:]

    def forward_tokens(self, clip: Tensor, collected: list[Modulators] | None = None) -> Tensor:
        """Return the normalised tokens of the last stage, (B, T, H, W, C), for the head."""
        tokens: Tensor = self.norm(self.forward_stages(clip, collected)[-1])
        return tokens

    def forward(
        self, clip: Tensor, return_modulators: bool = False
    ) -> Tensor | tuple[Tensor, list[Modulators]]:
        """Compute the logits of normalised clips: (B, T, 3, H, W) float -> (B, num_classes).

        With `return_modulators` also return those of the last block of each of the four stages.
        """
        collected: list[Modulators] | None = [] if return_modulators else None
        # (B, T, H, W, C) -> (B, C) -> (B, num_classes)
        logits: Tensor = self.head(self.forward_tokens(clip, collected).mean((1, 2, 3)))
        return logits if collected is None else (logits, collected)


def init_weights(model: nn.Module, scheme: str) -> None:
    """Initialise all Linear layers; the convolutions keep PyTorch's own initialisation.

    Args:
        model: changed in place.
        scheme: "official" (truncated normal, 0.02) or "xavier" (Xavier uniform). The modulation is
            a product of three projections: with 0.02 it starts on a plateau, so a network trained
            from scratch learns two to three times sooner with "xavier" (measured; models/README).

    Raises:
        ArgumentError: if the scheme is unknown.
    """
    if scheme not in ("official", "xavier"):
        raise ArgumentError(f"init must be 'official' or 'xavier', got {scheme!r}")
    truncated = partial(nn.init.trunc_normal_, std=0.02)
    fill: Layer = truncated if scheme == "official" else nn.init.xavier_uniform_
    for module in model.modules():
        if isinstance(module, nn.Linear):
            fill(module.weight)
            nn.init.zeros_(module.bias)


def build_model(
    variant: str, *, num_classes: int = 101, drop_path_rate: float = 0.0
) -> VideoFocalNet:
    """Build a variant by name, with the official initialisation.

    Raises:
        ArgumentError: if the variant is unknown.
    """
    if variant not in VARIANTS:
        raise ArgumentError(f"unknown variant {variant!r}; known are {', '.join(VARIANTS)}")
    base = VARIANTS[variant]
    config = replace(base, num_classes=num_classes, drop_path_rate=drop_path_rate)
    return VideoFocalNet(config)


def count_macs(model: nn.Module, clip_shape: tuple[int, int, int, int]) -> int:
    """Count the multiply-accumulates (MACs) of matrix products and convolutions for one clip.

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
