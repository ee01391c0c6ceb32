"""The CUDA kernels: on the CPU under sanitizers against PyTorch, and compiled for every GPU."""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from cuda_emulation import SOURCES, emulated, run_cases
from cuda_nodes import CASES, TOLERANCE, by_the_network, inputs_of
from kernels_library import KERNELS, header_options

from dvfl_kernels import cuda_library


@pytest.fixture(scope="module")
def library(pytestconfig: pytest.Config) -> Path:
    if not shutil.which("g++"):
        pytest.skip("needs g++")
    return emulated(pytestconfig.cache.mkdir("kernels"))


def test_nodes_equal_the_network_under_sanitizers(library: Path, tmp_path: Path) -> None:
    cases, wanted = [], []
    for node in cuda_library.NAMES:
        for sizes in CASES:
            for dtype in (np.float32, np.float16):
                inputs = inputs_of(node, sizes, dtype)
                cases.append({"node": node, "sizes": dataclasses.asdict(sizes), "inputs": inputs})
                wanted.append(by_the_network(node, sizes, inputs))
    for dtype in (np.float32, np.float16):
        rng = np.random.default_rng(1)
        for features in (96, 33):
            inputs = {"product": 3 * rng.standard_normal((2, 7, features)),
                      "bias": rng.standard_normal(features)}  # fmt: skip
            inputs = {key: value.astype(dtype) for key, value in inputs.items()}
            exact = [torch.from_numpy(value).double() for value in inputs.values()]
            cases.append({"node": "BiasGelu", "sizes": {}, "inputs": inputs})
            wanted.append(F.gelu(exact[0] + exact[1]).numpy())
    for case, found, right in zip(cases, run_cases(library, cases, tmp_path), wanted, strict=True):
        limit = TOLERANCE[found.dtype.type] * np.abs(right).max()
        np.testing.assert_allclose(
            found, right, rtol=0, atol=limit, err_msg=f"{case['node']} {case['sizes']}"
        )


def test_what_cannot_run_is_told(library: Path, tmp_path: Path) -> None:
    inputs = inputs_of("SpatialContext", CASES[0], np.float32)
    refused: list[tuple[dict[str, Any], str]] = [
        ({"batch": 0}, "invalid argument"),
        ({"kernel_sizes": (3, 4)}, "kernel_sizes must be odd and at most 25"),
        ({"kernel_sizes": (27,)}, "kernel_sizes must be odd and at most 25"),
        (
            {"kernel_sizes": (25, 25, 25), "height": 40, "width": 40},
            "kernel_sizes are too large together",
        ),
        ({"kernel_sizes": (1,) * 9}, "levels must be 1 to 8"),
        ({"frames": 0}, "frames, height, width and channels must be at least 1"),
        ({"channels": 8193}, "channels must be at most 8192"),
    ]
    cases = [
        {
            "node": "SpatialContext",
            "sizes": dataclasses.asdict(dataclasses.replace(CASES[0], **changed)),
            "inputs": inputs,
        }
        for changed, _ in refused
    ]
    assert run_cases(library, cases, tmp_path) == [said for _, said in refused]


def is_right(library: Path, node: str, folder: Path) -> bool:
    """Tell whether a library gives what the network gives, in float16."""
    for sizes in (CASES[0], CASES[2], CASES[3]):
        inputs = inputs_of(node, sizes, np.float16)
        case = {"node": node, "sizes": dataclasses.asdict(sizes), "inputs": inputs}
        (found,) = run_cases(library, [case], folder)
        if not np.abs(found - by_the_network(node, sizes, inputs)).max() < 0.05:
            return False
    return True


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_missing_barrier_is_seen(library: Path, tmp_path: Path) -> None:
    count = 0
    for name, node in (("spatial.cu", "SpatialContext"), ("temporal.cu", "TemporalContext")):
        assert is_right(library, node, tmp_path)
        text = (SOURCES / name).read_text(encoding="utf-8")
        for barrier in re.finditer(r"__sync(threads|warp)\(\);", text):
            folder = tmp_path / f"{count}"
            shutil.copytree(SOURCES, folder, ignore=shutil.ignore_patterns("emulation"))
            changed = text[: barrier.start()] + text[barrier.end() :]
            (folder / name).write_text(changed, encoding="utf-8")
            cuda_library.build_emulated(folder / "library.so", sources=folder)
            assert not is_right(folder / "library.so", node, folder), f"{name}, barrier {count}"
            count += 1
    assert count == 9


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_it_compiles_for_every_gpu_without_spills(tmp_path: Path) -> None:
    if not shutil.which("nvcc"):
        pytest.skip("needs nvcc")
    known = subprocess.run(["nvcc", "--list-gpu-code"], capture_output=True, text=True, check=True)
    architectures = re.findall(r"sm_\d+", known.stdout)
    assert {"sm_75", "sm_87"} <= set(architectures)
    for architecture in architectures:
        said = cuda_library.build_for_gpu(tmp_path / "library.so", architecture)
        # one of a kernel for float32 and float16: temporal, two sizes of spatial, mean, BiasGelu
        assert said.count("0 bytes spill stores, 0 bytes spill loads") == 10


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_spill_fails_the_build(tmp_path: Path) -> None:
    if not shutil.which("nvcc"):
        pytest.skip("needs nvcc")
    folder = tmp_path / "sources"
    shutil.copytree(SOURCES, folder)
    text = (folder / "temporal.cu").read_text(encoding="utf-8")
    changed = text.replace("__launch_bounds__(kMaxWarps * 32, 1)", "__launch_bounds__(1024)")
    assert changed != text
    (folder / "temporal.cu").write_text(changed, encoding="utf-8")
    with pytest.raises(cuda_library.CannotBuild, match="Registers are spilled"):
        cuda_library.build_for_gpu(tmp_path / "library.so", "sm_87", sources=folder)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_cmake_builds_the_libraries_of_one_gpu(tmp_path: Path) -> None:
    if not all(map(shutil.which, ("nvcc", "cmake"))):
        pytest.skip("needs nvcc and cmake")
    options = ["-DDVFL_CUDA=ON", "-DDVFL_CUDA_ARCHITECTURES=87"]
    configured = subprocess.run(
        ["cmake", "-S", KERNELS, "-B", tmp_path, *options, *header_options()],
        capture_output=True, text=True, check=False, env={**os.environ, "CI": ""},
    )  # fmt: skip
    if "was not found. Install" in configured.stderr:
        pytest.skip("needs headers of onnxruntime; run: make test-tools")
    assert configured.returncode == 0, configured.stderr
    target = ["--target", "dvfl_onnxruntime_cuda", "--parallel", "2"]
    done = subprocess.run(
        ["cmake", "--build", tmp_path, *target], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert (tmp_path / "libdvfl_onnxruntime_cuda.so").is_file()
