"""A machine that seems to have an NVIDIA GPU and TensorRT, for processes that the tests start.

The driver is a small library of C, compiled here, so that the real `cuda.bindings` call it.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).parent
needs_fake_gpu = pytest.mark.skipif(
    shutil.which("gcc") is None or importlib.util.find_spec("cuda.bindings") is None,
    reason="the fake GPU needs gcc and cuda-bindings",
)


def fake_gpu(folder: Path, **changes: str) -> dict[str, str]:
    """Compiles the driver into `folder`; returns the environment of a process that shall see it."""
    library = folder / "libcuda.so.1"
    if not library.exists():
        command = ["gcc", "-shared", "-fPIC", "-Wl,-soname,libcuda.so.1", "-o", library]
        subprocess.run([*command, HERE / "driver.c", "-ldl"], check=True)
    path = os.pathsep.join(filter(None, [str(HERE), os.environ.get("PYTHONPATH", "")]))
    environment = {"LD_LIBRARY_PATH": str(folder), "PYTHONPATH": path}
    return {**os.environ, "DVFL_CACHE_DIR": str(folder / "cache"), **environment, **changes}
