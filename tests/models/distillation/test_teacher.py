"""A teacher keeps its trained head, never learns, and has to know the student's classes."""

from pathlib import Path

import pytest
import torch

from dvfl_models import VideoFocalNet, build_model
from dvfl_models.distillation.teacher import Teacher
from dvfl_models.network.checkpoint import save_checkpoint
from dvfl_runtime import ClipSpec
from dvfl_runtime.errors import CheckpointError


def saved(folder: Path, labels: list[str], official: bool = False) -> tuple[Path, VideoFocalNet]:
    torch.manual_seed(3)
    model = build_model("femto", num_classes=len(labels), drop_path_rate=0.5)
    path = folder / "teacher.pth"
    if official:
        torch.save({"model": model.state_dict()}, path)
    else:
        about = {"variant": "femto", "labels": labels, "spec": ClipSpec().to_dict()}
        save_checkpoint(path, model, about=about)
    return path, model


@pytest.mark.parametrize("official", [False, True])
def test_teacher_keeps_its_head_and_never_learns(tmp_path: Path, official: bool) -> None:
    path, model = saved(tmp_path, list("abc"), official)
    teacher = Teacher(path, list("abc"), ClipSpec())
    assert torch.equal(teacher.model.head.weight, model.head.weight)
    clips = torch.rand(2, 2, 3, 32, 32)
    lesson = teacher.teach(clips, modulators=True)
    assert torch.equal(lesson.logits, model.eval()(clips))
    assert not lesson.logits.requires_grad
    assert len(lesson.modulators) == 4
    assert teacher.teach(clips, modulators=False).modulators == []
    assert not teacher.model.training


def test_teacher_of_other_classes_is_refused(tmp_path: Path) -> None:
    path, _ = saved(tmp_path, list("abc"))
    with pytest.raises(CheckpointError, match="knows the classes"):
        Teacher(path, list("abd"), ClipSpec())
    with pytest.raises(CheckpointError, match=r"another clip\.mean"):
        Teacher(path, list("abc"), ClipSpec(mean=(0.0, 0.0, 0.0)))
    official, _ = saved(tmp_path, list("abc"), official=True)
    with pytest.raises(CheckpointError, match="has 3 classes, the recipe 4"):
        Teacher(official, list("abcd"), ClipSpec())
