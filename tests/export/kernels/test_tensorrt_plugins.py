"""The plugins of TensorRT, as far as they can be proven without a GPU."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from cuda_emulation import SANITIZERS, SOURCES, built, emulated, run_cases
from cuda_nodes import CASES, TOLERANCE, by_the_network, inputs_of
from kernels_library import KERNELS, header_options
from tensorrt_headers import tensorrt_includes

from dvfl_kernels import cuda_library

DRIVER = Path(__file__).parent / "tensorrt_driver.cc"
NO_HEADERS = "needs headers of TensorRT; run: make test-tools"

# in a process of its own: without a GPU a wrong call ends the process
REGISTRY = """
import sys
import numpy as np
import tensorrt_lean as trt

registry = trt.get_plugin_registry()
logger = trt.Logger(trt.Logger.ERROR)
assert registry.load_library(sys.argv[1]) is not None

def field(name, *numbers):
    return trt.PluginField(name, np.array(numbers, np.int32), trt.PluginFieldType.INT32)

def plugin(creator, levels):
    numbers = {"frames": 8, "height": 14, "width": 14, "channels": 96, "levels": levels}
    fields = [field(*item) for item in numbers.items()]
    fields += [field("gate_offset", 0), field("kernel_sizes", 3, 5)]
    collection = trt.PluginFieldCollection(fields)
    return creator.create_plugin("node", collection, trt.TensorRTPhase.BUILD)

for name in ("SpatialContext", "TemporalContext", "SpatialContext2", "TemporalContext8"):
    creator = registry.get_creator(name, "1", "dvfl")
    names = [one.name for one in creator.field_names]
    assert plugin(creator, 2) is not None
    assert plugin(creator, 3) is None
    print(name, *names)
"""


def driver(cache: Path, include: Path) -> Path:
    """Return the plugins with the driver, built under sanitizers, above the kernels."""
    kernels = emulated(cache)
    command = ["g++", "-std=c++17", "-Wall", "-Wextra", "-Werror", "-fPIC", "-shared", *SANITIZERS]
    command += [f"-I{SOURCES / 'emulation'}", f"-I{SOURCES}", f"-isystem{include}", str(DRIVER)]
    command += [str(kernels), f"-Wl,-rpath,{kernels.parent}"]

    def build(to: Path) -> None:
        subprocess.run([*command, "-o", to], check=True)

    return built(cache, "tensorrt", build, command, DRIVER.read_bytes())


def test_a_plugin_equals_the_network_under_sanitizers(
    pytestconfig: pytest.Config, tmp_path: Path
) -> None:
    if not shutil.which("g++"):
        pytest.skip("needs g++")
    if not (includes := tensorrt_includes()):
        pytest.skip(NO_HEADERS)
    library = driver(pytestconfig.cache.mkdir("kernels"), includes[0])
    cases, wanted = [], []
    for node in cuda_library.NAMES:
        for sizes in (CASES[0], CASES[1], CASES[3], CASES[4]):
            for dtype in (np.float32, np.float16):
                inputs = inputs_of(node, sizes, dtype)
                cases.append({"node": node, "sizes": dataclasses.asdict(sizes), "inputs": inputs})
                wanted.append(by_the_network(node, sizes, inputs))
    wrong = {**dataclasses.asdict(CASES[0]), "kernel_sizes": (3, 4)}
    inputs = inputs_of("SpatialContext", CASES[0], np.float32)
    cases.append({"node": "SpatialContext", "sizes": wrong, "inputs": inputs})
    *outputs, refused = run_cases(library, cases, tmp_path)
    assert refused == "dvfl::SpatialContext: kernel_sizes must be odd and at most 25"
    for found, right in zip(outputs, wanted, strict=True):
        limit = TOLERANCE[found.dtype.type] * np.abs(right).max()
        np.testing.assert_allclose(found, right, rtol=0, atol=limit)


@pytest.mark.slow
def test_the_plugins_compile_against_all_versions(tmp_path: Path) -> None:
    if not shutil.which("g++"):
        pytest.skip("needs g++")
    if not (includes := tensorrt_includes()):
        pytest.skip(NO_HEADERS)
    for include in includes:
        subprocess.run(
            ["g++", "-std=c++17", "-Wall", "-Wextra", "-Werror", f"-isystem{include}",
             f"-I{SOURCES / 'emulation'}", "-c", SOURCES / "tensorrt_plugin.cc",
             "-o", tmp_path / "plugin.o"],
            check=True,
        )  # fmt: skip


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_registry_finds_the_plugins(tmp_path: Path) -> None:
    if not all(map(shutil.which, ("nvcc", "cmake"))):
        pytest.skip("needs nvcc and cmake")
    python = os.environ.get("DVFL_TENSORRT_LEAN_PYTHON", sys.executable)
    if python == sys.executable and importlib.util.find_spec("tensorrt_lean") is None:
        pytest.skip(
            "needs tensorrt-lean-cu12; DVFL_TENSORRT_LEAN_PYTHON names a Python that has it"
        )
    if not (includes := tensorrt_includes()):
        pytest.skip(NO_HEADERS)
    configured = subprocess.run(
        ["cmake", "-S", KERNELS, "-B", tmp_path, "-DDVFL_CUDA=ON", "-DDVFL_CUDA_ARCHITECTURES=87",
         f"-DDVFL_TENSORRT_INCLUDE={includes[0]}", *header_options()],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if "was not found. Install" in configured.stderr:
        pytest.skip("needs headers of onnxruntime; run: make test-tools")
    assert configured.returncode == 0, configured.stderr
    built = subprocess.run(
        ["cmake", "--build", tmp_path, "--target", "dvfl_tensorrt", "--parallel", "2"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert built.returncode == 0, built.stdout[-3000:] + built.stderr[-3000:]
    library = tmp_path / "libdvfl_tensorrt.so"
    command = [python, "-c", REGISTRY, library]
    said = subprocess.run(command, capture_output=True, text=True, check=False)
    assert said.returncode == 0, said.stderr
    fields = "frames height width channels levels gate_offset kernel_sizes"
    names = ("SpatialContext", "TemporalContext", "SpatialContext2", "TemporalContext8")
    assert [line for line in said.stdout.split("\n") if fields in line] == [
        f"{name} {fields}" for name in names
    ]
