"""A step of training: how often it waits for the device, and its compiled form."""

import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import ON_CPU, make_videos, small
from torch.utils._python_dispatch import TorchDispatchMode

from dvfl_models.data.batches import batch_of
from dvfl_models.training.trainer import Trainer

pytestmark = pytest.mark.usefixtures("fresh_accelerate")
# operators whose result the host has to know before it can go on
READS = {"aten::_local_scalar_dense", "aten::nonzero", "aten::equal", "aten::masked_select"}


class ReadsSeen(TorchDispatchMode):
    """Remembers the operators for which a host would wait for its GPU."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> object:
        self.names += [func.name()] if func.name() in READS else []
        return func(*args, **(kwargs or {}))


def test_a_step_in_parts_waits_for_the_device_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = make_videos(tmp_path / "videos", 4)
    optim = {"steps": 2, "batch_size": 8, "accumulate": 4}
    # augmentation draws its parameters on the host, where nothing waits
    augment = {"flip": 0, "degrees": 0, "translate": 0, "scale": [1, 1], "jitter": 0, "grey": 0}
    recipe = small(index, optim=optim, augment={**augment, "degrade": 0})
    trainer = Trainer(recipe, tmp_path / "run", ON_CPU)
    learner, reads = trainer.learner, []
    read = learner._read
    batch = batch_of(trainer.clips, 0)
    inputs = [learner.inputs.make(part, 0) for part in batch.parts(4)]
    monkeypatch.setattr(learner.inputs, "make", lambda *_: inputs.pop(0))
    monkeypatch.setattr(learner, "_read", lambda *args: reads.append(1) or read(*args))
    monkeypatch.setattr(learner, "_update", lambda *_, **__: None)  # reads the CPU's step numbers
    with ReadsSeen() as seen:
        row = learner.train_step(batch, 0)
    assert len(reads) == 1
    assert seen.names == []  # `tolist` of a tensor on the CPU is not an operator
    assert row["loss"] > 0


def compiler(broken: bool) -> Callable[[torch.nn.Module], Callable[..., object]]:
    def compiled(network: torch.nn.Module) -> Callable[..., object]:
        def run(*args: object) -> object:
            if broken:
                from torch._dynamo.exc import TorchDynamoException

                raise TorchDynamoException("no compiler\nis found")
            return network(*args)

        return run

    return compiled


def test_without_a_compiler_training_goes_on_with_one_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    index = make_videos(tmp_path / "videos", 2)
    rows = []
    for broken in (False, True):
        monkeypatch.setattr(torch, "compile", compiler(broken))
        optim = {"steps": 2, "batch_size": 2, "compile": True}
        with caplog.at_level(logging.WARNING):
            trainer = Trainer(small(index, optim=optim), tmp_path / str(broken), ON_CPU)
            trainer.run(workers=0, progress=False)
        rows.append([row["loss"] for row in trainer.metrics.rows()])
        assert (trainer.learner.student is trainer.learner.trained) == broken
    assert rows[0] == rows[1]
    told = [r.message for r in caplog.records if "torch.compile" in r.message]
    assert told == ["torch.compile cannot be used here, training goes on without it: no compiler"]


@pytest.mark.slow
@pytest.mark.parametrize("beta", [0, 1])
def test_a_compiled_run_comes_to_the_result_of_a_plain_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, beta: int
) -> None:
    """Traced and differentiated ahead of time as on a GPU; PyTorch's own operators compute it."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    index = make_videos(tmp_path / "videos", 4)
    Trainer(small(index), tmp_path / "teacher", ON_CPU).run(workers=0, progress=False)
    distill = {"teacher": str(tmp_path / "teacher" / "final.pth"), "beta": beta}
    losses = []
    for compiled in (False, True):
        optim = {"steps": 3, "batch_size": 4, "accumulate": 2, "compile": compiled}
        recipe = small(index, optim={**optim, "checkpointing": beta == 1}, distill=distill)
        trainer = Trainer(recipe, tmp_path / str(compiled), ON_CPU)
        trainer.run(workers=0, progress=False)
        assert (trainer.learner.student is not trainer.learner.trained) == compiled
        losses.append([float(row["loss"]) for row in trainer.metrics.rows()])
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)
