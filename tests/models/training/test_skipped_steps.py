"""Steps whose loss or gradient is not finite."""

import itertools
import json
import logging
from pathlib import Path

import pytest
import torch
from accelerate.optimizer import AcceleratedOptimizer
from small_runs import ON_CPU, RESUME, make_videos, small

from dvfl_models.data.batches import batch_of
from dvfl_models.training.skipped_steps import IN_A_ROW_SCALED
from dvfl_models.training.trainer import Trainer
from dvfl_runtime.errors import DvflError

pytestmark = pytest.mark.usefixtures("fresh_accelerate")


def test_a_loss_that_is_never_finite_names_the_clips(tmp_path: Path) -> None:
    index = make_videos(tmp_path / "videos", 4)
    trainer = Trainer(small(index, checkpoint_every=1), tmp_path / "run")
    with torch.no_grad():
        trainer.learner.network.head.bias[0] = float("inf")
    with pytest.raises(DvflError, match=r"the weights are not finite after step 1; lower"):
        trainer._after_step(trainer._train_step(batch_of(trainer.clips, 0)))
    assert not (tmp_path / "run" / "last.pth").exists()
    trainer._train_step(batch_of(trainer.clips, 1))
    with pytest.raises(DvflError, match=r"at step 2, lr 0\..*3 steps in a row.*videos/\d\.mp4"):
        trainer._train_step(batch_of(trainer.clips, 2))
    failed = json.loads((tmp_path / "run" / "failed_steps_0.json").read_text())
    assert [row["step"] for row in failed] == [0, 1, 2]
    assert len(failed[0]["clips"]) == 2


def poisoned(trainer: Trainer, steps: set[int]) -> None:
    """Makes the gradient of these steps infinite, as an overflow does."""

    def overflow(gradient: torch.Tensor) -> torch.Tensor | None:
        return gradient * float("inf") if trainer.step in steps else None

    trainer.learner.network.head.bias.register_hook(overflow)


def test_a_gradient_that_is_not_finite_once_is_skipped_and_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    index = make_videos(tmp_path / "videos", 4)
    optim = {"steps": 8, "batch_size": 2, "ema": 0.5}
    trainer = Trainer(small(index, optim=optim, checkpoint_every=8), tmp_path / "run")
    poisoned(trainer, {1, 2, 3, 4, 6})  # four in a row, and one more
    before: list[torch.Tensor] = []
    for step in range(8):
        trainer._after_step(trainer._train_step(batch_of(trainer.clips, step)))
        assert trainer.learner.averaged is not None
        networks = (trainer.learner.network, trainer.learner.deployed)
        before.append(torch.cat([network.head.weight for network in networks]).clone())
    changed = [not torch.equal(*pair) for pair in itertools.pairwise(before)]
    assert changed == [False] * 4 + [True, False, True]
    assert caplog.text.count("is skipped, the gradient is") == 5
    assert [row["skipped"] for row in trainer.metrics.rows()] == [*"01234455"]
    resumed = Trainer(small(index, optim=optim), tmp_path / "run", RESUME)
    assert resumed.learner.skipped.count == 5


def test_the_scaler_of_fp16_lowers_its_scale_and_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """On a CPU the scaler is put in by hand; what it does to the steps is the same."""
    trainer = Trainer(small(make_videos(tmp_path / "videos", 2)), tmp_path / "run", ON_CPU)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**16)
    trainer.accelerator.scaler = scaler
    learner = trainer.learner
    learner.optimizer = AcceleratedOptimizer(learner.optimizer.optimizer, scaler=scaler)
    trainer.accelerator._optimizers = [learner.optimizer]
    trainer.accelerator.state._mixed_precision = "fp16"
    poisoned(trainer, {0, 1})
    trainer.learner.skipped.most = IN_A_ROW_SCALED
    scales = []
    for step in range(3):
        trainer._train_step(batch_of(trainer.clips, step))
        scales.append(scaler.get_scale())
    assert scales == [2.0**15, 2.0**14, 2.0**14]
    assert trainer.learner.skipped.count == 2
    told = [r for r in caplog.records if r.levelno > logging.INFO and "is skipped" in r.message]
    assert not told  # nothing that anybody has to look at
