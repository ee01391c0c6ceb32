"""The wheel dvfl-kernels: what it holds, where it says the library lies, what it needs to build."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from kernels_library import KERNELS, LIBRARY, header_options
from packages import new_venv, run

import dvfl_kernels

LOAD = """
import dvfl_kernels, onnxruntime
path = dvfl_kernels.library_path("onnxruntime")
assert path.is_absolute() and path.is_file()
onnxruntime.SessionOptions().register_custom_ops_library(str(path))
"""


def test_an_absent_library_is_one_clear_error() -> None:
    with pytest.raises(ValueError, match=r"unknown engine 'openvino'; choose one of: onnxruntime,"):
        dvfl_kernels.library_path("openvino")
    with pytest.raises(FileNotFoundError, match="has no library for onnxruntime; build it where"):
        dvfl_kernels.library_path("onnxruntime")  # of the sources, where nothing is built


@pytest.mark.slow  # fetches the tools that build it, and builds
@pytest.mark.timeout(900)
def test_the_wheel_serves_every_python_of_the_platform(tmp_path: Path) -> None:
    if not header_options():
        pytest.skip("needs headers of onnxruntime; run: make test-tools")
    (option,) = header_options()
    env = {**os.environ, "DVFL_ONNXRUNTIME_INCLUDE": option.partition("=")[2], "DVFL_CUDA": "OFF"}
    source = tmp_path / "source"
    shutil.copytree(KERNELS, source)
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", tmp_path, source]
    done = subprocess.run(pip, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.name.startswith("dvfl_kernels-")
    assert "-py3-none-linux_" in wheel.name
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
        package = {path.name for path in (KERNELS / "dvfl_kernels").iterdir() if path.is_file()}
        assert held == {f"dvfl_kernels/{name}" for name in (*package, LIBRARY)}
        archive.extract(f"dvfl_kernels/{LIBRARY}", tmp_path)
    if shutil.which("readelf"):
        library = tmp_path / "dvfl_kernels" / LIBRARY
        shown = subprocess.run(
            ["readelf", "-d", library], capture_output=True, text=True, check=True
        )
        assert "libonnxruntime" not in shown.stdout
    (tmp_path / "venv").mkdir()
    binaries = new_venv(tmp_path / "venv", sys.executable, wheel, "onnxruntime")
    loaded = run(binaries / "python", "-c", LOAD, cwd=tmp_path)
    assert loaded.returncode == 0, loaded.stderr


@pytest.mark.slow
def test_missing_headers_are_one_clear_error(tmp_path: Path) -> None:
    if not all(map(shutil.which, ("cmake", "c++", "make"))):
        pytest.skip("needs cmake, make and a C++ compiler")
    nowhere = [
        f"-DCMAKE_FIND_USE_{kind}_PATH=OFF" for kind in ("CMAKE_SYSTEM", "SYSTEM_ENVIRONMENT")
    ]
    tools = [f"-DCMAKE_CXX_COMPILER={shutil.which('c++')}"]
    tools.append(f"-DCMAKE_MAKE_PROGRAM={shutil.which('make')}")
    command = ["cmake", "-S", KERNELS, "-B", tmp_path, *nowhere, *tools]
    env = {name: value for name, value in os.environ.items() if "ONNXRUNTIME" not in name}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    said = " ".join(done.stderr.split())
    assert "onnxruntime_c_api.h was not found. Install libonnxruntime-dev" in said
    assert "DVFL_ONNXRUNTIME_INCLUDE=FOLDER pip install ./export/kernels" in said
