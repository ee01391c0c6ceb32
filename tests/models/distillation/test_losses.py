"""Distillation losses: zero at equality, known values, finite in half precision."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from dvfl_models import VideoFocalNet, VideoFocalNetConfig
from dvfl_models.distillation.losses import (
    cross_entropy_in_sets,
    dist_loss,
    energy_map,
    kd_loss,
    modulation_loss,
    standardised_kd_loss,
)
from dvfl_models.network.video_focalnet import Modulators

Loss = Callable[[Tensor, Tensor, float], Tensor]
SMALL = VideoFocalNetConfig(embed_dim=8, depths=(1, 1, 2, 1), num_classes=5)
DEEP = VideoFocalNetConfig(embed_dim=16, depths=(2, 1, 3, 1), num_classes=5)


def test_kd_loss_is_zero_with_zero_gradient_at_equality() -> None:
    logits = torch.randn(4, 7, generator=torch.Generator().manual_seed(0))
    student = (logits + 3).requires_grad_()  # softmax does not see a constant
    loss = kd_loss(student, logits, 10.0)
    loss.backward()
    assert student.grad is not None
    assert abs(loss.item()) < 1e-5
    assert student.grad.abs().max() < 1e-6


def test_a_clip_is_compared_with_the_classes_of_its_own_set() -> None:
    logits = torch.tensor([[0.0, 0.0, 5.0, 1.0, 2.0], [9.0, 9.0, 0.0, 0.0, 0.0]])
    logits.requires_grad_()
    loss = cross_entropy_in_sets(logits, torch.tensor([1, 3]), [2, 3])
    assert loss.item() == pytest.approx((math.log(2) + math.log(3)) / 2)
    loss.backward()
    assert logits.grad is not None
    assert not logits.grad[0, 2:].any()
    assert not logits.grad[1, :2].any()
    # one set is the usual loss, and a clip without a label has none
    whole = cross_entropy_in_sets(logits, torch.tensor([1, 3]), [5], 0.1)
    usual = torch.nn.functional.cross_entropy(logits, torch.tensor([1, 3]), label_smoothing=0.1)
    assert whole.item() == pytest.approx(usual.item())
    assert cross_entropy_in_sets(logits, torch.tensor([-1, -1]), [2, 3]).item() == 0


@pytest.mark.parametrize("loss", [standardised_kd_loss, dist_loss])
def test_other_losses_are_zero_with_zero_gradient_at_equality(loss: Loss) -> None:
    logits = torch.randn(4, 7, generator=torch.Generator().manual_seed(0))
    student = logits.clone().requires_grad_()
    found = loss(student, logits, 2.0)
    found.backward()
    assert student.grad is not None
    assert abs(found.item()) < 1e-5
    assert student.grad.abs().max() < 1e-5


def test_standardised_kd_loss_has_the_value_computed_by_hand() -> None:
    # two logits become 1 and -1 whatever they were: the teacher's odds are e^2 at T = 1
    teacher, student = torch.tensor([[5.0, 1.0]]), torch.tensor([[-2.0, 4.0]])
    share = 1 / (1 + math.exp(-2.0))
    by_hand = 2 * share - 2 * (1 - share)  # sum of p * (log p - log q), log odds of 2 and -2
    assert standardised_kd_loss(student, teacher, 1.0).item() == pytest.approx(by_hand, rel=1e-5)
    larger = standardised_kd_loss(9 * student + 3, teacher, 1.0)
    assert larger.item() == pytest.approx(by_hand, rel=1e-5)


def test_dist_loss_has_the_value_computed_by_hand() -> None:
    # two classes: a clip's scores correlate by +1 or -1, here one of each; within a class, too
    teacher, student = (
        torch.tensor([[2.0, 0.0], [0.0, 1.0]]),
        torch.tensor([[1.0, 0.0], [3.0, 0.0]]),
    )
    assert dist_loss(student, teacher, 2.0).item() == pytest.approx(4 * (1 + 2), rel=1e-5)


@pytest.mark.parametrize("loss", [standardised_kd_loss, dist_loss])
def test_other_losses_are_finite_for_large_logits_in_bfloat16(loss: Loss) -> None:
    student = torch.tensor([[100.0, -100.0, 0.0], [0.0, 0.0, 0.0]]).bfloat16().requires_grad_()
    found = loss(student, -student.detach(), 1.0)
    found.backward()
    assert student.grad is not None
    assert torch.isfinite(found)
    assert torch.isfinite(student.grad).all()


def test_kd_loss_has_the_value_computed_by_hand() -> None:
    # T = 2: the teacher's odds are exp(2 ln 3 / 2) = 3 to 1, the student's 1 to 1
    teacher = torch.tensor([[2 * math.log(3.0), 0.0]])
    loss = kd_loss(torch.zeros(1, 2), teacher, 2.0)
    by_hand = 4 * (0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5))
    assert loss.item() == pytest.approx(by_hand, rel=1e-6)
    twice = kd_loss(torch.zeros(2, 2), teacher.expand(2, 2), 2.0)  # a mean, not a sum
    assert twice.item() == pytest.approx(by_hand, rel=1e-6)


def test_kd_loss_is_the_forward_divergence() -> None:
    teacher, student = torch.tensor([[5.0, 0.0]]), torch.tensor([[0.0, 0.0]])
    assert kd_loss(student, teacher, 1.0).item() != pytest.approx(
        kd_loss(teacher, student, 1.0).item(), rel=0.05
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("temperature", [1.0, 10.0])
def test_kd_loss_is_finite_in_half_precision(dtype: torch.dtype, temperature: float) -> None:
    extreme = torch.tensor([[100.0, -100.0, 0.0], [-100.0, 100.0, 100.0]], dtype=dtype)
    student = (-extreme).requires_grad_()
    with torch.autocast("cpu", dtype=dtype):
        loss = kd_loss(student, extreme, temperature)
    loss.backward()
    assert student.grad is not None
    assert loss.isfinite()
    assert loss.dtype == torch.float32
    assert student.grad.isfinite().all()


def modulators_of(config: VideoFocalNetConfig, clip: Tensor) -> list[Modulators]:
    torch.manual_seed(1)
    return VideoFocalNet(config).eval()(clip, return_modulators=True)[1]


def test_modulators_come_on_request_and_change_no_logit() -> None:
    clip = torch.rand(2, 3, 3, 64, 64)
    model = VideoFocalNet(SMALL).eval()
    before = set(vars(model.layers[2].blocks[1].modulation))
    logits, seen = model(clip, return_modulators=True)
    assert torch.equal(logits, model(clip))
    assert [tuple(m.spatial.shape) for m in seen] == [
        (2, 3, 16, 16, 8), (2, 3, 8, 8, 16), (2, 3, 4, 4, 32), (2, 3, 2, 2, 64)
    ]  # fmt: skip
    assert all(m.spatial.shape == m.temporal.shape for m in seen)
    assert set(vars(model.layers[2].blocks[1].modulation)) == before


def test_modulators_are_those_of_the_last_block_of_a_stage() -> None:
    model, caught = VideoFocalNet(SMALL).eval(), []
    last = model.layers[2].blocks[1].modulation
    last.h.register_forward_hook(lambda _m, _i, out: caught.append(out))
    _, seen = model(torch.rand(1, 2, 3, 32, 32), return_modulators=True)
    assert torch.equal(caught[0].permute(0, 2, 3, 1), seen[2].spatial[0])


def test_modulation_loss_is_zero_with_zero_gradient_at_equality() -> None:
    seen = modulators_of(SMALL, torch.rand(2, 3, 3, 32, 32))
    mine = [Modulators(*(x.detach().clone().requires_grad_() for x in m)) for m in seen]
    wanted = [Modulators(m.spatial.detach(), m.temporal.detach()) for m in seen]
    loss = modulation_loss(mine, wanted)
    loss.backward()
    assert loss.item() == 0
    assert all(m.spatial.grad is not None and not m.spatial.grad.any() for m in mine)


def test_modulation_loss_has_the_value_computed_by_hand() -> None:
    # energies (9 + 1) / 2, 0 -> (1, 0) and 0, 4 -> (0, 1): squared distance 2; temporal equal: 0
    one = torch.zeros(1, 1, 1, 2, 2)
    one[0, 0, 0, 0] = torch.tensor([3.0, 1.0])
    other = torch.zeros(1, 1, 1, 2, 2)
    other[0, 0, 0, 1] = 2.0
    pair = modulation_loss([Modulators(one, one)], [Modulators(other, one)])
    assert pair.item() == pytest.approx(2.0)


def test_networks_of_other_depth_width_and_size_can_be_compared() -> None:
    student = modulators_of(SMALL, torch.rand(2, 4, 3, 32, 32))
    teacher = modulators_of(DEEP, torch.rand(2, 2, 3, 64, 64))
    loss = modulation_loss(student, teacher)
    loss.backward()
    assert 0 < loss.item() < 4
    wide = torch.rand(1, 4, 8, 8, 3)
    assert energy_map(wide, (2, 4, 4)).shape == (1, 32)
    assert energy_map(wide).norm().item() == pytest.approx(1.0)
    with pytest.raises(ValueError, match="4 stages of the student, 3 of the teacher"):
        modulation_loss(student, teacher[:3])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_modulation_loss_is_finite_in_half_precision(dtype: torch.dtype) -> None:
    big = torch.full((1, 2, 4, 4, 8), 300.0, dtype=dtype)  # its square is beyond float16
    with torch.autocast("cpu", dtype=dtype):
        loss = modulation_loss([Modulators(big, big)], [Modulators(big, big * 2)])
    assert loss.isfinite()
