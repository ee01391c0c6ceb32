"""The folder of a run: its results, resuming, and runs that are refused or fail."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from small_runs import tiny

from dvfl_models import read_checkpoint
from dvfl_models.training import learner
from dvfl_models.training.launch import TrainOptions
from dvfl_models.training.metrics import smoothed
from dvfl_models.training.trainer import Trainer
from dvfl_runtime.errors import CheckpointError, DvflError

RESUME = TrainOptions(resume=True)


def weights(folder: Path, name: str = "final.pth") -> dict[str, torch.Tensor]:
    return dict(read_checkpoint(folder / name).state_dict)


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


def test_curves_are_smoothed_over_a_fifteenth_of_the_run() -> None:
    noise = np.random.default_rng(0).normal(0, 1, 600)
    assert smoothed(noise).std() < 0.3
    line = np.linspace(0, 1, 600)
    np.testing.assert_allclose(smoothed(line)[20:-20], line[20:-20], atol=1e-9)
    np.testing.assert_allclose(smoothed(np.full(45, 2.0)), 2.0)
    np.testing.assert_allclose(smoothed(line[:29]), line[:29])  # a short run is drawn as it is


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


def test_a_loss_that_is_never_finite_stops_with_the_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = Trainer(tiny(), tmp_path / "run")
    measure = learner._measure
    monkeypatch.setattr(learner, "_measure", lambda *given: measure(*given) * float("nan"))
    with pytest.raises(DvflError, match=r"loss is nan at step 3, lr .* last of 4 steps in a row"):
        trainer.run(workers=0, progress=False)
    assert read_checkpoint(tmp_path / "run" / "last.pth").trainer["step"] == 2
    assert all(value.isfinite().all() for value in weights(tmp_path / "run", "last.pth").values())
