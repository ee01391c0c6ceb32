"""Finding joints: a second task of training, on rendered clips alone.

The places of a person's joints in each frame tell a network far more than the class of a clip, and
the renderer knows them. A linear layer reads them as heatmaps (as in arXiv 1804.06208) from the
tokens that the classifier averages. It is dropped after training, so the network keeps its form.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dvfl_models.rendered.figures import JOINTS

CELLS = 8  # per token and side: a cell has 4 px, a token of the last stage 32
KINDS = (len(JOINTS) + 1) // 2  # the head, shoulders, elbows, ...


class JointMaps(nn.Module):
    """A linear layer that reads heatmaps of the joints from tokens of `dim` channels."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.cells = nn.Linear(dim, KINDS * CELLS * CELLS)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, T, H, W, C) -> (B, T, KINDS, 8 H, 8 W), the logits of the cells."""
        # (B, T, H, W, KINDS * 64) -> (B * T, KINDS * 64, H, W) -> (B, T, KINDS, 8 H, 8 W)
        cells = self.cells(tokens).flatten(0, 1).permute(0, 3, 1, 2)
        maps: Tensor = F.pixel_shuffle(cells, CELLS).unflatten(0, tokens.shape[:2])
        return maps


def joint_loss(maps: Tensor, joints: Tensor, size: tuple[int, int]) -> Tensor:
    """Return the cross-entropy of the heatmaps, nats, mean over those with a joint in the picture.

    Left and right joints share a map, each with half the weight, so that a mirrored picture needs
    no renaming of its joints.

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
    """Spread each joint over the four cells around it: (B, T, 13, 2) -> (B, T, KINDS, h * w).

    The weights follow bilinear interpolation. An unknown joint, or one outside the picture, has no
    weight.
    """
    wide = joints.new_tensor([size[1], size[0]])
    grid = joints.new_tensor([cells[1], cells[0]])
    inside = ((joints > -0.5) & (joints < wide - 0.5)).all(-1)  # false for NaN
    place = ((joints + 0.5) / wide * grid - 0.5).nan_to_num().clamp(joints.new_zeros(2), grid - 1)
    corner = place.floor()
    maps = joints.new_zeros(*joints.shape[:3], cells[0] * cells[1])
    for step in ((0, 0), (1, 0), (0, 1), (1, 1)):
        cell = torch.minimum(corner + joints.new_tensor(step), grid - 1)
        weight = (1 - (place - corner - joints.new_tensor(step)).abs()).prod(-1)
        index = (cell[..., 1] * cells[1] + cell[..., 0]).long()
        maps.scatter_add_(3, index[..., None], (weight * inside)[..., None])
    # (B, T, 13, h * w) -> the head's map, and the sum of the left and the right one of each pair
    head, sides = maps[:, :, :1], maps[:, :, 1:].unflatten(2, (KINDS - 1, 2)).sum(3)
    return torch.cat([head, sides], 2)
