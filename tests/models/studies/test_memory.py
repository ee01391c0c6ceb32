"""The memory of a clip, computed without a GPU."""

import json
from pathlib import Path

import pytest
import torch

from dvfl_models import build_model
from dvfl_models.studies import memory
from dvfl_models.studies.memory import LiveBytes, fitting, in_bf16, peak_bytes, table

MODELS = Path(__file__).parents[3] / "models"


def test_tensors_are_counted_while_they_live() -> None:
    with LiveBytes() as live:
        one = torch.empty(1000, device="meta")
        view = one.view(10, 100)
        two = torch.empty(250, device="meta")
        assert live.now == 5000
        del one
        assert live.now == 5000  # the view keeps it
        del view
        three = torch.empty(1000, device="meta")
        assert live.now == live.peak == 5000
    assert two.device == three.device


def test_nano_takes_what_it_took_on_a_gpu() -> None:
    results = json.loads((MODELS / "results" / "h200" / "training.json").read_text())
    measured = {
        row["precision"]: row["memory_per_clip_gb"]
        for row in results["rows"]
        if row.get("network") == "nano" and row.get("clip", [0, 0, 0])[2] == 224
        if "memory_per_clip_gb" in row and row["precision"] != "tf32"
    }
    assert sorted(measured) == ["bf16", "fp32"]
    with torch.device("meta"):
        models = {"fp32": build_model("nano").train(), "bf16": in_bf16(build_model("nano").train())}
    for precision, gigabytes in measured.items():
        few, many = (peak_bytes(models[precision], clips) for clips in (8, 16))
        assert (many - few) / 8e9 == pytest.approx(gigabytes, rel=0.02)


def test_recomputed_blocks_take_less() -> None:
    peaks = []
    for recomputed in (False, True):
        with torch.device("meta"):
            model = in_bf16(build_model("femto").train())
        if recomputed:
            model.recompute_blocks()
        peaks.append(peak_bytes(model, 32))
    assert peaks[1] < 0.6 * peaks[0]


def test_what_fits_into_a_gpu() -> None:
    found = fitting(1.0, 4.0)
    assert found["clips"] == {"8": 3, "16": 10, "24": 17, "48": 39, "80": 68}
    assert found["accumulate"] == {"8": 32, "16": 8, "24": 4, "48": 2, "80": 1}
    assert fitting(1.0, 8.0)["accumulate"]["8"] is None


def test_the_guide_has_the_table_of_the_results() -> None:
    rows = json.loads((MODELS / "results" / "memory.json").read_text())["rows"]
    assert table(rows) in (MODELS / "README.md").read_text()


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    row = {"variant": "x", "precision": "bf16", "checkpointing": True, "clip_gb": 1.0}
    row |= {"fixed_gb": 8.0, **fitting(1.0, 8.0)}
    monkeypatch.setattr(memory, "measure", lambda _: [row])
    assert memory.main(["femto", "--json", str(tmp_path / "memory.json")]) == 0
    found = json.loads((tmp_path / "memory.json").read_text())
    assert found["rows"] == [row]
    assert memory.main(["femto", "--json", str(tmp_path / "no" / "such" / "memory.json")]) == 2
    assert table([row]).endswith(
        "`x`, bf16, checkpointing | 1.00 GB | 8.0 GB | - | 16 | 8 | 2 | 1 |"
    )
