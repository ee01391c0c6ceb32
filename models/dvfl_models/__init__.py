"""The PyTorch training core: Video-FocalNet, checkpoints, synthetic clips, training."""

from dvfl_models.checkpoint import load_checkpoint, read_checkpoint, save_checkpoint
from dvfl_models.macs import count_macs
from dvfl_models.video_focalnet import VARIANTS, VideoFocalNet, VideoFocalNetConfig, build_model

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
