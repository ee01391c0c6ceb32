"""The measurements for a GPU, in their small form on a CPU."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from shared import ROOT

from dvfl_models import build_model
from dvfl_models.gpu_check import training as gpu_training
from dvfl_models.gpu_check.__main__ import main
from dvfl_models.gpu_check.distillation import Plan, run_fold, run_folds
from dvfl_models.gpu_check.processes import MODULES, run_process
from dvfl_models.gpu_check.training import measure_training, parity_rows, training_rows
from dvfl_models.studies.kept_clips import Clips, load, save
from dvfl_models.studies.students import grown_model, summary

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
    grown = grown_model("tiny", 10, small.state_dict(), 0.0).eval()
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


@pytest.mark.slow
def test_each_fold_runs_in_a_process(tmp_path: Path) -> None:
    plan = Plan(teacher="femto", student="femto", arms=("alone",), seeds=1, epochs=1,
                teacher_epochs=1, views=1, batch=4)  # fmt: skip
    clips = small_clips()
    two = dataclasses.replace(clips, tests=clips.tests[:2])
    rows, failed = run_folds(two, tmp_path, plan, None, 600)
    assert [(row["fold"], row["arm"]) for row in rows] == [
        (0, "teacher"), (0, "alone"), (1, "teacher"), (1, "alone")
    ]  # fmt: skip
    assert failed == []
    one = dataclasses.replace(clips, tests=clips.tests[:1])
    assert run_folds(one, tmp_path, plan, tmp_path / "missing.pth", 600) == ([], [0])


def test_no_student_begins_after_the_time_is_over() -> None:
    plan = Plan(teacher="femto", student="femto", teacher_epochs=1, views=1, batch=4)
    rows = list(run_fold(small_clips(), 0, plan, None, CPU, seconds=0.0))
    assert [row["arm"] for row in rows] == ["teacher"]


def test_training_steps_are_rows_and_so_is_what_cannot_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_training, "STEPS", 1)
    monkeypatch.setattr(gpu_training, "WARM_UP", 1)
    rows = list(training_rows(CPU, {"femto": (1, 2)}, (2, 3, 32, 32)))
    assert [row["precision"] for row in rows] == ["fp32", "fp32", "tf32", "tf32", "bf16", "bf16"]
    assert all(row["clips_per_s"] > 0 for row in rows)
    (broken, _) = list(training_rows(CPU, {"femto": (1, 2)}, (2, 5, 32, 32)))[:2]
    assert "RuntimeError" in broken["error"]


def test_a_step_has_forms(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_training, "STEPS", 1)
    monkeypatch.setattr(gpu_training, "WARM_UP", 1)
    for form in ("checkpointing", "channels_last"):
        shape = (2, 3, 32, 32)
        rows = list(training_rows(CPU, {"femto": (1, 2)}, shape, precisions=("bf16",), form=form))
        assert [(row["form"], "error" in row) for row in rows] == [(form, False)] * 2


def test_no_row_of_training_begins_when_its_time_is_over(tmp_path: Path) -> None:
    first, last = measure_training(CPU, tmp_path, tiny=True, end_s=0)
    assert first["clips_per_s"] > 0
    assert last["reason"].startswith("the time is over")


def test_engines_in_their_small_form(tmp_path: Path) -> None:
    rows = run_process("engines", tmp_path / "engines.json", 100, tiny=True)["rows"]
    assert all(row["same_class"] and row["batch_1"]["ms_per_clip"] > 0 for row in rows)
    assert rows == json.loads((tmp_path / "engines.json").read_text())["rows"]


@pytest.mark.parametrize(
    ("module", "reason"),
    [
        ("no_such_package.check", "the package no_such_package is not installed"),
        ("json.no_such_module", "its process ended with status 1"),
        ("timeit", "stopped after 0 s; --seconds engines=N gives it more"),
    ],
)
def test_a_part_that_cannot_run_is_a_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str, reason: str
) -> None:
    monkeypatch.setitem(MODULES, "engines", module)
    path = tmp_path / "engines.json"
    seconds = 0.01 if module == "timeit" else 60
    assert run_process("engines", path, seconds, tiny=False)["rows"] == [
        {"row": "engines", "reason": reason}
    ]
    assert path.exists()


def test_parity_with_the_processor() -> None:
    rows = {row["precision"]: row for row in parity_rows(CPU, ("femto",), (2, 3, 32, 32))}
    assert rows["fp32"]["largest_difference"] == 0
    assert 0 < rows["bf16"]["largest_difference"] < 0.05


@pytest.mark.slow
@pytest.mark.usefixtures("fresh_accelerate")
def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "export" / "kernels"))  # as `make gpu-check` does
    assert main([str(tmp_path), "--tiny"]) == 0
    found = {path.stem: json.loads(path.read_text())["rows"] for path in tmp_path.glob("*.json")}
    assert [*sorted(found)] == ["distillation", "engines", "kernels", "training"]
    assert not [row for row in found["training"] if "error" in row]
    gaps = [row["resumed_differs_by"] for row in found["training"] if "resumed_differs_by" in row]
    assert gaps == [0]
    assert found["distillation"][0]["reason"] == "no --clips, the index of labelled videos"
    assert all(row["passed"] for row in found["kernels"] if row["row"] == "parity")
    assert not [row for row in found["kernels"] if "error" in row or "reason" in row]
    assert {row["engine"] for row in found["engines"]} == {"onnxruntime", "openvino"}
    assert all(row["largest_difference"] < 1e-3 for row in found["engines"])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--clips", "missing.csv"], "missing.csv"),
        (["--clips", "x", "--plan", "{"], "the plan { cannot be used: "),
        (["--clips", "x", "--plan", '{"epoch": 1}'], "there is no 'epoch'; did you mean epochs?"),
        (["--clips", "x", "--plan", '{"batch": 0}'], "batch: Input should be greater"),
        (["--seconds", "engine=9"], "give PART=N with a part of ['training', "),
        (["--seconds", "engines=-9"], "must be a number >= 0, got '-9'"),
    ],
)
def test_wrong_arguments_are_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], said: str
) -> None:
    try:
        status = main([str(tmp_path), "--parts", "distillation", *options])
    except SystemExit as ended:  # of argparse
        status = ended.code
    assert status == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("python -m dvfl_models.gpu_check: error: ")
    assert said in line
