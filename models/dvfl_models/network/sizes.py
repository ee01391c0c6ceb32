"""How small the pictures of a network may be."""

from __future__ import annotations

from dvfl_models.network.video_focalnet import NUM_STAGES, PATCH_SIZE
from dvfl_runtime.errors import ArgumentError

MIN_SIDE_PX = PATCH_SIZE * 2 ** (NUM_STAGES - 1)  # one token is left in the last stage


def check_size(size: tuple[int, int]) -> None:
    """Raises ArgumentError if pictures of (H, W) px are too small for the four stages."""
    if min(size) < MIN_SIDE_PX:
        raise ArgumentError(f"size must be at least {MIN_SIDE_PX} px on each side, got {size}")
