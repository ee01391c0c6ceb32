"""The kernels against scalar arithmetic, without an engine: here, with sanitizers, on aarch64."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from emulated import EmulatedPython
from emulated import Unavailable as NoEmulation
from kernel_nodes import Sizes, bias_gelu_case, context_case
from kernels_library import LIBRARY
from packages import build_wheel

CHECK = "dvfl_arithmetic_check"
CROSS_COMPILER = "aarch64-linux-gnu-g++"
CROSS = (
    "-DCMAKE_SYSTEM_NAME=Linux",
    "-DCMAKE_SYSTEM_PROCESSOR=aarch64",
    f"-DCMAKE_CXX_COMPILER={CROSS_COMPILER}",
    # nothing of this machine's but the headers
    "-DCMAKE_FIND_ROOT_PATH_MODE_INCLUDE=NEVER",
)
EMULATED = """
import json, pathlib, platform, sys
import numpy as np, onnxruntime
folder, library = map(pathlib.Path, sys.argv[1:])
assert platform.machine() == "aarch64"
for model in sorted(folder.glob("*.onnx")):
    inputs = dict(np.load(model.with_suffix(".npz")))
    outputs = []
    for registered in (False, True):
        options = onnxruntime.SessionOptions()
        options.enable_profiling = True
        options.profile_file_prefix = str(folder / "profile")
        if registered:
            options.register_custom_ops_library(str(library))
        session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        outputs.append(session.run(None, inputs)[0].astype(np.float64))
        events = json.loads(pathlib.Path(session.end_profiling()).read_text())
        assert registered == any(event["name"] == "the_node_kernel_time" for event in events)
    difference = np.abs(outputs[0] - outputs[1])
    print(model.stem, difference.max(), (difference > 1e-5).mean())
"""


def test_every_instruction_set_equals_scalar_arithmetic(built: Callable[..., Path]) -> None:
    done = run_check(built(CHECK))
    assert done.returncode == 0, done.stdout
    assert done.stdout.endswith("\n0 findings\n")


@pytest.mark.slow  # the build takes a minute
@pytest.mark.timeout(600)
def test_sanitizers_find_nothing(built: Callable[..., Path]) -> None:
    done = run_check(built(CHECK, "-DDVFL_SANITIZE=ON"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("\n0 findings\n")


def run_check(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([folder / CHECK], capture_output=True, text=True, check=False)


@pytest.fixture
def emulated(pytestconfig: pytest.Config, tmp_path: Path) -> EmulatedPython:
    """Return a Python on aarch64 with onnxruntime."""
    for name in ("source", "dist"):
        (tmp_path / name).mkdir()
    wheel = build_wheel(tmp_path / "source", tmp_path / "dist")
    try:
        return EmulatedPython(pytestconfig.cache.mkdir("aarch64"), wheel, "cpu")
    except NoEmulation as err:
        pytest.skip(str(err))


@pytest.mark.slow  # every instruction is emulated, and the first time fetches 210 MB
@pytest.mark.timeout(1200)
def test_aarch64(built: Callable[..., Path], emulated: EmulatedPython, tmp_path: Path) -> None:
    if not shutil.which(CROSS_COMPILER):
        pytest.skip(f"needs {CROSS_COMPILER}: apt-get install g++-aarch64-linux-gnu")
    check = built(CHECK, *CROSS, "-DCMAKE_EXE_LINKER_FLAGS=-static") / CHECK
    said = emulated.run_program(check)
    assert said.endswith("\n0 findings\n")
    assert {line.split(":")[0] for line in said.splitlines()} >= {"neondot", "neon", "plain"}

    sizes = Sizes(frames=4, height=6, width=9, channels=24, levels=2)
    names = ("SpatialContext", "TemporalContext", "QSpatialContext", "QTemporalContext")
    cases = [context_case(name, sizes) for name in names]
    cases += [bias_gelu_case(name, 7, 33) for name in ("BiasGelu", "QBiasGelu")]
    for case in cases:
        (tmp_path / f"{case.op}.onnx").write_bytes(case.model().SerializeToString())
        np.savez(tmp_path / f"{case.op}.npz", **case.inputs)
    library = built("dvfl_onnxruntime", *CROSS) / LIBRARY
    lines = emulated.run("-c", EMULATED, str(tmp_path), str(library)).splitlines()
    assert len(lines) == len(cases)
    for op, largest, share in map(str.split, lines):
        assert float(largest) <= (2 if op.startswith("Q") else 1e-5), op
        assert float(share) <= 0.01, op
