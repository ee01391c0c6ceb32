"""What several regions cost, as committed and as measured."""

from __future__ import annotations

import json

import pytest
from shared import ROOT

from dvfl_bench.comparisons.region_cost import measure, walking
from dvfl_runtime import Frame
from dvfl_runtime.clips.boxes import as_region

RESULT = ROOT / "benchmarks/results/epyc-avx512-2core/region_cost.json"


def test_the_committed_result_keeps_what_it_promises() -> None:
    result = json.loads(RESULT.read_text())
    for unit in ("median", "cpu"):
        assert result["ten_over_ten_times_one"][unit] < 0.5
    peaks = result["peak_mb"]
    assert peaks["1"] - peaks["0"] <= 40


def test_boxes_stay_within_the_picture() -> None:
    for time_s in (0.0, 1.5, 3.0, 60.0):
        for box in walking(10, Frame(lambda: None, time_s, 0)).values():  # type: ignore[arg-type, return-value]
            region = as_region(box)
            assert region is not None
            assert region == pytest.approx(box)


@pytest.mark.slow
def test_the_cost_is_measured() -> None:
    result = measure("onnxruntime", 1, 1, 3.0)
    assert result["ten_over_ten_times_one"]["median"] > 0
    assert set(result["peak_mb"]) == {"0", "1", "10"}
