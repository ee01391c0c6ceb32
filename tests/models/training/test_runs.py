"""Training: clips, augmentation, resuming, results, bad data."""

import csv
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import videos

from dvfl_models import read_checkpoint
from dvfl_models.data.augment import degrade
from dvfl_models.data.batches import TrainingBatches
from dvfl_models.data.opening import open_clips
from dvfl_models.recipe.recipe import Recipe, recipe_from
from dvfl_models.studies.crossval import cross_validate
from dvfl_models.studies.folds import Folds
from dvfl_models.studies.paired import outcomes_of_run
from dvfl_models.training import cli
from dvfl_models.training.cli import main
from dvfl_models.training.confusion import Confusion
from dvfl_models.training.launch import TrainOptions
from dvfl_models.training.metrics import ProgressLog
from dvfl_models.training.trainer import Trainer
from dvfl_runtime.errors import CheckpointError, DvflError, RecipeError

RESUME = TrainOptions(resume=True)


def tiny(**changes: object) -> Recipe:
    synthetic = {"kind": "synthetic", "clips": 2, "first_seed": 10**9}
    return recipe_from(
        {
            "name": "tiny",
            "labels": ["idle", "bend"],
            "model": {"variant": "femto", "init": "xavier", "drop_path": 0.2},
            "clip": {"num_frames": 2, "size": [32, 32], "crop": "letterbox"},
            "train": [{"kind": "synthetic"}],
            "test": [synthetic],
            "optim": {"steps": 4, "batch_size": 2, "ema": 0.5},
            "checkpoint_every": 2,
            "test_every": 2,
            **changes,
        },
        "tiny",
    )


def weights(folder: Path, name: str = "final.pth") -> dict[str, torch.Tensor]:
    return dict(read_checkpoint(folder / name).state_dict)


def test_batches_are_a_function_of_the_step() -> None:
    first, again = TrainingBatches(tiny())[3], TrainingBatches(tiny())[3]
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    assert first[0].shape == (2, 2, 3, 32, 32)
    assert not torch.equal(first[0], TrainingBatches(tiny(seed=1))[3][0])


def test_batches_leave_the_generator_alone() -> None:
    torch.manual_seed(0)
    wanted = torch.rand(1)
    torch.manual_seed(0)
    _ = TrainingBatches(tiny())[0]
    assert torch.equal(torch.rand(1), wanted)


def test_results_of_a_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    confusions = Trainer(tiny(), tmp_path / "run").run(workers=0, progress=False)
    assert confusions["synthetic"].clips == 4
    assert (tmp_path / "run" / "confusion_synthetic.png").read_bytes()[:4] == b"\x89PNG"
    final = read_checkpoint(tmp_path / "run" / "final.pth")
    assert final.labels == ("idle", "bend")
    assert final.training["accuracy"]["synthetic"]["clips"] == 4
    assert final.trainer == {}
    recipe = json.loads((tmp_path / "run" / "recipe.json").read_text())
    assert recipe["optim"]["steps"] == 4
    assert recipe["clip"] == tiny().spec.to_dict() | {"size": [32, 32], "resize": None} | {
        name: list(tiny().clip[name]) for name in ("mean", "std")
    }
    # each test runs clips of training as well
    with (tmp_path / "run" / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    report = json.loads((tmp_path / "run" / "results.json").read_text())
    assert [bool(row["train_as_test"]) for row in rows] == [False, True, False, True]
    assert float(rows[-1]["train_as_test"]) == report["train_as_test"]["top1"]["value"]
    assert report["train_as_test"]["clips"] == 8  # as many as the run has had
    assert report["doubts"] == []
    told = [text for text in caplog.messages if "prepared like test clips" in text]
    assert [text.split(":")[0] for text in told] == ["step 2", "step 4"]
    assert (tmp_path / "run" / "curves.png").exists()


def test_a_run_from_before_a_default_changed_is_not_resumed_on_other_clips(tmp_path: Path) -> None:
    once = {"steps": 1, "batch_size": 2}
    before = tiny(clip={"num_frames": 2, "size": [32, 32], "resize": 256}, optim=once)
    Trainer(before, tmp_path / "run").run(workers=0, progress=False)
    content = torch.load(tmp_path / "run" / "last.pth", weights_only=True)
    recipe = json.loads(content["trainer"]["recipe"])
    recipe["clip"] = {"num_frames": 2, "size": [32, 32]}  # as older versions wrote it
    content["trainer"]["recipe"] = json.dumps(recipe)
    torch.save(content, tmp_path / "run" / "last.pth")
    today = tiny(clip={"num_frames": 2, "size": [32, 32]}, optim=once)
    with pytest.raises(DvflError, match=r"another recipe \(clip.resize was 256, is 37\)"):
        Trainer(today, tmp_path / "run", RESUME)
    Trainer(before, tmp_path / "run", RESUME)


def test_another_recipe_or_run_is_not_overwritten(tmp_path: Path) -> None:
    Trainer(tiny(), tmp_path / "run").run(workers=0, progress=False)
    with pytest.raises(DvflError, match="pass --resume"):
        Trainer(tiny(), tmp_path / "run")
    with pytest.raises(DvflError, match="another recipe"):
        Trainer(tiny(seed=2), tmp_path / "run", RESUME)
    last = tmp_path / "run" / "last.pth"
    last.write_bytes((tmp_path / "run" / "final.pth").read_bytes())
    with pytest.raises(CheckpointError, match="weights alone"):
        Trainer(tiny(), tmp_path / "run", RESUME)


def test_a_loss_that_is_never_finite_stops_with_the_step(tmp_path: Path) -> None:
    trainer = Trainer(tiny(), tmp_path / "run")
    measure = trainer.learner._measure
    trainer.learner._measure = lambda losses, classes: measure(losses, classes) * float("nan")
    with pytest.raises(DvflError, match=r"loss is nan at step 3, lr .* last of 4 steps in a row"):
        trainer.run(workers=0, progress=False)
    assert read_checkpoint(tmp_path / "run" / "last.pth").trainer["step"] == 2
    assert all(value.isfinite().all() for value in weights(tmp_path / "run", "last.pth").values())


@pytest.fixture
def labelled(tmp_path: Path) -> Path:
    rows = ["file,label,person"]
    for person in "ab":
        for label, level in (("idle", 60), ("bend", 200)):
            frames = [np.full((48, 64, 3), level + k, np.uint8) for k in range(12)]
            videos.write_video(tmp_path / f"{label}_{person}.mp4", frames)
            rows.append(f"{label}_{person}.mp4,{label},{person}")
    rows.append("missing.mp4,other,a")
    index = tmp_path / "index.csv"
    index.write_text("\n".join(rows) + "\n")
    return index


def videos_part(index: Path, **more: object) -> dict:
    return {"kind": "videos", "name": "small", "index": str(index), **more}


def test_video_files_are_sampled_by_class_and_tested_once_each(labelled: Path) -> None:
    recipe = tiny(train=[videos_part(labelled)])
    clips = open_clips(recipe.train[0], recipe)
    assert len(clips) == 4
    clip, class_id = clips[0]
    assert clip.shape == (2, 32, 32, 3)
    assert class_id == 0
    rng = np.random.default_rng(0)
    drawn = [clips.sample(rng) for _ in range(20)]
    assert {sample.class_id for sample in drawn} == {0, 1}
    assert all((s.clip[:, 16, 16].mean() > 128) == (s.class_id == 1) for s in drawn)


def test_filters_and_renaming(labelled: Path) -> None:
    part = videos_part(labelled, exclude={"person": ["a"]}, rename={"bend": "idle"})
    recipe = tiny(train=[part])
    clips = open_clips(recipe.train[0], recipe)
    assert [class_id for _, class_id in (clips[i] for i in range(len(clips)))] == [0]
    folder = tiny(train=[videos_part(labelled.parent, rename={"": "idle"})])
    assert len(open_clips(folder.train[0], folder)) == 4


def test_leave_one_group_out_holds_out_what_it_says(labelled: Path, tmp_path: Path) -> None:
    recipe = tiny(train=[videos_part(labelled)], optim={"steps": 1, "batch_size": 2})
    folds = Folds("small", "person")
    results = cross_validate(recipe, folds, [0, 1], tmp_path / "cv", workers=0)
    assert results["folds"].keys() == {"0", "1"}
    assert np.sum(results["confusion_counts"]) == 8
    held_out = json.loads((tmp_path / "cv" / "seed0_personb" / "recipe.json").read_text())
    assert held_out["train"][0]["exclude"] == {"person": ["b"]}
    assert held_out["test"][0]["only"] == {"person": ["b"]}
    assert (tmp_path / "cv" / "confusion.png").exists()
    right = outcomes_of_run(tmp_path / "cv" / "seed0_personb")
    assert {group.split()[-1] for group, _ in right.values()} == {"b"}
    assert np.mean([ok for _, ok in right.values()]) == results["folds"]["0"]["b"]


def test_labels_without_clips_are_an_error(
    labelled: Path, caplog: pytest.LogCaptureFixture
) -> None:
    recipe = tiny(train=[videos_part(labelled)], labels=["idle", "fall"])
    with (
        caplog.at_level("INFO"),
        pytest.raises(
            RecipeError, match=r"no video to train on has a label of \['fall'\] \(.*\.csv"
        ),
    ):
        TrainingBatches(recipe)
    assert "3 of 5 videos are left out, they have other labels: ['bend', 'other']" in caplog.text
    for kind in ("synthetic", "order"):
        recipe = tiny(train=[{"kind": kind}], labels=["idle", "fall"])
        with pytest.raises(RecipeError, match=r"'fall'.* cannot be drawn, only"):
            TrainingBatches(recipe)


def test_folds_in_processes_give_what_one_process_gives(labelled: Path, tmp_path: Path) -> None:
    recipe = tiny(train=[videos_part(labelled)], optim={"steps": 1, "batch_size": 2})
    folds = Folds("small", "person")
    weights = []
    for jobs in (1, 2):
        out = tmp_path / str(jobs)
        cross_validate(recipe, folds, [0], out, workers=0, jobs=jobs)
        weights.append(torch.load(out / "seed0_personb" / "final.pth", weights_only=True)["model"])
    for one, two in zip(weights[0].values(), weights[1].values(), strict=True):
        torch.testing.assert_close(one, two, rtol=0, atol=1e-4)  # other threads, other rounding
    with pytest.raises(RecipeError, match="absent"):
        cross_validate(recipe, Folds("absent", "person"), [0], tmp_path / "x", jobs=2)


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ({"index": "absent.csv"}, "cannot read absent.csv"),
        ({"only": {"person": ["z"]}}, r"no video of .* filters: person has \['a', 'b'\]"),
        ({"rename": {"other": "bend"}}, r"1 of 1 files listed in .* do not exist.*missing\.mp4"),
        ({"only": {"colour": ["red"]}}, "no column 'colour'"),
    ],
)
def test_wrong_data_sets(labelled: Path, part: dict, message: str) -> None:
    recipe = tiny(train=[videos_part(labelled) | part])
    with pytest.raises(RecipeError, match=message):
        TrainingBatches(recipe)


def test_degrade_keeps_the_shape_and_can_be_off() -> None:
    clip = np.random.default_rng(0).integers(0, 255, (2, 32, 48, 3)).astype(np.uint8)
    assert degrade(clip, np.random.default_rng(0), 0.0) is clip
    changed = degrade(clip, np.random.default_rng(0), 1.0)
    assert changed.shape == clip.shape
    assert changed.dtype == np.uint8
    assert changed.astype(int).std() < clip.astype(int).std()


def test_a_run_without_a_terminal_logs_where_it_is(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    progress = ProgressLog(step=10, steps=100)
    progress.tell(11, {"loss": "0.5"})
    assert not caplog.messages  # a minute has not passed
    progress.tell(100, {"loss": "0.5", "clips/s": "9"})
    ProgressLog(step=0, steps=2, every_s=0).tell(1, {})
    assert caplog.messages[0] == "step 100 of 100, loss 0.5, clips/s 9, 0 s left"
    assert caplog.messages[1].startswith("step 1 of 2, ")


def test_confusion_adds_up() -> None:
    one = Confusion(("a", "b"), np.array([[3, 1], [0, 4]]))
    assert one.accuracy == 7 / 8
    assert (one + one).clips == 16


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "tiny.toml"
    path.write_text(
        'name = "tiny"\nlabels = ["idle", "bend"]\nmodel = {variant = "femto"}\n'
        'clip = {num_frames = 2, size = [32, 32], crop = "letterbox"}\n'
        'train = [{kind = "synthetic"}]\noptim = {steps = 9, batch_size = 2}\n'
    )
    out = str(tmp_path / "run")
    assert main([str(path), "--set", "optim.steps=1", "--out", out, "--workers", "0"]) == 0
    assert "final.pth" in capsys.readouterr().out
    for arguments in ([str(path), "--out", out], [str(path), "--out", f"{out}2", "--resume"]):
        assert main(arguments) == 2
        error = capsys.readouterr().err
        assert error.startswith("dvfl-train: error: ")
        assert error.count("\n") == 1
    assert not (tmp_path / "run2").exists()


def test_threads_wait_without_spinning_unless_the_user_says_otherwise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """OpenMP reads it when PyTorch is loaded, so the command must not load it before."""
    code = "import sys, dvfl_models.training.cli; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
    seen = []
    monkeypatch.setattr(cli, "_train", lambda _: seen.append(os.environ["OMP_WAIT_POLICY"]))
    monkeypatch.setenv("OMP_WAIT_POLICY", "active")
    assert main(["order"]) == 0
    monkeypatch.delenv("OMP_WAIT_POLICY")
    assert main(["order"]) == 0
    assert seen == ["active", "passive"]


def test_packages_that_are_missing_are_named_at_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    find = importlib.util.find_spec
    missing = ("torch", "cv2")
    monkeypatch.setattr("importlib.util.find_spec", lambda n: None if n in missing else find(n))
    assert main(["order"]) == 2
    assert capsys.readouterr().err == (
        "dvfl-train: error: dvfl-train needs packages that are not installed; "
        "run: pip install torch opencv-python-headless\n"
    )
