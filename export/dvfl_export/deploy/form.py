"""The deploy form: a Video-FocalNet rewritten for inference, equal to the training form.

Differences to `dvfl_models.network.video_focalnet`, each drawn and measured in export/README.md:

- Input is the uint8 clip; mean and std are in the weights of the patch embedding, which is a matrix
  product over 4 x 4 x 3 patches. An overlapped embedding pads after the normalisation, so there
  the mean becomes a map of biases, one per place.
- LayerNorm's scale and shift are in the next linear; one normalisation feeds both branches.
- The temporal input projection is in the first temporal convolution, its bias in one per frame.
- The bias of a stage's last linear is in the patch embedding after it.
- LayerScale is in `proj` and `fc2` (or, with post-normalisation, in the LayerNorm); 1 / (L + 1) of
  the normalised modulator is in `h` and `h_temporal`.

T, H and W are constants of the module; the batch is free.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor, nn

from dvfl_export.deploy.folding import affine_of, after_norm, before_scale
from dvfl_export.deploy.layers import (
    FoldedLinear,
    FoldedLinearGelu,
    Grid,
    Modulation,
    Normalize,
    OverlappedEmbedding,
    PatchProduct,
)
from dvfl_models.network.config import VideoFocalNetConfig
from dvfl_models.network.video_focalnet import (
    Block,
    PatchEmbed,
    SpatioTemporalFocalModulation,
    Stage,
    VideoFocalNet,
)
from dvfl_runtime.clips.spec import ClipSpec
from dvfl_runtime.errors import ExportError

# options that the rewriting reproduces, or that change nothing at inference
KNOWN_OPTIONS = frozenset(
    {
        *("embed_dim", "depths", "num_classes", "focal_levels", "focal_windows", "mlp_ratio"),
        *("tubelet_size", "use_conv_embed", "use_layerscale", "layerscale_value", "use_postln"),
        *("use_postln_in_modulation", "normalize_modulator", "drop_path_rate"),
    }
)
SMALLEST_PX = 32  # the last stage works on 1/32 of the picture


class FoldedMlp(nn.Module):
    """The MLP of a block: Linear, GELU, Linear."""

    def __init__(self, block: Block, norm: nn.LayerNorm | None, scale: Tensor | None) -> None:
        super().__init__()
        first, second = affine_of(block.mlp.fc1), affine_of(block.mlp.fc2)
        self.fc1 = FoldedLinearGelu(first if norm is None else after_norm(first, norm))
        self.fc2 = FoldedLinear(second if scale is None else before_scale(second, scale))

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, C) -> (B, N, C)."""
        out: Tensor = self.fc2(self.fc1(x))
        return out


class DeployBlock(nn.Module):
    """Modulation and MLP, each in a residual branch; LayerNorm before or after each."""

    def __init__(self, block: Block, grid: Grid) -> None:
        super().__init__()
        dim = block.modulation.dim
        norms, gammas = (block.norm1, block.norm2), (block.gamma_1, block.gamma_2)
        self.postln = block.postln
        # a norm after a branch keeps its affine and takes LayerScale; a norm before a branch gives
        # its affine to the next linear, and LayerScale goes to the last linear of the branch
        if block.postln:
            self.norm1 = Normalize(dim, norms[0], gammas[0])
            self.norm2 = Normalize(dim, norms[1], gammas[1])
            self.modulation = Modulation(block.modulation, None, None, grid)
            self.mlp = FoldedMlp(block, None, None)
        else:
            self.norm1, self.norm2 = Normalize(dim), Normalize(dim)
            self.modulation = Modulation(block.modulation, norms[0], gammas[0], grid)
            self.mlp = FoldedMlp(block, norms[1], gammas[1])

    def forward(self, x: Tensor) -> Tensor:
        """(B, T*H*W, C) -> (B, T*H*W, C)."""
        if self.postln:
            x = x + self.norm1(self.modulation(x))
            out: Tensor = x + self.norm2(self.mlp(x))
            return out
        x = x + self.modulation(self.norm1(x))
        out = x + self.mlp(self.norm2(x))
        return out

    def give_bias(self) -> Tensor:
        """Return the bias (C,) of the last linear, which the layer after the block is to add.

        A normalisation after it has no use for that: then the bias stays, and zeros are returned.
        """
        fc2 = self.mlp.fc2
        return torch.zeros_like(fc2.bias) if self.postln else fc2.give_bias()


class DeployVideoFocalNet(nn.Module):
    """uint8 clips (B, T, H, W, 3) -> float32 logits (B, num_classes)."""

    def __init__(self, model: VideoFocalNet, spec: ClipSpec) -> None:
        super().__init__()
        grid = Grid(spec.num_frames, *spec.size)
        self.patch_embed = embedding(model.patch_embed, grid, spec)
        grid = self.patch_embed.grid
        self.layers = nn.ModuleList()
        for stage in model.layers:
            assert isinstance(stage, Stage)
            for block in stage.blocks:
                assert isinstance(block, Block)
                last = DeployBlock(block, grid)
                self.layers.append(last)
            if stage.downsample is not None:
                downsample = embedding(stage.downsample, grid, last)
                self.layers.append(downsample)
                grid = downsample.grid
        head = affine_of(model.head)
        self.norm = Normalize(model.head.in_features)
        self.head = FoldedLinear(after_norm(head, model.norm))

    def forward(self, clip: Tensor) -> Tensor:
        """(B, T, H, W, 3) uint8 RGB -> (B, num_classes) float32."""
        # the cast comes first, although uint8 patches would be smaller: TensorRT takes uint8 at an
        # input only if the first node casts it
        x = self.patch_embed(clip.to(torch.float32))
        for layer in self.layers:
            x = layer(x)
        # (B, T*H*W, C) -> (B, C), the mean over all frames and pixels
        out: Tensor = self.head(self.norm(x).mean(1))
        return out


def embedding(
    embed: PatchEmbed, source: Grid, before: ClipSpec | DeployBlock
) -> PatchProduct | OverlappedEmbedding:
    """Return the deploy form of an embedding.

    Args:
        embed: the training form.
        source: the grid of its input.
        before: what it reads: clips as the spec says, or the tokens of a block.
    """
    if embed.proj.stride != embed.proj.kernel_size:
        return OverlappedEmbedding(embed, source, before if isinstance(before, ClipSpec) else None)
    taken = before if isinstance(before, ClipSpec) else before.give_bias()
    return PatchProduct(embed, source, taken)


def check_config(config: VideoFocalNetConfig, spec: ClipSpec) -> None:
    """Refuse options that the deploy form cannot reproduce.

    Raises:
        ExportError: naming the option and its value.
    """
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if field.name not in KNOWN_OPTIONS and value != field.default:
            raise ExportError(
                f"the deploy form does not know the option {field.name}={value!r}; export a model "
                f"with {field.name}={field.default!r}"
            )
    if spec.num_frames % config.tubelet_size:
        raise ExportError(
            f"num_frames={spec.num_frames} is not a multiple of tubelet_size="
            f"{config.tubelet_size}, so frames would be left out; choose a multiple"
        )
    if min(spec.size) < SMALLEST_PX:
        raise ExportError(
            f"size={spec.size} leaves nothing for the last stage; the least is "
            f"({SMALLEST_PX}, {SMALLEST_PX})"
        )


def check_layers(model: VideoFocalNet) -> None:
    """Refuse a model with exchanged layers or damaged weights.

    Raises:
        ExportError: naming the layer or the weight.
    """
    for name, module in model.named_modules():
        activations = {}
        if isinstance(module, SpatioTemporalFocalModulation):
            for stack in ("focal_layers", "focal_layers_temporal"):
                for level, layer in enumerate(getattr(module, stack)):
                    activations[f"{name}.{stack}.{level}"] = layer[-1]
        for place, activation in activations.items():
            if not isinstance(activation, nn.GELU) or activation.approximate != "none":
                raise ExportError(
                    f"{place} ends in {activation}; the deploy form has the exact GELU only"
                )
    for name, weight in model.state_dict().items():
        if not bool(torch.isfinite(weight).all()):
            raise ExportError(f"weight {name} holds NaN or infinity; the checkpoint is damaged")


def deploy_form(model: VideoFocalNet, spec: ClipSpec) -> DeployVideoFocalNet:
    """Rewrite a trained model for inference on clips of one length and size.

    Args:
        model: any configuration; left unchanged.
        spec: gives T, H, W, mean and std.

    Returns:
        uint8 (B, T, H, W, 3) RGB -> float32 (B, num_classes), in eval mode; equal to the training
        form on the normalised clip up to float32 rounding.

    Raises:
        ExportError: if an option, a layer, a weight or the spec cannot be reproduced exactly.
    """
    check_config(model.config, spec)
    check_layers(model)
    with torch.no_grad():
        return DeployVideoFocalNet(model, spec).eval()
