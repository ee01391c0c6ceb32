"""The system's Python: Debian builds OpenCV and GStreamer for it, not for environments."""

from __future__ import annotations

import functools
import os
import subprocess

from shared import ROOT

SYSTEM_PYTHON = "/usr/bin/python3"


def run_system_python(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs a program that may import the runtime."""
    return subprocess.run(
        [SYSTEM_PYTHON, "-c", program, *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@functools.cache
def system_python_can(program: str) -> bool:
    """Returns whether a program ends without an error there."""
    try:
        return run_system_python(program).returncode == 0
    except OSError:
        return False
