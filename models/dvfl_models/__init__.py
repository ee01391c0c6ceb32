"""The PyTorch training core: Video-FocalNet, checkpoints, synthetic clips, training."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dvfl_models.network.checkpoint import load_checkpoint, read_checkpoint, save_checkpoint
    from dvfl_models.network.config import VARIANTS, VideoFocalNetConfig
    from dvfl_models.network.video_focalnet import VideoFocalNet, build_model, count_macs

__all__ = [
    "VARIANTS",
    "VideoFocalNet",
    "VideoFocalNetConfig",
    "build_model",
    "count_macs",
    "load_checkpoint",
    "read_checkpoint",
    "save_checkpoint",
]


def __getattr__(name: str) -> Any:
    """Import PyTorch when a name is used, so that `dvfl-train` can set up its threads before."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = "config" if name in ("VARIANTS", "VideoFocalNetConfig") else "video_focalnet"
    module = "checkpoint" if name.endswith("_checkpoint") else module
    return getattr(importlib.import_module(f"{__name__}.network.{module}"), name)
