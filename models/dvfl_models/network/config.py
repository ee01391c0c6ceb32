"""Configurations of Video-FocalNet: its options, the six variants, and the smallest picture."""

from __future__ import annotations

from dataclasses import dataclass

from dvfl_runtime.errors import ArgumentError

PATCH_SIZE = 4  # px per side of a token of the first stage; each later stage halves the picture
NUM_STAGES = 4
MIN_SIDE_PX = PATCH_SIZE * 2 ** (NUM_STAGES - 1)  # leaves one token in the last stage


@dataclass(frozen=True)
class VideoFocalNetConfig:
    """Everything that defines a network, by the names of the official configuration.

    Attributes:
        embed_dim: channels of the first stage; each later stage doubles them.
        depths: blocks in each of the four stages.
        num_classes: width of the logits.
        focal_levels: L per stage, the number of context levels.
        focal_windows: kernel of the first level per stage; each next level adds 2.
        mlp_ratio: hidden width of the MLP, in widths of the stage.
        tubelet_size: frames per patch; 1 embeds each frame by itself.
        use_conv_embed: overlapped embeddings (7x7 stride 4, then 3x3 stride 2).
        use_layerscale: scale each residual branch by a learnt vector.
        layerscale_value: initial value of that vector.
        use_postln: normalise the output of a branch instead of its input.
        use_postln_in_modulation: normalise the modulated tokens, before their projection.
        normalize_modulator: divide the gathered context by L + 1.
        drop_path_rate: stochastic depth of the last block; earlier ones grow linearly to it.

    Raises:
        ArgumentError: if a value is out of range or two options exclude each other.
    """

    embed_dim: int = 96
    depths: tuple[int, ...] = (1, 1, 2, 1)
    num_classes: int = 101
    focal_levels: tuple[int, ...] = (2, 2, 2, 2)
    focal_windows: tuple[int, ...] = (3, 3, 3, 3)
    mlp_ratio: float = 4.0
    tubelet_size: int = 1
    use_conv_embed: bool = False
    use_layerscale: bool = False
    layerscale_value: float = 1e-4
    use_postln: bool = False
    use_postln_in_modulation: bool = False
    normalize_modulator: bool = False
    drop_path_rate: float = 0.0

    def __post_init__(self) -> None:
        for name in ("depths", "focal_levels", "focal_windows"):
            values = tuple(getattr(self, name))  # JSON and TOML bring lists
            object.__setattr__(self, name, values)
            if len(values) != NUM_STAGES or min(values) < 1:
                raise ArgumentError(f"{name} must be {NUM_STAGES} numbers >= 1, got {values}")
        for name in ("embed_dim", "num_classes", "tubelet_size"):
            if getattr(self, name) < 1:
                raise ArgumentError(f"{name} must be >= 1, got {getattr(self, name)}")
        if any(window % 2 == 0 for window in self.focal_windows):
            raise ArgumentError(f"focal_windows must be odd, got {self.focal_windows}")
        if self.tubelet_size > 1 and self.use_conv_embed:
            raise ArgumentError("use_conv_embed works on single frames; set tubelet_size=1 with it")
        if not 0 <= self.drop_path_rate < 1:
            raise ArgumentError(f"drop_path_rate must be in [0, 1), got {self.drop_path_rate}")


VARIANTS: dict[str, VideoFocalNetConfig] = {
    "femto": VideoFocalNetConfig(embed_dim=32, depths=(1, 1, 2, 1)),
    "pico": VideoFocalNetConfig(embed_dim=48, depths=(1, 1, 2, 1)),
    "nano": VideoFocalNetConfig(embed_dim=96, depths=(1, 1, 2, 1)),
    "tiny": VideoFocalNetConfig(embed_dim=96, depths=(2, 2, 6, 2)),
    "small": VideoFocalNetConfig(embed_dim=96, depths=(2, 2, 18, 2)),
    "base": VideoFocalNetConfig(embed_dim=128, depths=(2, 2, 18, 2)),
}


def check_size(size: tuple[int, int]) -> None:
    """Raise ArgumentError if pictures of (H, W) px are too small for the four stages."""
    if min(size) < MIN_SIDE_PX:
        raise ArgumentError(f"size must be at least {MIN_SIDE_PX} px on each side, got {size}")
