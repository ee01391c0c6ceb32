"""The bounds of devices that nobody has: what a graph costs, and what peaks make of it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from dvfl_bench.comparisons.graph_costs import NodeCost, node_costs
from dvfl_bench.comparisons.networks import floats_of
from dvfl_bench.comparisons.products import PRODUCT_MACS, fastest, product_runs
from dvfl_bench.comparisons.published_peaks import PUBLISHED, Peaks
from dvfl_bench.comparisons.roofline import bounds_ms, draw, main
from dvfl_bench.device.timing import paired_times
from dvfl_export.precision.quantise import quantise
from dvfl_export.precision.ranges import activation_ranges
from dvfl_runtime.artifact import ModelFile
from dvfl_runtime.errors import DvflError
from dvfl_runtime.recognizer import BUNDLED_MODEL

TOKENS, WIDTH = 8 * 16 * 16, 32  # of the first stage of the bundled model


@pytest.fixture(scope="module")
def files() -> dict[str, onnx.ModelProto]:
    """Return the bundled model in float32 and in int8."""
    graph = onnx.load(BUNDLED_MODEL)
    clip = np.random.default_rng(0).integers(0, 256, (8, 64, 64, 3), dtype=np.uint8)
    ranges = activation_ranges(graph, [clip])
    return {"fp32": graph, "int8": quantise(graph, ranges, floats_of(graph, "bundled"))}


def total(costs: list[NodeCost], name: str) -> int:
    return sum(getattr(cost, name) for cost in costs)


def test_multiply_adds_are_those_of_the_network_without_padding_and_folded_layers(
    files: dict[str, onnx.ModelProto],
) -> None:
    costs = node_costs(files["fp32"])
    macs = total(costs, "product_macs") + total(costs, "depthwise_macs")
    published = ModelFile(BUNDLED_MODEL).artifact.macs
    assert 0.85 * published < macs < published
    in_int8 = node_costs(files["int8"])
    assert total(in_int8, "product_macs") == total(costs, "product_macs")
    quantised = sum(cost.product_macs for cost in in_int8 if cost.integer)
    assert 0.9 * macs < quantised < macs  # some layers stay in float32
    assert not any(cost.integer for cost in costs)


def test_a_node_reads_its_inputs_and_writes_its_outputs_in_the_types_of_the_file(
    files: dict[str, onnx.ModelProto],
) -> None:
    kinds = {}
    for name, model in files.items():
        for cost in node_costs(model):
            kinds.setdefault((name, cost.operator), cost)  # the first of each kind
    values = TOKENS * WIDTH
    gates = 4 * TOKENS * 6
    assert kinds["fp32", "BiasGelu"].activation_bytes == 2 * 4 * 4 * values
    # with the product before it, of bytes
    assert kinds["int8", "QLinearBiasGelu"].activation_bytes == (1 + 4) * values
    assert kinds["int8", "QLinearModulate"].product_macs == 3 * values * WIDTH
    assert kinds["fp32", "SpatialContext"].activation_bytes == 2 * 4 * values + gates
    assert kinds["int8", "QTemporalContext"].activation_bytes == 2 * values + gates
    # 3 taps at each of 8 frames less one at either end, 5 less three there; 16 px likewise
    assert kinds["fp32", "TemporalContext"].product_macs == 16 * 16 * (22 + 34) * WIDTH**2
    assert kinds["fp32", "SpatialContext"].depthwise_macs == 8 * (46**2 + 74**2) * WIDTH


def test_weights_are_read_once_and_have_their_bytes(files: dict[str, onnx.ModelProto]) -> None:
    floats = total(node_costs(files["fp32"]), "weight_bytes")
    parameters = sum(np.prod(weight.dims) for weight in files["fp32"].graph.initializer)
    assert 0.98 * 4 * parameters < floats <= 4 * parameters
    halves = total(node_costs(files["fp32"], float_bytes=2), "weight_bytes")
    assert halves == pytest.approx(floats / 2, rel=1e-4)
    assert total(node_costs(files["int8"]), "weight_bytes") < 0.35 * floats


def test_bounds_by_hand() -> None:
    costs = [
        NodeCost("MatMul", 10**9, 0, integer=True, weight_bytes=10**6, activation_bytes=10**6),
        NodeCost("Add", 0, 0, integer=False, weight_bytes=0, activation_bytes=3 * 10**6),
        NodeCost("SpatialContext", 0, 10**8, integer=False, weight_bytes=0, activation_bytes=0),
    ]
    peaks = Peaks({"fp32": 100.0, "fp16": 200.0, "int8": 400.0}, 50.0, gb_s=1.0)
    # 2e9 operations at 400 a nanosecond are 5 ms, 2e8 at 50 are 4 ms; 3e6 bytes at 1 a ns are 3 ms
    assert bounds_ms(costs, peaks, "int8") == pytest.approx((9.0, 12.0))
    slow = Peaks(peaks.gflops, 50.0, gb_s=0.1)
    assert bounds_ms(costs, slow, "int8") == pytest.approx((10.0, 20.0 + 30.0 + 4.0))


def test_other_graphs_are_refused(files: dict[str, onnx.ModelProto]) -> None:
    other = onnx.ModelProto()
    other.CopyFrom(files["fp32"])
    next(node for node in other.graph.node if node.op_type == "MatMul").op_type = "Gemm"
    with pytest.raises(DvflError, match=r"Gemm .* cannot be counted; pass a file of dvfl-export"):
        node_costs(other)


def test_every_published_peak_has_sources_with_dates() -> None:
    for device, peaks in PUBLISHED.items():
        assert peaks.sources, device
        assert any("(" in source and "20" in source for source in peaks.sources)
        assert peaks.gflops["fp32"] < peaks.gflops["fp16"] < peaks.gflops["int8"]


def test_the_fastest_library_counts(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    torch.set_num_threads(1)
    times = paired_times(product_runs(tmp_path, 1, "fp32", "bf16", "int8"), 1)
    assert {precision for precision, _ in times} == {"fp32", "bf16", "int8"}
    assert {library for _, library in times} == {"torch", "onnxruntime", "openvino"}
    every = [taken[0, 0] for (kind, _), taken in times.items() if kind == "fp32"]
    assert fastest(times)[0, 0] == min(every)
    assert PRODUCT_MACS == 1024**3


@pytest.mark.slow  # exports and quantises two networks
def test_the_whole_sheet(tmp_path: Path) -> None:
    out, plot = tmp_path / "out.json", tmp_path / "out.png"
    small = ["--size", "32", "--rounds", "1", "--threads", "1"]
    assert main([*small, "--json", str(out), "--plot", str(plot)]) == 0
    result = json.loads(out.read_text())
    for network in result["networks"].values():
        for bounds in network["bounds"].values():
            for row in bounds.values():
                assert 0 < row["at_least_ms"] <= row["node_by_node_ms"]
        assert network["costs"]["int8"]["of_them_int8"] > 0
    assert result["this_cpu"]["engines"].keys() == {"nano", "bundled"}
    assert plot.stat().st_size > 20_000
    draw(result, plot)
