"""The official formulation of Video-FocalNet, as a baseline for the deploy form.

Written from the papers (arXiv 2307.06947, 2507.12426) and from known facts about the released
modules, with their structure kept where it costs time on a device:

- (B, T, C, H, W) float clips, normalised outside the network (here: before it, in the graph).
- Tokens (B*T, H*W, C); each module reshapes to pictures and back.
- Both projections read the same normalised tokens, each after an affine of its own.
- The temporal convolutions run over B*H*W sequences of length T.
- GELU is exact; exported as torch writes it: Div, Erf, Add, Mul, Mul.

Parameters have the official names and shapes, so one state_dict serves both forms.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dvfl_models.network.config import PATCH_SIZE, VideoFocalNetConfig
from dvfl_models.network.video_focalnet import focal_kernels
from dvfl_runtime.clips.spec import ClipSpec


class OfficialModulation(nn.Module):
    """Spatio-temporal focal modulation over tokens of single frames."""

    def __init__(self, dim: int, window: int, levels: int, config: VideoFocalNetConfig) -> None:
        super().__init__()
        self.dim, self.levels = dim, levels
        self.normalize_modulator = config.normalize_modulator
        self.f = nn.Linear(dim, 2 * dim + levels + 1)
        self.h = nn.Conv2d(dim, dim, 1)
        self.proj = nn.Linear(dim, dim)
        self.f_temporal = nn.Linear(dim, dim + levels + 1)
        self.h_temporal = nn.Conv1d(dim, dim, 1)
        self.focal_layers, self.focal_layers_temporal = nn.ModuleList(), nn.ModuleList()
        for k in focal_kernels(window, levels):
            space = nn.Conv2d(dim, dim, k, padding=k // 2, groups=dim, bias=False)
            time = nn.Conv1d(dim, dim, k, padding=k // 2, bias=False)
            self.focal_layers.append(nn.Sequential(space, nn.GELU()))
            self.focal_layers_temporal.append(nn.Sequential(time, nn.GELU()))
        self.ln = nn.LayerNorm(dim) if config.use_postln_in_modulation else None

    def gather(self, ctx: Tensor, gates: Tensor, layers: nn.ModuleList) -> Tensor:
        """(N, C, *P) context and (N, L + 1, *P) gates -> (N, C, *P)."""
        total: Tensor | float = 0.0
        for level, layer in enumerate(layers):
            ctx = layer(ctx)
            total = total + ctx * gates[:, level : level + 1]
        for axis in range(2, ctx.dim()):
            ctx = ctx.mean(axis, keepdim=True)
        total = total + F.gelu(ctx) * gates[:, self.levels :]
        return total / (self.levels + 1) if self.normalize_modulator else total

    def forward(self, x: Tensor, frames: int) -> Tensor:
        """(B*T, H, W, C) -> (B*T, H, W, C)."""
        height, width, dim = x.shape[1:]
        # (B*T, H, W, C) -> (B*T, C, H, W)
        q, ctx, gates = torch.split(
            self.f(x).permute(0, 3, 1, 2), [dim, dim, self.levels + 1], dim=1
        )
        modulator = self.h(self.gather(ctx, gates, self.focal_layers))
        # (B*T, H, W, C) -> (B, T, H, W, C) -> (B, H, W, T, C) -> (B*H*W, T, C)
        tokens = x.reshape(-1, frames, height, width, dim).permute(0, 2, 3, 1, 4)
        tokens = tokens.reshape(-1, frames, dim)
        tokens = self.f_temporal(tokens).permute(0, 2, 1)  # (B*H*W, C + L + 1, T)
        ctx, gates = torch.split(tokens, [dim, self.levels + 1], dim=1)
        across = self.h_temporal(self.gather(ctx, gates, self.focal_layers_temporal))
        # (B*H*W, C, T) -> (B, H, W, C, T) -> (B*T, C, H, W)
        across = across.reshape(-1, height, width, dim, frames)
        across = across.permute(0, 4, 3, 1, 2).reshape(-1, dim, height, width)
        x = (q * modulator * across).permute(0, 2, 3, 1)  # (B*T, C, H, W) -> (B*T, H, W, C)
        if self.ln is not None:
            x = self.ln(x)
        out: Tensor = self.proj(x)
        return out


class OfficialMlp(nn.Module):
    """The MLP of a block: Linear, GELU, Linear."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1, self.act, self.fc2 = nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) -> (..., C)."""
        out: Tensor = self.fc2(self.act(self.fc1(x)))
        return out


class OfficialBlock(nn.Module):
    """Modulation and MLP, each in a residual branch."""

    def __init__(self, dim: int, window: int, levels: int, config: VideoFocalNetConfig) -> None:
        super().__init__()
        self.postln = config.use_postln
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.modulation = OfficialModulation(dim, window, levels, config)
        self.mlp = OfficialMlp(dim, int(dim * config.mlp_ratio))
        self.gamma_1: nn.Parameter | float = 1.0
        self.gamma_2: nn.Parameter | float = 1.0
        if config.use_layerscale:
            self.gamma_1, self.gamma_2 = (
                nn.Parameter(torch.ones(dim)),
                nn.Parameter(torch.ones(dim)),
            )

    def forward(self, x: Tensor, frames: int, size: tuple[int, int]) -> Tensor:
        """(B*T, H*W, C) -> (B*T, H*W, C)."""
        shortcut = x
        x = x if self.postln else self.norm1(x)
        # (B*T, H*W, C) -> (B*T, H, W, C), and back
        x = self.modulation(x.reshape(-1, *size, x.shape[-1]), frames)
        x = x.reshape(-1, size[0] * size[1], x.shape[-1])
        x = self.norm1(x) if self.postln else x
        x = shortcut + (x if isinstance(self.gamma_1, float) else self.gamma_1 * x)
        y: Tensor = self.norm2(self.mlp(x)) if self.postln else self.mlp(self.norm2(x))
        out: Tensor = x + (y if isinstance(self.gamma_2, float) else self.gamma_2 * y)
        return out


class OfficialEmbed(nn.Module):
    """A strided convolution per frame (or tubelet), then LayerNorm over tokens."""

    def __init__(self, in_dim: int, dim: int, config: VideoFocalNetConfig, *, stem: bool) -> None:
        super().__init__()
        self.proj: nn.Conv2d | nn.Conv3d
        stride = PATCH_SIZE if stem else 2
        if stem and config.tubelet_size > 1:
            kernel = (config.tubelet_size, stride, stride)
            self.proj = nn.Conv3d(in_dim, dim, kernel, stride=kernel)
        elif config.use_conv_embed:
            overlap, padding = (7, 2) if stem else (3, 1)
            self.proj = nn.Conv2d(in_dim, dim, overlap, stride=stride, padding=padding)
        else:
            self.proj = nn.Conv2d(in_dim, dim, stride, stride=stride)
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """(N, I, H, W), or (B, I, T, H, W) for tubelets -> tokens (N', H'*W', O) and (H', W')."""
        x = self.proj(x)
        if x.dim() == 5:
            x = x.transpose(1, 2).flatten(0, 1)  # (B, O, T', H', W') -> (B*T', O, H', W')
        height, width = x.shape[2:]
        # (N', O, H', W') -> (N', H'*W', O)
        return self.norm(x.flatten(2).transpose(1, 2)), (int(height), int(width))


class OfficialStage(nn.Module):
    """Blocks of one width, then the embedding into the next."""

    def __init__(self, index: int, config: VideoFocalNetConfig) -> None:
        super().__init__()
        dim = config.embed_dim * 2**index
        shape = (dim, config.focal_windows[index], config.focal_levels[index], config)
        self.blocks = nn.ModuleList(OfficialBlock(*shape) for _ in range(config.depths[index]))
        last = index + 1 == len(config.depths)
        self.downsample = None if last else OfficialEmbed(dim, 2 * dim, config, stem=False)

    def forward(
        self, x: Tensor, frames: int, size: tuple[int, int]
    ) -> tuple[Tensor, tuple[int, int]]:
        """(B*T, H*W, C) and (H, W) -> the same of the next stage."""
        for block in self.blocks:
            x = block(x, frames, size)
        if self.downsample is None:
            return x, size
        # (B*T, H*W, C) -> (B*T, C, H, W)
        pictures = x.transpose(1, 2).reshape(-1, x.shape[-1], *size)
        out: tuple[Tensor, tuple[int, int]] = self.downsample(pictures)
        return out


class OfficialVideoFocalNet(nn.Module):
    """The network as released: float clips (B, T, 3, H, W) -> logits (B, num_classes)."""

    def __init__(self, config: VideoFocalNetConfig) -> None:
        super().__init__()
        self.tubelet = config.tubelet_size
        self.patch_embed = OfficialEmbed(3, config.embed_dim, config, stem=True)
        self.layers = nn.ModuleList(OfficialStage(i, config) for i in range(len(config.depths)))
        dim = config.embed_dim * 2 ** (len(config.depths) - 1)
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, config.num_classes)

    def forward(self, clip: Tensor) -> Tensor:
        """(B, T, 3, H, W) normalised -> (B, num_classes)."""
        frames = clip.shape[1] // self.tubelet
        # (B, T, 3, H, W) -> (B, 3, T, H, W) for tubelets, or else -> (B*T, 3, H, W)
        x = clip.transpose(1, 2) if self.tubelet > 1 else clip.flatten(0, 1)
        x, size = self.patch_embed(x)
        for layer in self.layers:
            x, size = layer(x, frames, size)
        # (B*T, H*W, C) -> (B*T, C) -> (B, T, C) -> (B, C)
        x = self.norm(x).transpose(1, 2).mean(2)
        out: Tensor = self.head(x.reshape(-1, frames, x.shape[-1]).mean(1))
        return out


class OfficialForm(nn.Module):
    """The network as released, with the same input as the deploy form: a uint8 clip."""

    def __init__(self, config: VideoFocalNetConfig, spec: ClipSpec) -> None:
        super().__init__()
        self.network = OfficialVideoFocalNet(config)
        self.register_buffer("mean", torch.tensor(spec.mean), persistent=False)
        self.register_buffer("std", torch.tensor(spec.std), persistent=False)
        self.mean: Tensor
        self.std: Tensor

    def forward(self, clip: Tensor) -> Tensor:
        """(B, T, H, W, 3) uint8 RGB -> (B, num_classes) float32."""
        x = (clip.to(torch.float32) - self.mean) / self.std
        # (B, T, H, W, C) -> (B, T, C, H, W)
        out: Tensor = self.network(x.permute(0, 1, 4, 2, 3))
        return out


def official_form(
    config: VideoFocalNetConfig, state: dict[str, Tensor], spec: ClipSpec
) -> OfficialForm:
    """Return the baseline with the weights of a checkpoint, in eval mode.

    Raises:
        RuntimeError: if the weights do not fit the configuration.
    """
    form = OfficialForm(config, spec)
    form.network.load_state_dict(state, strict=True)
    return form.eval()
