"""The library of export/kernels, built once for its content and the headers that are found."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from shared import ROOT

KERNELS = ROOT / "export" / "kernels"
FETCHED = "dvfl/headers/onnxruntime"  # by `make test-tools`, in the user's cache
KEPT_S = 7 * 24 * 3600  # how long builds of other content stay
LIBRARY = "libdvfl_onnxruntime.so"


class Unavailable(Exception):
    """Why it cannot be built here."""


def build(cache: Path, *options: str, target: str = "dvfl_onnxruntime") -> Path:
    """Builds a target unless it is there, and returns the folder of the build.

    Args:
        cache: a folder that stays.
        options: of CMake, each -DNAME=VALUE.
        target: of CMakeLists.txt.

    Raises:
        Unavailable: if there is no compiler, or headers are missing.
    """
    if not all(map(shutil.which, ("cmake", "c++"))):
        raise Unavailable("needs cmake and a C++ compiler")
    options = (*header_options(), *options)
    folder = cache / _digest(options)
    done = folder / f"{target}.done"
    with (cache / "lock").open("w") as lock:  # the workers of a run share the cache
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            _run("cmake", "-S", KERNELS, "-B", folder, *options)
            _run("cmake", "--build", folder, "--target", target, "--parallel", "2")
            done.touch()
            _forget_old(cache)
    return folder


def header_options() -> tuple[str, ...]:
    """Returns CMake's option for the headers that `make test-tools` has fetched, if it has."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    include = cache / FETCHED / "usr" / "include"
    return (f"-DDVFL_ONNXRUNTIME_INCLUDE={include}",) if include.is_dir() else ()


def _forget_old(cache: Path) -> None:
    for done in cache.glob("*/*.done"):
        if done.stat().st_mtime < time.time() - KEPT_S:
            shutil.rmtree(done.parent, ignore_errors=True)


def _digest(options: Sequence[str]) -> str:
    digest = hashlib.sha256(repr(options).encode())
    for pattern in ("*.txt", "*.cmake", "src/**/*", "checks/*"):
        for path in filter(Path.is_file, sorted(KERNELS.glob(pattern))):
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _run(*command: str | Path) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if "was not found. Install" in done.stderr:
        raise Unavailable("needs headers of onnxruntime; run: make test-tools")
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-3000:]
