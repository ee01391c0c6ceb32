"""A teacher of clips without labels: who sees which labels, what is kept, and what is compared."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from videos import write_video

from dvfl_models.network.checkpoint import save_checkpoint
from dvfl_models.studies.few_labels import main, read_rows, run_tasks, write_result
from dvfl_models.studies.frozen_stages import KeptTokens, LastStages
from dvfl_models.studies.kept_clips import (
    Clips,
    RandomForms,
    centre_clips,
    draw_clips,
    normalised,
    save,
)
from dvfl_models.studies.label_curve import curves
from dvfl_models.studies.label_curve import main as draw_curve
from dvfl_models.studies.soft_labels import Experiment, Plan, Task, labelled_videos, tasks_of
from dvfl_models.studies.students import grown_model
from dvfl_runtime.clips.spec import ClipSpec

CPU = torch.device("cpu")
PLAN = Plan(members=2, labels=1, steps=2, batch=4, views=1)


def dark_and_light() -> Clips:
    """Twelve noisy videos of two classes that differ in brightness."""
    classes = torch.arange(12) % 2
    noise = torch.randint(0, 90, (12, 9, 32, 32, 3), generator=torch.Generator().manual_seed(0))
    frames = (noise + 160 * classes.view(-1, 1, 1, 1, 1)).byte()
    groups = tuple(f"g{n // 2}" for n in range(12))
    return Clips(frames, classes, groups, ((0, 1, 2, 3),))


def test_more_labels_hold_those_of_fewer_and_none_is_of_a_test_clip() -> None:
    clips = dark_and_light()
    few, more, every = (labelled_videos(clips, 0, labels) for labels in (1, 2, 0))
    assert sorted(clips.classes[few].tolist()) == [0, 1]
    assert set(few) < set(more) < set(every) == set(range(4, 12))


def test_networks_that_teach_come_first_and_what_is_done_stays() -> None:
    done = [{"fold": 0, "arm": "alone", "seed": 0}]
    tasks = tasks_of(PLAN, [0, 1], ["dist"], [0, 2], done)
    assert [(task.fold, task.arm, task.seed) for task in tasks] == [
        (0, "alone", 1), (1, "alone", 0), (1, "alone", 1), (0, "dist", 0), (1, "dist", 0),
        (0, "alone", 2), (0, "dist", 2), (1, "alone", 2), (1, "dist", 2),
    ]  # fmt: skip
    wide = tasks_of(PLAN.model_copy(update={"teacher": "nano"}), [0], ["dist"], [0], [])
    assert [task.arm for task in wide] == ["member", "member", "alone", "dist"]


def test_a_student_learns_clips_without_labels_from_the_mean_of_the_networks(
    tmp_path: Path,
) -> None:
    experiment = Experiment(tmp_path, dark_and_light(), PLAN)
    with (tmp_path / "rows.jsonl").open("w") as file:
        for arm, seed in (("alone", 0), ("alone", 1), ("kl_z", 0)):
            row = experiment.run(Task(0, arm, seed))
            file.write(json.dumps(row) + "\n")
    soft = experiment.soft_labels(0)
    assert soft.shape == (8, 2)
    found = [torch.load(tmp_path / f"fold0_alone_seed{n}.pt")["soft"] for n in (0, 1)]
    assert torch.allclose(soft, (found[0] + found[1]) / 2)
    assert [row["arm"] for row in read_rows(tmp_path)] == ["alone", "alone", "kl_z"]

    (labelled, known) = labelled_videos(experiment.clips, 0, 1), experiment.clips.trained(0)
    _, targets, taught = next(experiment.batches(known, labelled, soft, 0))
    assert taught is not None
    unlabelled = targets.sum(1) == 0
    assert int(unlabelled.sum()) > 0
    assert targets.shape == taught.shape == (4, 2)

    result = write_result(tmp_path, experiment.clips, PLAN, tmp_path / "result.json", {})
    given = result["summary"]["given"]
    assert given["alone"]["seeds"] == 2
    assert given["kl_z"]["over_alone"]["clips"] == 4  # those of the seed that both have
    assert given["teacher"]["over_alone"]["clips"] == 8  # against each seed
    teacher = next(row for row in result["rows"] if row["arm"] == "teacher")
    assert 0 <= teacher["unlabelled_accuracy"] <= 1


def test_all_frames_of_a_form_are_changed_alike() -> None:
    picture = torch.randint(0, 256, (1, 1, 32, 32, 3), dtype=torch.uint8)
    clips = Clips(picture.expand(4, 20, 32, 32, 3), torch.arange(4), tuple("abcd"), ((),))
    forms, targets = RandomForms(clips, CPU, 4)(torch.arange(4))
    assert forms.shape == (4, 8, 32, 32, 3)
    assert forms.dtype == torch.uint8
    assert torch.equal(forms, forms[:, :1].expand_as(forms))
    assert not torch.equal(forms[0], forms[1])
    assert torch.equal(targets, torch.eye(4))
    mixed, shares = RandomForms(clips, CPU, 4, mixed=1.0)(torch.arange(4))
    assert mixed.shape == forms.shape
    assert torch.allclose(shares.sum(1), torch.ones(4))
    assert shares.max() < 1


def test_rendered_clips_are_the_same_each_time() -> None:
    one, other = (draw_clips(10, 5, 32) for _ in range(2))
    assert torch.equal(one.frames, other.frames)
    assert one.frames.shape == (15, 8, 32, 32, 3)
    assert one.tests == ((10, 11, 12, 13, 14),)
    assert one.classes.tolist() == [0, 1, 2, 3, 4] * 3
    kept = RandomForms(one, CPU, 5)._picks(2)
    assert kept.tolist() == [[*range(8)]] * 2


def test_last_stages_of_kept_tokens_give_the_logits_of_the_clips(tmp_path: Path) -> None:
    clips, model = dark_and_light(), grown_model("femto", 2, None, 0.0).eval()
    forms = RandomForms(clips, CPU, 2)
    KeptTokens.write(model, 2, clips, forms, 3, tmp_path / "tokens.pt")
    tokens = KeptTokens(tmp_path / "tokens.pt")
    found = LastStages(model, 2).eval()(tokens.centres[:2].float())
    wanted = model(normalised(centre_clips(clips, torch.tensor([0, 1]))))
    assert torch.allclose(found, wanted, atol=0.02)  # kept in bf16
    assert tokens.random(torch.tensor([3, 5])).shape == (2, 8, 2, 2, 128)


def test_the_curve_has_a_point_for_each_number_of_labels(tmp_path: Path) -> None:
    def result(labels: int, gain: float) -> dict[str, Any]:
        alone = {"accuracy": 0.5, "accuracy_ci95": [0.4, 0.6]}
        over = {"difference": gain, "difference_ci95": [gain - 0.1, gain + 0.1]}
        given = {"kl": {**alone, "over_alone": over}, "alone": alone}
        return {"plan": {"labels": labels}, "summary": {"given": given, "folds": {}}}

    paths = [tmp_path / "many.json", tmp_path / "few.json"]
    for path, (labels, gain) in zip(paths, ((100, 0.0), (8, 0.2)), strict=True):
        path.write_text(json.dumps(result(labels, gain)))
    assert draw_curve([str(tmp_path / "curve.png"), *map(str, paths)]) == 0
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")
    found = curves([json.loads(path.read_text()) for path in paths])
    assert [*found] == ["alone", "kl"]
    assert [labels for labels, _ in found["kl"]] == [8, 100]


@pytest.mark.parametrize(
    ("plan", "said"),
    [
        ("{", "the plan { cannot be used: "),
        ('{"label": 1}', "there is no 'label'; did you mean labels?"),
        ('{"labels": 1, "steps": 3}', "holds an experiment of other settings"),
        ('{"labels": 5}', "missing.csv"),
    ],
)
def test_wrong_arguments_are_one_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, plan: str, said: str
) -> None:
    if "other settings" in said:
        (tmp_path / "plan.json").write_text("{}")
    assert main([str(tmp_path), "--index", "missing.csv", "--plan", plan]) == 2
    assert said in caplog.text


@pytest.mark.slow
def test_the_command_goes_on_where_it_was(tmp_path: Path) -> None:
    rows = ["file,label,group"]
    for number, clip in enumerate(dark_and_light().frames):
        write_video(tmp_path / f"{number}.mp4", [*clip.numpy()])
        rows.append(f"{number}.mp4,{number % 2},{number // 2}")
    (tmp_path / "index.csv").write_text("\n".join(rows))
    command = [str(tmp_path / "out"), "--index", str(tmp_path / "index.csv"), "--folds", "2",
               "--plan", PLAN.model_dump_json(), "--jobs", "2"]  # fmt: skip
    assert main(command) == 0
    before = read_rows(tmp_path / "out")
    assert len(before) == 2 * (2 + 1)
    assert main([*command, "--arms", "kl_more", "dist"]) == 0
    after = read_rows(tmp_path / "out")
    assert after[: len(before)] == before
    assert [row["arm"] for row in after[len(before) :]] == ["dist", "dist"]
    found = json.loads((tmp_path / "out" / "result.json").read_text())
    assert found["summary"]["folds"]["dist"]["over_alone"]["clips"] == 12


@pytest.mark.slow
def test_the_last_stages_alone_are_trained(tmp_path: Path) -> None:
    start = str(tmp_path / "start.pth")
    about = {"variant": "femto", "labels": list("abcde"), "spec": ClipSpec().to_dict()}
    save_checkpoint(start, grown_model("femto", 5, None, 0.0), about={**about, "training": {}})
    plan = PLAN.model_copy(update={"frozen": 2, "kept_forms": 2, "start": start})
    command = [str(tmp_path), "--rendered", "10", "5", "32", "--arms", "kl_z", "--jobs", "1"]
    assert main([*command, "--plan", plan.model_dump_json()]) == 0
    assert [row["arm"] for row in read_rows(tmp_path)] == ["alone", "alone", "kl_z"]


@pytest.mark.slow
def test_where_a_network_fails_none_waits_for_it(tmp_path: Path) -> None:
    save(dark_and_light(), tmp_path / "clips.pt")
    with pytest.raises(IndexError):  # there is one fold
        run_tasks(tmp_path, PLAN, [Task(1, "alone", 0), Task(0, "dist", 0)], 1)
