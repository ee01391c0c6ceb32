"""What executes a model's graph. One file per engine, one small protocol for all of them."""

from __future__ import annotations

import importlib
import importlib.util
import logging
import os
from typing import Protocol, cast

import numpy as np
from numpy.typing import NDArray

from dvfl_runtime.engines.cuda import cuda_problem
from dvfl_runtime.errors import ArtifactError, EngineUnavailable

logger = logging.getLogger(__name__)

# engine (its file in this folder has `open_engine`) -> the package it needs; fastest first: on two
# cores with AMX openvino takes 7.4 ms per clip of the bundled model, onnxruntime 8.0; nano at
# 8x224x224 takes 246 and 312 ms (benchmarks/results/xeon-amx-2core).
ENGINES = {
    "openvino": "openvino",
    "onnxruntime": "onnxruntime",
}
GPU_ENGINES = {"cuda": ("onnxruntime",), "gpu": ("openvino",)}
DEVICES = ("auto", "cpu", "cuda", "gpu")


class Engine(Protocol):
    """A loaded graph. `run` may be called from several threads at once."""

    @property
    def name(self) -> str:
        """The engine, such as "onnxruntime"."""

    @property
    def version(self) -> str:
        """The engine's version."""

    @property
    def provider(self) -> str:
        """What inside the engine really executes, such as "CPUExecutionProvider"."""

    @property
    def device(self) -> str:
        """Where it executes: "cpu", "cuda" or "gpu" (Intel's)."""

    @property
    def fused_ops(self) -> tuple[str, ...]:
        """Custom operators that run by a native kernel; empty when standard ones do the work."""

    @property
    def num_classes(self) -> int | None:
        """Width of the logits, if the graph says so."""

    @property
    def clip_shape(self) -> tuple[int | None, ...]:
        """(B, T, H, W, C) of the input; None where the graph leaves it open."""

    def run(self, clips: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Executes the graph: (B, T, H, W, 3) uint8 -> (B, num_classes) float32 logits."""

    def close(self) -> None:
        """Releases the graph; further calls do nothing."""


class _EngineModule(Protocol):
    def open_engine(
        self, path: str | os.PathLike[str], device: str, num_threads: int | None
    ) -> Engine: ...


def open_engine(
    name: str,
    path: str | os.PathLike[str],
    *,
    device: str = "auto",
    num_threads: int | None = None,
) -> Engine:
    """Loads a model file into an engine.

    Args:
        name: of the engine; "auto" takes the fastest one installed that can load the file, and
            logs which.
        path: the model file.
        device: "cpu", "cuda", "gpu" (Intel's), or "auto" for the best one the engine can use here.
        num_threads: for CPU work; by default as many as this process may use.

    Raises:
        EngineUnavailable: if the engine or device is unknown, not installed or not usable here.
        ArtifactError: if the engine cannot load the file.
        ValueError: if `num_threads` < 1.
    """
    if name != "auto" and name not in ENGINES:
        raise EngineUnavailable(
            f"unknown engine {name!r}; known are: {', '.join(['auto', *ENGINES])}"
        )
    if device not in DEVICES:
        raise EngineUnavailable(f"unknown device {device!r}; known are: {', '.join(DEVICES)}")
    if num_threads is not None and num_threads < 1:
        raise ValueError(f"num_threads must be >= 1, got {num_threads}")
    if name == "auto":
        engine = _open_first(_candidates(device), path, device, num_threads)
    else:
        engine = _module(name).open_engine(path, device, num_threads)
    if "auto" in (name, device):
        logger.info(
            "using %s %s, %s on %s", engine.name, engine.version, engine.provider, engine.device
        )
    return engine


def installed_engines() -> tuple[str, ...]:
    """Returns the names of the engines whose packages are installed, fastest first."""
    return tuple(
        name for name, package in ENGINES.items() if importlib.util.find_spec(package) is not None
    )


def _candidates(device: str) -> list[str]:
    """Returns the installed engines for a device, the one to try first in front.

    Raises:
        EngineUnavailable: if there is none.
    """
    able = GPU_ENGINES.get(device, tuple(ENGINES))
    found = [name for name in installed_engines() if name in able]
    if not found:
        raise EngineUnavailable(
            f"no engine is installed (known are: {', '.join(able)}); run: pip install 'dvfl[cpu]'"
        )
    if device == "auto" and cuda_problem() is None:  # an NVIDIA GPU beats any engine on the CPU
        found.sort(key=lambda name: name not in GPU_ENGINES["cuda"])
    return found


def _open_first(
    names: list[str], path: str | os.PathLike[str], device: str, num_threads: int | None
) -> Engine:
    """Opens the file in the first engine that can load it; logs why others could not."""
    for name in names[:-1]:
        try:
            return _module(name).open_engine(path, device, num_threads)
        except ArtifactError as err:  # such as nodes of domain dvfl, which OpenVINO cannot expand
            logger.info("not using %s: %s", name, err)
    return _module(names[-1]).open_engine(path, device, num_threads)


def _module(name: str) -> _EngineModule:
    return cast(_EngineModule, importlib.import_module(f"{__name__}.{name}"))
