"""What the fused kernels are worth: the comparison as small as it can be."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from kernel_nodes import Sizes, context_case
from kernels_library import LIBRARY, Unavailable, build

from dvfl_bench.comparisons.kernels import main
from dvfl_bench.comparisons.node_profiles import (
    fused_node_models,
    least_ms,
    ms_by_operator,
    profiled_runs,
)


@pytest.fixture(scope="module")
def library(pytestconfig: pytest.Config) -> Path:
    try:
        return build(pytestconfig.cache.mkdir("kernels")) / LIBRARY
    except Unavailable as err:
        pytest.skip(str(err))


def test_a_node_is_cut_out_and_profiled_with_and_without_its_kernel(library: Path) -> None:
    case = context_case("SpatialContext", Sizes(2, 5, 6, 16, levels=2))
    (cut,) = fused_node_models(case.model(), case.inputs)
    assert cut.kind == "SpatialContext"
    assert cut.inputs.keys() == case.inputs.keys()
    for name, value in cut.inputs.items():
        np.testing.assert_array_equal(value, case.inputs[name])
    libraries = {"functions": None, "kernels": library}
    found = profiled_runs(cut.model, cut.inputs, libraries, threads=1, repeats=2)
    assert {operator for _, operator in found["kernels"]} == {"SpatialContext"}
    assert all(len(times) == 2 for times in found["kernels"].values())
    functions = ms_by_operator(found["functions"])
    assert {"Conv", "Gelu"} <= functions.keys()
    assert functions["all"] == pytest.approx(least_ms(found["functions"]), abs=1e-3)


def test_a_missing_library_is_one_error(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert main(["--library", str(tmp_path / "none.so")]) == 2
    assert f"--library {tmp_path / 'none.so'} does not exist" in caplog.text


@pytest.mark.slow  # exports, quantises and compiles two networks
@pytest.mark.timeout(600)
def test_the_whole_comparison(library: Path, tmp_path: Path) -> None:
    out = tmp_path / "kernels.json"
    small = ["--size", "32", "--repeats", "2", "--library", str(library), "--json", str(out)]
    assert main(small) == 0
    result = json.loads(out.read_text())
    assert result["networks"].keys() == {"nano", "bundled"}
    for network in result["networks"].values():
        assert network["precisions"].keys() == {"fp32", "int8"}
        for found in network["precisions"].values():
            assert found["kernels_over_standard"].keys() == {"median", "min", "cpu"}
            assert all(row["ratio"] > 0 for row in found["profile"]["nodes"].values())
            assert found["profile"]["by_operator"].keys() == {"functions", "kernels"}
