"""What a network learns beside the classes of its recipe, and what no file of a model keeps."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dvfl_models.network.video_focalnet import VideoFocalNet
from dvfl_models.recipe.recipe import Recipe
from dvfl_models.rendered.joints import JointMaps


class WithExtras(nn.Module):
    """A network with heads for further sets of labels, or for joints, or for both.

    Args:
        network: whose own head has the classes of the recipe.
        others: the number of classes of all further sets together.
        joints: whether joints are to be found.
    """

    def __init__(self, network: VideoFocalNet, others: int, *, joints: bool) -> None:
        super().__init__()
        self.network, width = network, network.norm.normalized_shape[0]
        self.heads = nn.Linear(width, others) if others else None
        self.joints = JointMaps(width) if joints else None

    def forward(self, clips: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the logits of all classes, those of the recipe first, and of the cells."""
        tokens = self.network.forward_tokens(clips)
        features = tokens.mean((1, 2, 3))
        logits = self.network.head(features)
        if self.heads is not None:
            logits = torch.cat([logits, self.heads(features)], 1)
        return logits, None if self.joints is None else self.joints(tokens)


def with_extras(network: VideoFocalNet, recipe: Recipe) -> VideoFocalNet | WithExtras:
    """Return the network with all that a recipe wants to be learnt; without extras, itself."""
    others = sum(map(len, recipe.label_sets[1:]))
    if not others and not recipe.optim.joints:
        return network
    return WithExtras(network, others, joints=bool(recipe.optim.joints))
