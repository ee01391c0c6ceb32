"""The loss of a student: the recipe picks its terms."""

import contextlib
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from small_runs import tiny

from dvfl_models import build_model
from dvfl_models.data.datasets import UNLABELLED
from dvfl_models.distillation.losses import LOSSES
from dvfl_models.distillation.objective import Losses, Objective
from dvfl_models.network.checkpoint import save_checkpoint
from dvfl_runtime.errors import RecipeError

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("teacher") / "teacher.pth"
    torch.manual_seed(3)
    model = build_model("femto", num_classes=2)
    torch.nn.init.normal_(model.head.weight)
    about = {"variant": "femto", "labels": ["idle", "bend"], "spec": tiny().spec.to_dict()}
    save_checkpoint(path, model, about=about)
    return path


def losses(teacher: Path, **distill: object) -> tuple[Losses, torch.Tensor]:
    """Of mixed clips; and the teacher's logits of them."""
    objective = Objective(tiny(distill={"teacher": str(teacher), **distill}), CPU)
    torch.manual_seed(0)
    student, clips = build_model("femto", num_classes=2), torch.rand(4, 2, 3, 32, 32)
    shares = torch.tensor([[0.3, 0.7], [0.7, 0.3], [1.0, 0.0], [0.5, 0.5]])
    found = objective(student, clips, shares, contextlib.nullcontext())
    assert objective.teacher is not None
    return found, objective.teacher.teach(clips, modulators=False).logits


@pytest.mark.parametrize("loss", LOSSES)
def test_the_recipe_names_the_loss_of_logits(teacher: Path, loss: str) -> None:
    found, wanted = losses(teacher, loss=loss, temperature=2, alpha=0.3, cache_mb=1)
    torch.testing.assert_close(found.kd, LOSSES[loss](found.logits, wanted, 2.0))
    torch.testing.assert_close(found.total, 0.3 * found.kd + 0.7 * found.task)
    beside, _ = losses(teacher, loss=loss, temperature=2, alpha=0.3, beta=0.5)
    assert beside.modulation > 0
    torch.testing.assert_close(beside.total, found.total + 0.5 * beside.modulation)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_a_clip_without_a_label_learns_from_the_teacher_alone(
    teacher: Path, smoothing: float
) -> None:
    optim = {"steps": 1, "batch_size": 2, "label_smoothing": smoothing}
    objective = Objective(tiny(distill={"teacher": str(teacher), "alpha": 0.3}, optim=optim), CPU)
    student, clips = build_model("femto", num_classes=2).eval(), torch.rand(2, 2, 3, 32, 32)

    def found(*targets: object) -> Losses:
        return objective(student, clips, torch.tensor(targets), contextlib.nullcontext())

    both, one = found(1, 0), found(1, UNLABELLED)
    torch.testing.assert_close(one.kd, both.kd)
    logits = F.cross_entropy(both.logits[:1], torch.tensor([1]), label_smoothing=smoothing)
    torch.testing.assert_close(one.task, logits / 2)  # a mean over both clips
    torch.testing.assert_close(one.total, 0.3 * one.kd + 0.7 * one.task)
    torch.testing.assert_close(found([0.0, 1.0], [0.0, 0.0]).task, one.task)  # mixed clips
    torch.testing.assert_close(found([0.0, 1.0], [1.0, 0.0]).task, both.task)


def test_an_unknown_loss_is_an_error() -> None:
    with pytest.raises(RecipeError, match=r"distill\.loss: .*'kl', 'kl_z' or 'dist', got 'mse'"):
        tiny(distill={"teacher": "t.pth", "loss": "mse"})
