"""Faults of cameras: which frames they change, whatever a clip is batched with."""

import pytest
import torch
from torch import Tensor

from dvfl_models.data.augment import ClipAugmentation
from dvfl_models.data.camera import Camera
from dvfl_models.recipe.tables import AugmentTable

PLAIN = {"flip": 0, "degrees": 0, "translate": 0, "scale": [1, 1]}
PLAIN |= {"jitter": 0, "grey": 0, "degrade": 0}


def still(clips: int = 3) -> Tensor:
    """Return clips of 4 equal frames of 64 px: (B, T, 3, H, W)."""
    picture = torch.rand(clips, 1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    return picture.repeat_interleave(4, 3).repeat_interleave(4, 4).repeat(1, 4, 1, 1, 1)


@pytest.mark.parametrize(
    ("fault", "fresh"),
    [("shake", True), ("noise", True), ("dark", True), ("blur", False), ("compress", False)],
)
def test_faults_change_all_frames_alike_but_shake_and_noise_are_fresh(
    fault: str, fresh: bool
) -> None:
    clips, seeds = still(), [3, 4, 5]
    out, _ = Camera(AugmentTable(**{fault: 1.0})).record(clips, seeds)
    assert out.shape == clips.shape
    assert 0 <= out.min() <= out.max() <= 1
    for before, after in zip(clips, out, strict=True):
        assert (before - after).abs().mean() > 1e-3
        assert torch.equal(after[0], after[1]) is not fresh
    alone, _ = Camera(AugmentTable(**{fault: 1.0})).record(clips[1:2], seeds[1:2])
    assert torch.allclose(alone, out[1:2], atol=1e-5)


def test_without_faults_nothing_changes() -> None:
    clips = still()
    out, points = Camera(AugmentTable()).record(clips, [1, 2, 3], None)
    assert out is clips
    assert points is None


def test_points_move_with_a_shaken_picture() -> None:
    frames = torch.zeros(1, 4, 64, 64, 3, dtype=torch.uint8)
    frames[:, :, 30:33, 20:23] = 255
    points = torch.tensor([21.0, 31.0]).expand(1, 4, 1, 2)
    table = AugmentTable(**PLAIN, shake=1.0)
    out, moved = ClipAugmentation(table).augment(frames, [7], points)
    assert moved is not None
    rows, columns = torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij")
    for frame, (point,) in zip(out[0], moved[0], strict=True):
        light = frame[0] / frame[0].sum()
        middle = torch.stack([(light * columns).sum(), (light * rows).sum()])
        assert torch.allclose(middle, point, atol=0.1)
    assert not torch.equal(moved[0, 0], moved[0, 1])
