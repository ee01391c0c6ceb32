"""The CUDA kernels on the CPU, in a process of their own, where sanitizers watch them.

python cuda_emulation.py LIBRARY CASES.npz RESULTS.npz
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dvfl_kernels import cuda_library

PACKAGE = Path(cuda_library.__file__).resolve().parents[1]
SOURCES = cuda_library.SOURCES
SANITIZERS = ("-O1", "-g1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")


def built(cache: Path, name: str, build: Callable[[Path], Any], *inputs: object) -> Path:
    """Return a library that is built once for the sources and what else goes in."""
    digest = hashlib.sha256(repr((name, inputs)).encode())
    for path in sorted(path for path in SOURCES.rglob("*") if path.is_file()):
        digest.update(path.read_bytes())
    target = cache / f"{name}_{digest.hexdigest()[:16]}.so"
    with (cache / "cuda_lock").open("w") as lock:  # the workers of a run share the cache
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not target.exists():
            build(target.with_suffix(".part"))
            target.with_suffix(".part").rename(target)
    return target


def emulated(cache: Path) -> Path:
    """Return the kernels built for the CPU with sanitizers."""
    return built(cache, "emulated", lambda to: cuda_library.build_emulated(to, *SANITIZERS))


def unwatched(cache: Path) -> Path:
    """Return the kernels built for the CPU without sanitizers, for a process that has none."""
    return built(cache, "unwatched", cuda_library.build_emulated)


def run_cases(library: Path, cases: Sequence[Mapping[str, Any]], folder: Path) -> list[Any]:
    """Run nodes in a process with the sanitizers, and return a modulator or an error for each.

    Args:
        library: built with `SANITIZERS`.
        cases: each `node`, `sizes` (as a dict) and `inputs`, arrays in the order of the contract.
        folder: for the arrays on their way.
    """
    arrays = {
        f"{n}_{key}": value for n, case in enumerate(cases) for key, value in case["inputs"].items()
    }
    plan = [{"node": case["node"], "sizes": case["sizes"]} for case in cases]
    np.savez(folder / "cases.npz", plan=json.dumps(plan), **arrays)
    runtimes = [
        subprocess.run(
            ["g++", f"-print-file-name=lib{name}.so"], capture_output=True, text=True, check=True
        ).stdout.strip()
        for name in ("asan", "ubsan")
    ]
    done = subprocess.run(
        [sys.executable, __file__, library, folder / "cases.npz", folder / "results.npz"],
        # Python itself leaks; the fibers are announced to the sanitizer
        env={
            **os.environ,
            "PYTHONPATH": str(PACKAGE),
            "LD_PRELOAD": " ".join(runtimes),
            "ASAN_OPTIONS": "detect_leaks=0",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-6000:]
    with np.load(folder / "results.npz") as results:
        errors = json.loads(str(results["errors"]))
        return [errors[n] or results[f"{n}"] for n in range(len(cases))]


def run_here(path: Path, cases: Path, results: Path) -> None:
    """Run the cases of a file in this process."""
    library = cuda_library.CudaLibrary(path)
    found: dict[str, Any] = {}
    errors: list[str | None] = []
    with np.load(cases) as arrays:
        for n, case in enumerate(json.loads(str(arrays["plan"]))):
            keys = [key for key in arrays if key.startswith(f"{n}_")]
            inputs = {key.partition("_")[2]: arrays[key] for key in keys}
            try:
                found[f"{n}"] = run_one(library, case, inputs)
                errors.append(None)
            except RuntimeError as err:
                errors.append(str(err))
    np.savez(results, errors=json.dumps(errors), **found)


def run_one(library: Any, case: Mapping[str, Any], inputs: Mapping[str, Any]) -> Any:
    """Return the output of one node."""
    first = next(iter(inputs.values()))
    half = first.dtype == np.float16
    out = np.full_like(first, np.nan)
    if case["node"] == "BiasGelu":
        pointers = [x.ctypes.data for x in (*inputs.values(), out)]
        library.bias_gelu(pointers, first.size // first.shape[-1], first.shape[-1], half=half)
        return out
    sizes = cuda_library.Sizes(**case["sizes"])
    if reason := library.why_not(case["node"], sizes):
        raise RuntimeError(reason)
    # no byte more than was asked for, so that the sanitizer sees each one too many
    workspace = np.empty(library.workspace(case["node"], sizes, half=half), np.uint8)
    kernels = [value.ctypes.data for key, value in inputs.items() if key.startswith("kernel")]
    bias = inputs["frame_bias"].ctypes.data if "frame_bias" in inputs else 0
    pointers = [inputs["context"].ctypes.data, inputs["gates"].ctypes.data, bias]
    pointers += [out.ctypes.data, workspace.ctypes.data, *kernels]
    library.context(case["node"], sizes, pointers, half=half)
    return out


if __name__ == "__main__":
    run_here(*map(Path, sys.argv[1:]))
