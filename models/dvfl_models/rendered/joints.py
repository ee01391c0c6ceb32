"""Where the joints are: a second task of training, on rendered clips alone.

A class says little about a clip, the places of a figure's joints in each frame say much, and the
renderer knows them. A linear layer reads them from the tokens that the classifier averages, as
maps of cells (heatmaps, as in arXiv 1804.06208), and is dropped after training: the network stays
as it is.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dvfl_models.network.video_focalnet import VideoFocalNet
from dvfl_models.rendered.figures import JOINTS

CELLS = 8  # per token and side: a cell has 4 px, a token of the last stage 32
KINDS = (len(JOINTS) + 1) // 2  # the head, shoulders, elbows, ...


class JointMaps(nn.Module):
    """Reads the joints from tokens.

    Args:
        dim: channels of a token.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.cells = nn.Linear(dim, KINDS * CELLS * CELLS)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, T, H, W, C) -> (B, T, KINDS, 8 H, 8 W), the logits of the cells."""
        cells = self.cells(tokens).flatten(0, 1).permute(0, 3, 1, 2)  # (B * T, KINDS * 64, H, W)
        maps: Tensor = F.pixel_shuffle(cells, CELLS).unflatten(0, tokens.shape[:2])
        return maps


class WithJoints(nn.Module):
    """A network that also tells where the joints are."""

    def __init__(self, network: VideoFocalNet) -> None:
        super().__init__()
        self.network, self.joints = network, JointMaps(network.norm.normalized_shape[0])

    def forward(self, clips: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T, 3, H, W) normalised -> logits of the classes and of the cells."""
        tokens = self.network.forward_tokens(clips)
        return self.network.head(tokens.mean((1, 2, 3))), self.joints(tokens)


def joint_loss(maps: Tensor, joints: Tensor, size: tuple[int, int]) -> Tensor:
    """Cross-entropy between where joints are and where they are thought to be, nats.

    The mean over the maps that have a joint in the picture. Left and right joints share a map, half
    the weight each: a mirrored picture then needs no other names.

    Args:
        maps: (B, T, KINDS, h, w) logits.
        joints: (B, T, 13, 2), x and y in pixels as in `synthetic.Rendered`; NaN where unknown.
        size: height and width of the clip in pixels.
    """
    wanted = joint_cells(joints, size, (maps.shape[-2], maps.shape[-1]))
    found = F.log_softmax(maps.float().flatten(3), dim=3)
    total = wanted.sum(3, keepdim=True)
    shares = wanted / total.clamp(min=1e-6)
    present = (total > 0).sum().clamp(min=1)
    return -(shares * found).sum() / present


def joint_cells(joints: Tensor, size: tuple[int, int], cells: tuple[int, int]) -> Tensor:
    """Spreads each joint over the four cells around it: (B, T, 13, 2) -> (B, T, KINDS, h * w).

    A joint that is unknown or outside the picture has no weight.
    """
    wide = joints.new_tensor([size[1], size[0]])
    grid = joints.new_tensor([cells[1], cells[0]])
    inside = ((joints > -0.5) & (joints < wide - 0.5)).all(-1)  # NaN is not
    place = ((joints + 0.5) / wide * grid - 0.5).nan_to_num().clamp(joints.new_zeros(2), grid - 1)
    corner = place.floor()
    maps = joints.new_zeros(*joints.shape[:3], cells[0] * cells[1])
    for step in ((0, 0), (1, 0), (0, 1), (1, 1)):
        cell = torch.minimum(corner + joints.new_tensor(step), grid - 1)
        weight = (1 - (place - corner - joints.new_tensor(step)).abs()).prod(-1)
        index = (cell[..., 1] * cells[1] + cell[..., 0]).long()
        maps.scatter_add_(3, index[..., None], (weight * inside)[..., None])
    head, sides = maps[:, :, :1], maps[:, :, 1:].unflatten(2, (KINDS - 1, 2)).sum(3)
    return torch.cat([head, sides], 2)
