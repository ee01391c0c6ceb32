"""The device and the precision of a run."""

import pytest
import torch

from dvfl_models.recipe.tables import OptimTable
from dvfl_models.training.launch import TrainOptions, is_compiled, with_precision

CPU, GPU = torch.device("cpu"), torch.device("cuda")


def table(**values: object) -> OptimTable:
    return OptimTable.model_validate({"steps": 1, **values})


@pytest.mark.parametrize(
    ("cuda", "native", "cpu", "given", "chosen"),
    [
        (False, False, False, "auto", "no"),
        (True, True, False, "auto", "bf16"),
        (True, False, False, "auto", "no"),
        (True, True, True, "auto", "no"),  # --cpu
        (True, True, False, "tf32", "tf32"),
    ],
)
def test_the_precision_that_auto_stands_for(
    monkeypatch: pytest.MonkeyPatch, cuda: bool, native: bool, cpu: bool, given: str, chosen: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: native)
    assert with_precision(table(precision=given), TrainOptions(cpu=cpu)).precision == chosen


def test_long_runs_on_a_gpu_are_compiled() -> None:
    assert not is_compiled(table(steps=100_000), CPU)
    assert not is_compiled(table(steps=300), GPU)
    assert is_compiled(table(steps=100_000), GPU)
    assert is_compiled(table(compile=True), CPU)
    assert not is_compiled(table(steps=100_000, compile=False), GPU)
