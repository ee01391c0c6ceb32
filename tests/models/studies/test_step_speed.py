"""The forms of a training step."""

import pytest
import torch

from dvfl_models.studies.step_speed import measure


@pytest.mark.slow
def test_each_form_is_a_row_and_so_is_one_that_cannot_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_compiler(_: torch.nn.Module) -> None:
        raise RuntimeError("no compiler\nis found")

    monkeypatch.setattr(torch, "compile", no_compiler)
    rows = measure("femto", 1, (2, 3, 32, 32))
    assert [row["form"] for row in rows] == [
        "fp32", "bf16", "channels_last", "checkpointing", "compiled"
    ]  # fmt: skip
    assert rows[0]["times_fp32"] == rows[0]["cpu_times_fp32"] == 1
    assert all(row["median_ms"] > 0 for row in rows[:-1])
    assert rows[-1]["error"] == "RuntimeError: no compiler"
