"""The latency of one clip, and the machine it was measured on."""

import json
from pathlib import Path

import pytest

from dvfl_bench.latency import main
from dvfl_runtime.recognizer import BUNDLED_MODEL


def test_latency_of_the_bundled_model(tmp_path: Path) -> None:
    out = tmp_path / "latency.json"
    assert main([str(BUNDLED_MODEL), "--repeats", "5", "--json", str(out)]) == 0
    result = json.loads(out.read_text())
    assert 0 < result["p50_ms"] <= result["p99_ms"] <= result["max_ms"]
    assert result["n"] == 5
    assert result["clip"] == [8, 64, 64]
    assert result["machine"]["cores"] >= 1
    assert result["machine"]["versions"]["onnxruntime"]


def test_a_missing_model_is_one_error(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert main([str(tmp_path / "none.onnx")]) == 2
    assert "cannot read model" in caplog.text
