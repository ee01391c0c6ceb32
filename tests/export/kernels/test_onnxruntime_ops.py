"""Each node with the library against its function in onnxruntime, on every set of instructions."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from kernel_nodes import (
    LINEAR,
    ROWS,
    Array,
    NodeCase,
    Sizes,
    context_case,
    linear_case,
    rows_case,
    run_node,
)

INSTRUCTIONS = ("plain", "avx2", "avxvnni", "avx512", "avx512vnni", "neon", "neondot")
CONTEXTS = ("SpatialContext", "TemporalContext", "QSpatialContext", "QTemporalContext")
SIZES = [
    Sizes(frames=4, height=9, width=15, channels=16, levels=2),
    Sizes(frames=3, height=2, width=3, channels=24, levels=3),  # smaller than the kernels
    Sizes(frames=8, height=6, width=1, channels=21, levels=2),
    Sizes(frames=1, height=1, width=1, channels=1, levels=1, batch=1),
    Sizes(frames=5, height=3, width=8, channels=35, levels=5, batch=3),
    Sizes(frames=2, height=14, width=28, channels=40, levels=1, batch=1),
    Sizes(frames=8, height=13, width=7, channels=96, levels=2, batch=1),  # several blocks
]
TOKENS = [(7, 33), (1, 1), (50, 64), (300, 96)]
CASES = [context_case(op, sizes) for op in CONTEXTS for sizes in SIZES]
CASES += [rows_case(op, *shape) for op in ROWS for shape in TOKENS]
# tokens, inputs and outputs: no multiple of a block, of four bytes, of a vector; several blocks
LINEAR_SIZES = [(1, 1, 1), (7, 21, 33), (29, 64, 6), (300, 96, 80)]
CASES += [linear_case(op, *shape) for op in LINEAR for shape in LINEAR_SIZES]
IDS = [
    f"{case.op}-{'x'.join(map(str, case.inputs[next(iter(case.inputs))].shape))}" for case in CASES
]


def runs_here(library: Path, name: str) -> bool:
    """Tell whether the library has these instructions, and this CPU, too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DVFL_KERNELS_CPU", name)
        try:
            onnxruntime.SessionOptions().register_custom_ops_library(str(library))
        except onnxruntime.capi.onnxruntime_pybind11_state.Fail:
            return False
    return True


@pytest.fixture(scope="session")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Array]:
    """Return what the functions make of the cases."""
    found = {}
    for index, case in enumerate(CASES):
        found[index], itself = run_node(case, None, tmp_path_factory.mktemp("profile"))
        assert not itself
    return found


@pytest.mark.parametrize("instructions", INSTRUCTIONS)
def test_nodes_equal_their_functions(
    instructions: str,
    library: Path,
    expected: dict[int, Array],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if not runs_here(library, instructions):
        pytest.skip(f"not on this CPU: {instructions}")
    monkeypatch.setenv("DVFL_KERNELS_CPU", instructions)
    for index, case in enumerate(CASES):
        out, itself = run_node(case, library, tmp_path)
        assert itself, IDS[index]
        check(case, out, expected[index], IDS[index])


def check(case: NodeCase, out: Array, wanted: Array, name: str) -> None:
    assert out.dtype == wanted.dtype
    assert out.shape == wanted.shape
    if out.dtype == np.uint8:
        steps = np.abs(out.astype(int) - wanted.astype(int))
        # a value beside a tie may fall on the other side; between levels that changes more of them
        assert steps.max() <= (2 if case.op == "QTemporalContext" else 1), name
        levels = case.attributes["levels"] if case.op == "QTemporalContext" else 1
        assert (steps > 0).mean() <= 0.01 * levels, name
    else:
        np.testing.assert_allclose(out, wanted, rtol=2e-7, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("op", CONTEXTS)
def test_names_may_say_the_number_of_levels(op: str, library: Path, tmp_path: Path) -> None:
    case = context_case(op, SIZES[1])
    function = case.function.replace(f"{op} <", f"{op}3 <", 1)
    numbered = dataclasses.replace(case, op=f"{op}3", function=function)
    wanted, _ = run_node(case, library, tmp_path)
    out, itself = run_node(numbered, library, tmp_path)
    assert itself
    np.testing.assert_array_equal(out, wanted)


def fails(case: NodeCase, library: Path, tmp_path: Path, message: str) -> None:
    with pytest.raises(Exception, match=message):
        run_node(case, library, tmp_path)


@pytest.mark.parametrize("op", [*CONTEXTS, *ROWS, *LINEAR])
def test_an_empty_batch_is_refused(op: str, library: Path, tmp_path: Path) -> None:
    case = (
        context_case(op, SIZES[0])
        if op in CONTEXTS
        else linear_case(op, 7, 21, 33)
        if op in LINEAR
        else rows_case(op, 7, 33)
    )
    empty = {name: value[:0] for name, value in case.inputs.items()}
    fails(
        dataclasses.replace(case, inputs=empty),
        library,
        tmp_path,
        f"dvfl::{op}: the batch is empty",
    )


def test_what_breaks_the_contract_is_named(library: Path, tmp_path: Path) -> None:
    case = context_case("SpatialContext", SIZES[0])
    sizes = {**case.attributes, "kernel_sizes": [3, 7]}
    wrong = dataclasses.replace(case, attributes=sizes)
    fails(
        wrong,
        library,
        tmp_path,
        r"kernel_2 must have the shape \(16, 1, 7, 7\), not \(16, 1, 5, 5\)",
    )
    wrong = dataclasses.replace(case, attributes={**case.attributes, "kernel_sizes": [3, 4]})
    fails(wrong, library, tmp_path, "kernel_sizes must be odd, not 4")
    wrong = dataclasses.replace(case, attributes={**case.attributes, "width": 16})
    fails(
        wrong, library, tmp_path, r"context must have the shape \(2, 576, 16\), not \(2, 540, 16\)"
    )


def test_weights_of_eight_bits_are_refused(library: Path, tmp_path: Path) -> None:
    case = context_case("QTemporalContext", SIZES[0])
    kernel = case.constants["kernel_2"].copy()
    kernel[3, 1, 4] = -65
    wrong = dataclasses.replace(case, constants={**case.constants, "kernel_2": kernel})
    fails(wrong, library, tmp_path, "kernel_2 must have weights from -64 to 64, not -65")


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("product_weight", np.full((21, 33), 65, np.int8), "from -64 to 64, not 65"),
        ("product_weight", np.ones((22, 33), np.int8), "must have 22 inputs, not the shape"),
        ("product_weight_scale", np.ones(32, np.float32), r"the shape \(33\), not \(32\)"),
        ("product_weight_zero", np.ones(33, np.int8), "the zero points of a weight must be 0"),
        ("product_scale", np.float32(0), "the scale of bytes must be positive"),
        ("bias", np.ones(32, np.float32), r"bias must have the shape \(33\), not \(32\)"),
    ],
)
def test_what_is_wrong_with_a_linear_layer_is_named(
    name: str, value: Array, message: str, library: Path, tmp_path: Path
) -> None:
    case = linear_case("QLinearBias", 7, 21, 33)
    wrong = dataclasses.replace(case, constants={**case.constants, name: value})
    fails(wrong, library, tmp_path, message)


def test_unknown_instructions_are_an_error(library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DVFL_KERNELS_CPU", "mmx")
    with pytest.raises(Exception, match="DVFL_KERNELS_CPU names an instruction set"):
        onnxruntime.SessionOptions().register_custom_ops_library(str(library))
