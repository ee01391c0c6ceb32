"""The kernels against scalar arithmetic, without an engine: here, with sanitizers, on aarch64."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import kernels_program
import numpy as np
import pytest
from emulated import EmulatedPython
from emulated import Unavailable as NoEmulation
from kernel_nodes import LINEAR, ROWS, Sizes, context_case, linear_case, rows_case
from kernels_library import LIBRARY
from packages import build_wheel, new_venv, run

PROGRAM = Path(kernels_program.__file__)
CONTEXTS = ("SpatialContext", "TemporalContext", "QSpatialContext", "QTemporalContext")
OLDEST = "1.21"  # the oldest onnxruntime that is supported
CHECK = "dvfl_arithmetic_check"
CROSS_COMPILER = "aarch64-linux-gnu-g++"
CROSS = (
    "-DCMAKE_SYSTEM_NAME=Linux",
    "-DCMAKE_SYSTEM_PROCESSOR=aarch64",
    f"-DCMAKE_CXX_COMPILER={CROSS_COMPILER}",
    # nothing of this machine's but the headers
    "-DCMAKE_FIND_ROOT_PATH_MODE_INCLUDE=NEVER",
)


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
    library = built("dvfl_onnxruntime", *CROSS) / LIBRARY
    write_nodes(tmp_path)
    shown = emulated.run(str(PROGRAM), str(tmp_path), str(library))
    assert shown.startswith("aarch64 ")
    check_nodes(shown)


def write_nodes(folder: Path) -> None:
    """Write a model of each node, and its inputs, for kernels_program.py."""
    sizes = Sizes(frames=4, height=6, width=9, channels=24, levels=2)
    cases = [context_case(name, sizes) for name in CONTEXTS]
    cases += [rows_case(name, 7, 33) for name in ROWS]
    cases += [linear_case(name, 7, 21, 33) for name in LINEAR]
    for case in cases:
        (folder / f"{case.op}.onnx").write_bytes(case.model().SerializeToString())
        np.savez(folder / f"{case.op}.npz", **case.inputs)


def check_nodes(shown: str) -> None:
    """Check what kernels_program.py has printed."""
    lines = shown.splitlines()[1:]
    assert {line.split()[0] for line in lines} == {*CONTEXTS, *ROWS, *LINEAR}
    for op, largest, share in map(str.split, lines):
        to_bytes = op.startswith("Q") and op != "QLinearBias"
        assert float(largest) <= (2 if to_bytes else 1e-5), op
        assert float(share) <= 0.01, op


@pytest.mark.slow  # installs other versions of onnxruntime
@pytest.mark.timeout(600)
@pytest.mark.parametrize("version", ["1.20", OLDEST])
def test_older_versions_of_onnxruntime(version: str, library: Path, tmp_path: Path) -> None:
    """The one that is installed for all tests is the newest."""
    for name in ("venv", "nodes"):
        (tmp_path / name).mkdir()
    if run(sys.executable, "-m", "pip", "index", "versions", "numpy", cwd=tmp_path).returncode:
        pytest.skip("needs a package index")
    binaries = new_venv(tmp_path / "venv", sys.executable, f"onnxruntime=={version}.*")
    write_nodes(tmp_path / "nodes")
    done = run(binaries / "python", PROGRAM, tmp_path / "nodes", library, cwd=tmp_path)
    if version == OLDEST:
        assert done.returncode == 0, done.stderr
        assert f" {OLDEST}." in done.stdout.splitlines()[0]
        check_nodes(done.stdout)
    else:
        assert "the kernels of dvfl need onnxruntime 1.21 or newer" in done.stderr
