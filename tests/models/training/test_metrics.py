"""What a run writes beside its checkpoints."""

import contextlib
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from dvfl_models.distillation.teacher_cache import TeacherCache
from dvfl_models.training.metrics import Metrics, ProgressLog
from dvfl_runtime.errors import OutputError


@contextlib.contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_is_one_error_and_leaves_whole_rows(tmp_path: Path) -> None:
    metrics = Metrics(tmp_path)
    with files_of_at_most(40):
        metrics.append({"step": 1, "loss": "0.5", "train_accuracy": ""})
        with pytest.raises(OutputError, match=r"metrics.csv: File too large"):
            metrics.append({"step": 2, "loss": "0.25", "train_accuracy": "0.125"})
    assert metrics.rows() == [{"step": "1", "loss": "0.5", "train_accuracy": ""}]


def test_half_a_row_of_a_run_that_was_killed_does_not_tear_the_next(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text("step,loss\n1,0.5\n2,0.")
    metrics = Metrics(tmp_path)
    metrics.forget_after(1)
    metrics.append({"step": 2, "loss": 0.25})
    assert metrics.rows() == [{"step": "1", "loss": "0.5"}, {"step": "2", "loss": "0.25"}]


def test_a_full_disk_ends_the_store_of_logits_and_not_the_training(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cache = TeacherCache(tmp_path, "f" * 64, 3, max_mb=1)
    clips = torch.arange(4 * 2 * 3 * 4 * 4).reshape(4, 2, 3, 4, 4)
    with files_of_at_most(100):
        for _ in range(2):
            logits = cache.logits(clips, lambda some: some.float().mean((1, 3, 4)))
    assert logits.shape == (4, 3)
    (record,) = caplog.records
    assert "further logits are not kept" in record.getMessage()
    assert len(cache) == 0
    cache.close()


def test_a_run_without_a_terminal_logs_where_it_is(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    progress = ProgressLog(step=10, steps=100)
    progress.tell(11, {"loss": "0.5"})
    assert not caplog.messages  # a minute has not passed
    progress.tell(100, {"loss": "0.5", "clips/s": "9"})
    ProgressLog(step=0, steps=2, every_s=0).tell(1, {})
    assert caplog.messages[0] == "step 100 of 100, loss 0.5, clips/s 9, 0 s left"
    assert caplog.messages[1].startswith("step 1 of 2, ")
