"""Networks whose first stages keep their weights: what those compute is kept, the rest is trained.

The last two stages hold 93 % of the parameters of femto and take a third of the time of a step.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from dvfl_models.network.video_focalnet import VideoFocalNet
from dvfl_models.studies.kept_clips import (
    Clips,
    RandomForms,
    bf16_where_fast,
    centre_clips,
    normalised,
)


class LastStages(nn.Module):
    """The stages of a network after the first ones, and its head: tokens in, logits out."""

    def __init__(self, model: VideoFocalNet, frozen: int) -> None:
        super().__init__()
        self.layers, self.norm, self.head = model.layers[frozen:], model.norm, model.head

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, T, H, W, C) -> (B, num_classes)."""
        for stage in self.layers:
            tokens = stage(tokens)
        logits: Tensor = self.head(self.norm(tokens).mean((1, 2, 3)))
        return logits


class KeptTokens:
    """Tokens of random forms of all videos, and of the clips to test on, after frozen stages.

    Args:
        path: of the file that `write` has written; it is mapped, so that processes share it.
    """

    def __init__(self, path: Path) -> None:
        kept = torch.load(path, weights_only=True, mmap=True)
        self.forms: Tensor = kept["forms"]  # (V, N, T, H, W, C) bf16
        self.centres: Tensor = kept["centres"]  # (N, T, H, W, C)

    def random(self, videos: Tensor) -> Tensor:
        """Return one form of each of some videos."""
        return self.forms[torch.randint(len(self.forms), (len(videos),)), videos]

    @staticmethod
    @torch.inference_mode()
    def write(
        model: VideoFocalNet, frozen: int, clips: Clips, forms: RandomForms, views: int, path: Path
    ) -> None:
        """Compute the tokens of `views` forms of each video after `frozen` stages; keep bf16."""
        model.eval()

        def tokens(made: Tensor) -> Tensor:
            with bf16_where_fast(made.device):
                out = model.patch_embed(normalised(made))
                for stage in model.layers[:frozen]:
                    out = stage(out)
            kept: Tensor = out.bfloat16().cpu()
            return kept

        torch.manual_seed(0)
        parts = torch.arange(len(clips.classes), device=forms.device).split(64)
        made = [torch.cat([tokens(forms(some)[0]) for some in parts]) for _ in range(views)]
        centres = [tokens(centre_clips(clips, some.cpu()).to(forms.device)) for some in parts]
        torch.save({"forms": torch.stack(made), "centres": torch.cat(centres)}, path)
