"""What a run writes beside its checkpoints."""

import resource
from pathlib import Path

import pytest

from dvfl_models.run_files import Metrics
from dvfl_runtime.errors import OutputError


def test_a_full_disk_is_one_error_and_leaves_whole_rows(tmp_path: Path) -> None:
    metrics = Metrics(tmp_path)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (40, before[1]))
    try:
        metrics.append({"step": 1, "loss": "0.5", "train_accuracy": ""})
        with pytest.raises(OutputError, match=r"metrics.csv: File too large"):
            metrics.append({"step": 2, "loss": "0.25", "train_accuracy": "0.125"})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert metrics.rows() == [{"step": "1", "loss": "0.5", "train_accuracy": ""}]


def test_half_a_row_of_a_run_that_was_killed_does_not_tear_the_next(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text("step,loss\n1,0.5\n2,0.")
    metrics = Metrics(tmp_path)
    metrics.forget_after(1)
    metrics.append({"step": 2, "loss": 0.25})
    assert metrics.rows() == [{"step": "1", "loss": "0.5"}, {"step": "2", "loss": "0.25"}]
