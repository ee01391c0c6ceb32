"""The measurements for a GPU, in their small form on a CPU."""

import json
from pathlib import Path

import pytest
import torch

from dvfl_models import build_model
from dvfl_models.gpu_check import main
from dvfl_models.gpu_clips import Clips, load, save
from dvfl_models.gpu_distillation import Plan, run_fold, started, summary
from dvfl_models.gpu_training import parity_rows, training_rows

CPU = torch.device("cpu")


def small_clips() -> Clips:
    """Twelve noisy videos of two classes that differ in brightness."""
    generator = torch.Generator().manual_seed(0)
    classes = torch.arange(12) % 2
    noise = torch.randint(0, 90, (12, 9, 32, 32, 3), generator=generator)
    frames = (noise + 160 * classes.view(-1, 1, 1, 1, 1)).byte()
    groups = tuple(f"g{n // 2}" for n in range(12))
    return Clips(frames, classes, groups, ((0, 1, 2, 3), (4, 5, 6, 7), (8, 9, 10, 11)))


def test_a_deeper_and_wider_network_starts_as_the_small_one() -> None:
    torch.manual_seed(0)
    small = build_model("femto", num_classes=5).eval()
    clip = torch.randn(1, 2, 3, 32, 32)
    wanted = small.forward_tokens(clip)
    grown = started("tiny", 10, small.state_dict(), 0.0).eval()
    found = grown.forward_tokens(clip)
    assert grown.head.out_features == 10
    assert torch.allclose(found, wanted.repeat_interleave(3, -1), atol=1e-5)


def test_students_learn_from_a_teacher_and_are_compared_over_groups(tmp_path: Path) -> None:
    save(small_clips(), tmp_path / "clips.pt")
    clips = load(tmp_path / "clips.pt")
    arms = ("alone", "kl_z")
    plan = Plan(teacher="femto", student="femto", arms=arms, seeds=1, epochs=2, teacher_epochs=2,
                views=2, batch=4)  # fmt: skip
    rows = [row for fold in (0, 1) for row in run_fold(clips, fold, plan, None, CPU)]
    assert [row["arm"] for row in rows] == ["teacher", *arms, "teacher", *arms]
    assert all(len(row["right"]) == 4 for row in rows)
    found = summary(rows, clips)["given"]["kl_z"]
    assert found["clips"] == 4
    assert found["over_alone"]["groups"] == 2


def test_no_student_begins_after_the_time_is_over() -> None:
    plan = Plan(teacher="femto", student="femto", teacher_epochs=1, views=1, batch=4)
    rows = list(run_fold(small_clips(), 0, plan, None, CPU, seconds=0.0))
    assert [row["arm"] for row in rows] == ["teacher"]


def test_training_steps_are_rows_and_so_is_what_cannot_run() -> None:
    rows = list(training_rows(CPU, {"femto": (1, 2)}, (2, 3, 32, 32)))
    assert [row["precision"] for row in rows] == ["fp32", "fp32", "tf32", "tf32", "bf16", "bf16"]
    assert all(row["clips_per_s"] > 0 for row in rows)
    (broken, _) = list(training_rows(CPU, {"femto": (1, 2)}, (2, 5, 32, 32)))[:2]
    assert "RuntimeError" in broken["error"]


def test_parity_with_the_processor() -> None:
    rows = {row["precision"]: row for row in parity_rows(CPU, ("femto",), (2, 3, 32, 32))}
    assert rows["fp32"]["largest_difference"] == 0
    assert 0 < rows["bf16"]["largest_difference"] < 0.05


@pytest.mark.slow
def test_the_command(tmp_path: Path) -> None:
    assert main([str(tmp_path), "--parts", "training", "--tiny"]) == 0
    rows = json.loads((tmp_path / "training.json").read_text())["rows"]
    assert not [row for row in rows if "error" in row]
    assert rows[-1]["resumed_differs_by"] == 0
    assert main([str(tmp_path), "--parts", "distillation"]) == 2  # no clips
