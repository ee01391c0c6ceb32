"""Whole runs: killed, resumed, in two processes, with a teacher, with videos that are broken."""

import json
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from small_runs import ON_CPU, RESUME, command, make_videos, rows_of, small, toml, weights

from dvfl_models import read_checkpoint
from dvfl_models.data.batches import batch_of
from dvfl_models.data.datasets import UNLABELLED
from dvfl_models.distillation.teacher_cache import TeacherCache
from dvfl_models.training.launch import TrainOptions
from dvfl_models.training.trainer import Trainer
from dvfl_runtime.errors import DvflError, OutputError, RecipeError

pytestmark = pytest.mark.usefixtures("fresh_accelerate")


def test_a_run_killed_in_mid_epoch_ends_as_an_uninterrupted_one(tmp_path: Path) -> None:
    recipe = toml(tmp_path, make_videos(tmp_path / "videos"))
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    subprocess.run([sys.executable, *command(recipe, whole)], check=True, capture_output=True)
    process = subprocess.Popen(
        [sys.executable, *command(recipe, killed)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 120
        while rows_of(killed) < 10 and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == -signal.SIGKILL
    step = read_checkpoint(killed / "last.pth").trainer["step"]
    assert 8 <= step <= rows_of(killed) < 36
    assert step % 3  # an epoch has three
    resumed = [sys.executable, *command(recipe, killed, "--resume")]
    subprocess.run(resumed, check=True, capture_output=True)
    for name in ("final.pth", "best.pth", "last.pth"):
        wanted, found = weights(whole / name), weights(killed / name)
        assert all(torch.equal(wanted[key], found[key]) for key in wanted)
    assert rows_of(killed) == rows_of(whole) == 36


@pytest.mark.slow
@pytest.mark.parametrize("accumulate", [1, 2])
def test_two_processes_come_to_the_result_of_one(tmp_path: Path, accumulate: int) -> None:
    index = make_videos(tmp_path / "videos", 13)  # 13: one process tests 7, the other 6
    recipe = toml(tmp_path, index, epochs=3, drop_path=0)
    one, two = tmp_path / "one", tmp_path / "two"
    subprocess.run([sys.executable, *command(recipe, one)], check=True, capture_output=True)
    recipe = toml(tmp_path, index, epochs=3, drop_path=0, accumulate=accumulate)
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    if accumulate > 1:  # four parts of one clip would split pairs
        recipe.write_text(recipe.read_text().replace("mixup = 0.8, cutmix = 1.0, ", ""))
        (one / "last.pth").unlink()
        subprocess.run([sys.executable, *command(recipe, one)], check=True, capture_output=True)
    result = subprocess.run(
        [sys.executable, *launcher, *command(recipe, two)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    wanted, found = weights(one / "final.pth"), weights(two / "final.pth")
    for key in wanted:
        torch.testing.assert_close(found[key], wanted[key], rtol=1e-3, atol=1e-4)
    reports = [json.loads((run / "results.json").read_text()) for run in (one, two)]
    assert [report["tests"]["v_test"]["clips"] for report in reports] == [13, 13]
    assert reports[0]["tests"] == reports[1]["tests"]
    assert result.stdout.count("final.pth") == 1  # one process speaks


def test_accumulation_changes_no_more_than_rounding(tmp_path: Path) -> None:
    index = make_videos(tmp_path / "videos", 4)
    runs = []
    for parts in (1, 4):
        optim = {"steps": 2, "batch_size": 4, "accumulate": parts}
        Trainer(small(index, optim=optim), tmp_path / str(parts)).run(workers=0, progress=False)
        runs.append(weights(tmp_path / str(parts) / "final.pth"))
    for key, value in runs[0].items():
        torch.testing.assert_close(runs[1][key], value, rtol=1e-3, atol=1e-4)


def test_a_student_follows_its_teacher(tmp_path: Path) -> None:
    index = make_videos(tmp_path / "videos", 4)
    Trainer(small(index), tmp_path / "teacher").run(workers=0, progress=False)
    teacher = str(tmp_path / "teacher" / "final.pth")
    optim = {"steps": 25, "batch_size": 4, "optimizer": "sgd", "lr": 0.02, "clip_grad": 5}
    distill = {"teacher": teacher, "alpha": 1.0, "temperature": 2.0, "beta": 1.0}
    recipe = small(index, optim=optim, distill=distill, seed=3)
    student = Trainer(recipe, tmp_path / "student")
    student.run(workers=0, progress=False)
    rows = student.metrics.rows()
    for name in ("kd_loss", "modulation_loss"):
        values = [float(row[name]) for row in rows]
        assert np.mean(values[-5:]) < 0.7 * np.mean(values[:5])
    first = rows[0]
    total = float(first["kd_loss"]) + float(first["modulation_loss"])  # alpha is 1
    assert float(first["loss"]) == pytest.approx(total, rel=1e-3)
    assert student.learner.objective.teacher is not None
    kept = weights(tmp_path / "teacher" / "final.pth")
    now = student.learner.objective.teacher.model.state_dict()
    assert all(torch.equal(now[key], kept[key]) for key in kept)


def test_videos_without_labels_are_of_a_taught_student_alone(tmp_path: Path) -> None:
    index = make_videos(tmp_path / "videos", 4)
    Trainer(small(index), tmp_path / "teacher").run(workers=0, progress=False)
    folder = {"kind": "videos", "name": "more", "index": str(index.parent), "labelled": False}
    teacher = {"teacher": str(tmp_path / "teacher" / "final.pth"), "alpha": 0.5}
    changes = {
        "train": [{"kind": "videos", "name": "v", "index": str(index)}, {**folder, "weight": 3}],
        "optim": {"steps": 2, "batch_size": 8},
        "augment": {"mixup": 0.8},
    }
    student = Trainer(small(index, distill=teacher, **changes), tmp_path / "student")
    assert UNLABELLED in batch_of(student.clips, 0).classes
    student.run(workers=0, progress=False)
    assert np.isfinite([float(row["loss"]) for row in student.metrics.rows()]).all()
    alone = small(index, distill={**teacher, "alpha": 0}, **changes)
    assert [table.name for table in alone.learnt] == ["v"]
    clips = Trainer(alone, tmp_path / "alone").clips
    assert UNLABELLED not in batch_of(clips, 0).classes


def test_the_teacher_sees_the_mixed_clips_of_the_student(tmp_path: Path) -> None:
    index = make_videos(tmp_path / "videos", 4)
    Trainer(small(index), tmp_path / "teacher").run(workers=0, progress=False)
    distill = {"teacher": str(tmp_path / "teacher" / "final.pth")}
    recipe = small(index, distill=distill, augment={"mixup": 0.8, "crop": [0.5, 1.0]})
    trainer, seen = Trainer(recipe, tmp_path / "student"), []
    assert trainer.learner.objective.teacher is not None
    for model in (trainer.learner.network, trainer.learner.objective.teacher.model):
        model.register_forward_pre_hook(lambda _model, inputs: seen.append(inputs[0]))
    trainer._train_step(batch_of(trainer.clips, 0))
    assert len(seen) == 2
    assert torch.equal(seen[0], seen[1])


def test_cached_logits_change_nothing_and_spare_the_teacher(tmp_path: Path) -> None:
    index = make_videos(tmp_path / "videos", 4)
    Trainer(small(index), tmp_path / "teacher").run(workers=0, progress=False)
    found = []
    for name, cache_mb in (("plain", 0), ("fills", 1), ("reads", 1)):
        distill = {"teacher": str(tmp_path / "teacher" / "final.pth"), "cache_mb": cache_mb}
        trainer = Trainer(small(index, distill=distill), tmp_path / name)
        if name == "reads":
            assert trainer.learner.objective.teacher is not None
            assert trainer.learner.objective.teacher.cache is not None
            assert len(trainer.learner.objective.teacher.cache) == 6
            trainer.learner.objective.teacher.model.head.weight.fill_(
                float("nan")
            )  # it is not asked
        trainer.run(workers=0, progress=False)
        found.append(weights(tmp_path / name / "final.pth"))
    for other in found[1:]:
        assert all(torch.equal(found[0][key], other[key]) for key in other)
    with pytest.raises(RecipeError, match="the cache holds logits, not modulators"):
        small(index, distill={"teacher": "x", "beta": 1, "cache_mb": 1})


def test_the_cache_is_bounded_and_keyed_by_pixels(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    asked = []

    def teach(clips: torch.Tensor) -> torch.Tensor:
        asked.append(len(clips))
        return clips.flatten(1)[:, :3].clone()

    cache = TeacherCache(tmp_path / "new", "f" * 64, 3, max_mb=4 * 52e-6)  # room for four rows
    clips = torch.rand(3, 2, 3, 4, 4)
    first = cache.logits(clips, teach)
    assert torch.equal(cache.logits(clips, teach), first)
    assert torch.equal(cache.logits(clips.flip(0), teach), first.flip(0))
    assert asked == [3]
    mixed = torch.cat([clips[:1], clips[:1] + 5])
    assert torch.equal(cache.logits(mixed, teach)[0], first[0])
    assert asked == [3, 1]  # it is asked for what is missing
    with caplog.at_level(logging.WARNING):
        for seed in (1, 2):
            cache.logits(torch.rand(3, 2, 3, 4, 4) + seed, teach)
    assert asked == [3, 1, 3, 3]
    assert len(cache) == 4
    assert caplog.text.count("is full") == 1
    cache.close()
    again = TeacherCache(tmp_path / "new", "f" * 64, 3, max_mb=1)
    assert torch.equal(again.logits(clips, teach), first)
    assert asked == [3, 1, 3, 3]
    again.close()


def test_bf16_computes_in_bf16_and_keeps_float32_weights(tmp_path: Path) -> None:
    index = make_videos(tmp_path / "videos", 4)
    losses = []
    for precision in ("no", "bf16"):
        AcceleratorState._reset_state(True)
        optim = {"steps": 2, "batch_size": 2, "precision": precision}
        trainer = Trainer(small(index, optim=optim), tmp_path / precision, ON_CPU)
        trainer.run(workers=0, progress=False)
        assert all(
            value.dtype == torch.float32 for value in trainer.learner.network.state_dict().values()
        )
        losses.append(float(trainer.metrics.rows()[0]["loss"]))
    assert losses[0] != losses[1] == pytest.approx(losses[0], rel=0.1)


def test_fp16_on_a_cpu_is_an_error(tmp_path: Path) -> None:
    optim = {"steps": 1, "batch_size": 2, "precision": "fp16"}
    recipe = small(make_videos(tmp_path / "videos", 2), optim=optim)
    with pytest.raises(RecipeError, match=r"optim\.precision 'fp16' needs a GPU"):
        Trainer(recipe, tmp_path / "run", ON_CPU)


@pytest.mark.parametrize("name", ["WORLD_SIZE", "OMPI_COMM_WORLD_SIZE"])
def test_processes_that_do_not_see_each_other_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    recipe = small(make_videos(tmp_path / "videos", 2))
    monkeypatch.setenv(name, "2")
    with pytest.raises(DvflError, match=r"2 processes were started .* pass --cpu"):
        Trainer(recipe, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_one_corrupt_video_in_many_is_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    index = make_videos(tmp_path / "videos", 2)
    good, rows = (tmp_path / "videos" / "0.mp4").read_bytes(), ["file,label"]
    for k in range(100):
        (tmp_path / "videos" / f"x{k}.mp4").write_bytes(good if k else b"no video" * 99)
        rows.append(f"x{k}.mp4,{'ab'[k % 2]}")
    index.write_text("\n".join(rows) + "\n")
    test = [{"kind": "videos", "name": "v_test", "index": str(index)}]
    optim = {"epochs": 1, "batch_size": 25}
    confusions = Trainer(small(index, optim=optim, test=test), tmp_path / "run").run(
        workers=0, progress=False
    )
    assert confusions["v_test"].clips == 99
    report = json.loads((tmp_path / "run" / "results.json").read_text())
    assert report["tests"]["v_test"]["skipped"] == 1
    assert report["corrupt"]["v"] == [str(tmp_path / "videos" / "x0.mp4")]
    # the very files
    assert report["leaks"][0]["leaked"] == report["tests"]["v_test"]["leaked"] == 100
    assert "x0.mp4" in caplog.text


def test_many_corrupt_videos_stop_the_run_with_the_list(tmp_path: Path) -> None:
    index = make_videos(tmp_path / "videos", 8)
    (tmp_path / "videos" / "3.mp4").write_bytes(b"no video" * 99)
    optim = {"epochs": 1, "batch_size": 8}
    with pytest.raises(RecipeError, match=r"1 of 8 videos cannot be decoded.*3\.mp4"):
        Trainer(small(index, optim=optim), tmp_path / "run").run(workers=0, progress=False)


def test_a_split_that_leaks_is_refused_if_that_is_asked_for(tmp_path: Path) -> None:
    index = make_videos(tmp_path / "videos", 4)
    listed = {"kind": "videos", "index": str(index)}
    held = {"file": ["1.mp4", "2.mp4"]}
    parts = {
        "train": [{**listed, "name": "v", "exclude": held}],
        "test": [{**listed, "name": "t", "only": held}],
    }
    Trainer(small(index, **parts), tmp_path / "warns")
    with pytest.raises(RecipeError, match=r"2 of 2 videos share their source.*2 sources"):
        Trainer(small(index, **parts), tmp_path / "refuses", TrainOptions(strict_split=True))


def test_a_run_does_not_go_on_with_other_videos(tmp_path: Path) -> None:
    index = make_videos(tmp_path / "videos", 4)
    Trainer(small(index), tmp_path / "run").run(workers=0, progress=False)
    Trainer(small(index), tmp_path / "run", RESUME)
    (tmp_path / "videos" / "0.mp4").write_bytes((tmp_path / "videos" / "1.mp4").read_bytes() + b"x")
    with pytest.raises(DvflError, match="trained on other videos"):
        Trainer(small(index), tmp_path / "run", RESUME)


def test_what_a_run_leaves_behind(tmp_path: Path) -> None:
    index = make_videos(tmp_path / "videos", 4)
    test = [{"kind": "videos", "name": "v_test", "index": str(index)}]
    recipe = small(index, test=test, test_every=1)
    options = TrainOptions(tensorboard=True)
    trainer = Trainer(recipe, tmp_path / "run", options)
    trainer.run(workers=0, progress=False)
    run = tmp_path / "run"
    names = {path.name for path in run.iterdir()}
    assert names == {
        "best.pth", "confusion_v_test.png", "curves.png", "final.pth", "last.pth", "metrics.csv",
        "recipe.json", "results.json", "tensorboard",
    }  # fmt: skip
    assert list((run / "tensorboard").glob("events*"))
    accuracies = [float(row["v_test"]) for row in trainer.metrics.rows()]
    best = read_checkpoint(run / "best.pth").training
    assert best["accuracy"]["v_test"]["top1"] == max(accuracies)
    assert best["steps"] == accuracies.index(max(accuracies)) + 1
    top1 = json.loads((run / "results.json").read_text())["tests"]["v_test"]["top1"]
    assert top1["ci95"][0] <= top1["value"] <= top1["ci95"][1]


def test_a_run_is_resumed_where_there_is_one_and_nowhere_else(tmp_path: Path) -> None:
    index = make_videos(tmp_path / "videos", 2)
    with pytest.raises(DvflError, match=r"holds no run to go on with .* leave out --resume"):
        Trainer(small(index), tmp_path / "run", RESUME)
    assert not (tmp_path / "run").exists()
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(OutputError, match=r"folder .*file is a file; choose another --out"):
        Trainer(small(index), tmp_path / "file" / "run")
    Trainer(small(index), tmp_path / "run").run(workers=0, progress=False)
    more_often = small(index, test_every=1, checkpoint_every=1)  # nothing that is computed
    Trainer(more_often, tmp_path / "run", RESUME)


def test_a_new_head_on_trained_weights(tmp_path: Path) -> None:
    index = make_videos(tmp_path / "videos", 4)
    Trainer(small(index), tmp_path / "three").run(workers=0, progress=False)
    start = {"variant": "femto", "start": str(tmp_path / "three" / "final.pth"), "new_head": True}
    listed = {"kind": "videos", "index": str(index)}
    train = [{**listed, "name": "v"}, {**listed, "name": "w", "rename": {"a": "c"}}]
    more = small(index, labels=["a", "b", "c"], model=start, train=train)
    model = Trainer(more, tmp_path / "more").learner.network
    trained = weights(tmp_path / "three" / "final.pth")
    assert model.head.weight.shape[0] == 3
    assert torch.equal(model.norm.weight, trained["norm.weight"])
