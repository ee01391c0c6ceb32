"""The device and the precision of a run."""

import os
import subprocess
import sys
from pathlib import Path

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


SAME_START = """
import os, sys
from pathlib import Path
from accelerate import Accelerator
from dvfl_models.training.launch import check_same_start
from dvfl_runtime import DvflError
accelerator = Accelerator(cpu=True)
last = Path(sys.argv[1 + accelerator.process_index])
try:
    check_same_start(accelerator, last if last.exists() else None)
    print("SAME", flush=True)
except DvflError as err:
    print("OTHER", err, flush=True)
accelerator.end_training()
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("contents", "says"), [(("a", "a"), "SAME"), (("a", "b"), "OTHER"), (("a", None), "OTHER")]
)
def test_processes_go_on_from_the_same_file_or_refuse(
    contents: tuple[str | None, ...], says: str, tmp_path: Path
) -> None:
    program = tmp_path / "program.py"
    program.write_text(SAME_START)
    folders = [tmp_path / name for name in ("first", "second")]
    for path, content in zip(folders, contents, strict=True):
        if content is not None:
            path.write_text(content)
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    done = subprocess.run(
        [sys.executable, *launcher, program, *folders],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.count(says) == 2, done.stderr
