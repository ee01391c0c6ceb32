"""The library for onnxruntime's CUDA provider, built for that of the CPU: nodes and functions."""

from __future__ import annotations

import dataclasses
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cuda_emulation import SOURCES, built, unwatched
from kernel_nodes import NodeCase, Sizes, bias_gelu_case, context_case, run_node
from kernels_library import header_options
from onnx import TensorProto

SIZES = [
    Sizes(frames=4, height=9, width=15, channels=16, levels=2),
    Sizes(frames=3, height=2, width=3, channels=21, levels=3),
]
CASES = [context_case(op, size) for op in ("SpatialContext", "TemporalContext") for size in SIZES]
CASES.append(bias_gelu_case("BiasGelu", 7, 33))


def onnxruntime_include() -> Path | None:
    """Return the folder of onnxruntime's header, if there is one."""
    folders = [Path("/usr/include/onnxruntime")]
    folders += [Path(option.partition("=")[2]) / "onnxruntime" for option in header_options()]
    return next((path for path in folders if (path / "onnxruntime_c_api.h").is_file()), None)


@pytest.fixture(scope="module")
def library(pytestconfig: pytest.Config) -> Path:
    include = onnxruntime_include()
    if not shutil.which("g++") or include is None:
        pytest.skip("needs g++ and headers of onnxruntime; run: make test-tools")
    cache = pytestconfig.cache.mkdir("kernels")
    kernels = unwatched(cache)
    command = ["g++", "-std=c++17", "-Wall", "-Wextra", "-Werror", "-fPIC", "-shared"]
    command += ['-DDVFL_PROVIDER="CPUExecutionProvider"', f"-I{SOURCES / 'emulation'}"]
    command += [f"-isystem{include}", str(SOURCES / "onnxruntime_cuda.cc")]
    command += [str(kernels), f"-Wl,-rpath,{kernels.parent}"]

    def build(to: Path) -> None:
        subprocess.run([*command, "-o", to], check=True)

    return built(cache, "cuda_onnxruntime", build, command)


def in_half(case: NodeCase) -> NodeCase:
    def halves(values: Any) -> dict[str, Any]:
        return {key: value.astype(np.float16) for key, value in values.items()}

    return dataclasses.replace(case, inputs=halves(case.inputs), constants=halves(case.constants))


def test_nodes_equal_their_functions(library: Path, tmp_path: Path) -> None:
    for case in CASES:
        wanted, itself = run_node(case, None, tmp_path)
        assert not itself
        found, itself = run_node(case, library, tmp_path)
        assert itself, case.op
        np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5, err_msg=case.op)


def test_names_may_say_the_number_of_levels(library: Path, tmp_path: Path) -> None:
    for case in CASES[:4]:
        levels = case.attributes["levels"]
        function = case.function.replace(f"{case.op} <", f"{case.op}{levels} <", 1)
        numbered = dataclasses.replace(case, op=f"{case.op}{levels}", function=function)
        wanted, _ = run_node(case, library, tmp_path)
        found, itself = run_node(numbered, library, tmp_path)
        assert itself, numbered.op
        np.testing.assert_array_equal(found, wanted)


def test_halves(library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for case in CASES:
        wanted, _ = run_node(case, None, tmp_path)
        model = in_half(case).model()
        model.graph.output[0].type.tensor_type.elem_type = TensorProto.FLOAT16
        monkeypatch.setattr(NodeCase, "model", lambda _, made=model: made)
        found, itself = run_node(in_half(case), library, tmp_path)
        monkeypatch.undo()
        assert itself, case.op
        assert found.dtype == np.float16
        np.testing.assert_allclose(found, wanted, rtol=0, atol=0.02, err_msg=case.op)


def test_what_breaks_the_contract_is_named(library: Path, tmp_path: Path) -> None:
    case = CASES[0]
    for changed, said in (
        ({"kernel_sizes": [3, 4]}, "SpatialContext: kernel_sizes must be odd and at most 25"),
        ({"kernel_sizes": [3]}, "SpatialContext: kernel_sizes must be one for each of the levels"),
        ({"kernel_sizes": [3, 7]}, "a kernel does not have the shape of kernel_sizes"),
        ({"width": 16}, "the context does not have the shape of the attributes"),
        (
            {"levels": 3, "kernel_sizes": [3, 5, 7]},
            r"the gates must be \(B, N, 2 \(levels \+ 1\)\)",
        ),
    ):
        wrong = dataclasses.replace(case, attributes={**case.attributes, **changed})
        with pytest.raises(Exception, match=said):
            run_node(wrong, library, tmp_path)
    empty = {name: value[:0] for name, value in case.inputs.items()}
    with pytest.raises(Exception, match=r"must be \(B, N, C\), B at least 1"):
        run_node(dataclasses.replace(case, inputs=empty), library, tmp_path)


def test_one_library_serves_many_sessions(library: Path, tmp_path: Path) -> None:
    first, _ = run_node(CASES[0], library, tmp_path)
    second, _ = run_node(CASES[0], library, tmp_path)
    np.testing.assert_array_equal(first, second)
