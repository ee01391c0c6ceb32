"""The stopwatch of a process's first prediction."""

import json
from pathlib import Path

import pytest

from dvfl_bench.comparisons.startup import main


@pytest.mark.slow  # starts five processes
def test_one_run_on_the_bundled_clip(tmp_path: Path) -> None:
    out = tmp_path / "startup.json"
    assert main(["--runs", "1", "--json", str(out)]) == 0
    result = json.loads(out.read_text())
    assert result["import_s"] > 0
    first = result["first_prediction"]
    assert first["onnxruntime"]["chosen"] == ["onnxruntime"]
    assert first["onnxruntime"]["elapsed_s"] > result["import_s"]
    assert {"auto, nothing remembered", "auto, remembered"} < set(first)


def test_a_missing_model_is_one_error(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert main([str(tmp_path / "none.onnx"), "--runs", "1"]) == 2
    assert "cannot read model" in caplog.text
