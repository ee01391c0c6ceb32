"""The check of the CUDA kernels, in its small form on a CPU."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
from cuda_emulation import unwatched

from dvfl_kernels import gpu_check


def test_rows_of_every_node(
    pytestconfig: pytest.Config,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if not shutil.which("g++"):
        pytest.skip("needs g++")
    library = unwatched(pytestconfig.cache.mkdir("kernels"))
    monkeypatch.setattr(gpu_check, "build_emulated", lambda to: shutil.copy(library, to))
    path = tmp_path / "kernels.json"
    monkeypatch.setattr(sys, "argv", ["gpu_check", "--json", str(path)])
    assert gpu_check.main() == 0
    rows = json.loads(path.read_text(encoding="utf-8"))["rows"]
    assert not [row for row in rows if "error" in row]
    parity = [row for row in rows if row["row"] == "parity"]
    assert all(row["passed"] for row in parity)
    nodes = ("SpatialContext", "TemporalContext", "BiasGelu")
    both = ("fp16", "fp32")
    assert {(r["node"], r["precision"]) for r in parity} == {(n, p) for n in nodes for p in both}
    assert len([row for row in rows if row["row"] == "time" and row["over_eager"] > 0]) == 4


def test_what_cannot_be_built_is_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    path = tmp_path / "kernels.json"
    monkeypatch.setattr(sys, "argv", ["gpu_check", "--json", str(path)])
    assert gpu_check.main() == 0
    rows = json.loads(path.read_text(encoding="utf-8"))["rows"]
    assert rows == [{"row": "build", "reason": "there is no g++"}]


def test_a_node_that_fails_is_a_row() -> None:
    def broken() -> None:
        raise RuntimeError("an illegal\nmemory access")

    said = {"row": "error", "error": "RuntimeError: an illegal memory access"}
    assert gpu_check._tried(broken) == said
