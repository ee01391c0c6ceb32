"""The four packages that the distribution consists of, and its wheel."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from shared import ROOT

RUNTIME = ROOT / "dvfl_runtime"
PACKAGES = (
    RUNTIME,
    ROOT / "models" / "dvfl_models",
    ROOT / "export" / "dvfl_export",
    ROOT / "benchmarks" / "dvfl_bench",
)
SOURCES = ("setup.py", "pyproject.toml", "README.md", "LICENSE")
IGNORED = shutil.ignore_patterns("__pycache__")


def run(*command: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run a command that sees installed packages alone."""
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, check=False)


def build_wheel(source: Path, out: Path) -> Path:
    """Builds the wheel from a copy, because a build/ left by an earlier one would leak into it."""
    for name in SOURCES:
        shutil.copy(ROOT / name, source)
    for package in PACKAGES:
        shutil.copytree(package, source / package.relative_to(ROOT), ignore=IGNORED)
    build = (sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", out)
    result = run(*build, source, cwd=source)
    assert result.returncode == 0, result.stdout + result.stderr
    (built,) = out.glob("*.whl")
    return built


def new_venv(home: Path, python: str | Path, *install: str | Path) -> Path:
    """Make an environment in which pip installs the arguments; return its bin folder."""
    result = run(python, "-m", "venv", "--without-pip", home, cwd=home)
    assert result.returncode == 0, result.stderr
    binaries = home / "bin"
    pip = (sys.executable, "-m", "pip", "--python", binaries / "python", "install", "--quiet")
    result = run(*pip, *install, cwd=home)
    assert result.returncode == 0, result.stdout + result.stderr
    return binaries
