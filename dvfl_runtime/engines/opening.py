"""What executes a model's graph. One file per engine, one small protocol for all of them."""

from __future__ import annotations

import importlib
import logging
import os
from functools import partial
from typing import Protocol, cast, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from dvfl_runtime.engines.cuda import cuda_problem
from dvfl_runtime.errors import DvflError, EngineUnavailable
from dvfl_runtime.errors.checks import MAX_THREADS, check_whole
from dvfl_runtime.errors.packages import MEDIA, is_installed, pip_install

logger = logging.getLogger(__name__)

# engine (its file in this folder has `open_engine`) -> the package it needs
ENGINES = {
    "tensorrt": "tensorrt",
    "openvino": "openvino",
    "onnxruntime": "onnxruntime",
    "onnxruntime-tensorrt": "onnxruntime",
}
# what "auto" measures; onnxruntime-tensorrt builds for minutes and is used by name alone
CPU_ENGINES = ("openvino", "onnxruntime")
GPU_ENGINES = {"cuda": ("tensorrt", "onnxruntime"), "gpu": ("openvino",)}
DEVICES = ("auto", "cpu", "cuda", "gpu")
MAX_MESSAGE = 300  # characters that are kept of an error of another library


@runtime_checkable
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
        name: of the engine; "auto" takes the fastest one installed that can load the file, by a
            short measurement that is remembered (see `choice`), and logs which.
        path: the model file.
        device: "cpu", "cuda", "gpu" (Intel's), or "auto" for the best one the engine can use here.
        num_threads: for CPU work; by default as many as this process may use.

    Raises:
        EngineUnavailable: if the engine or device is unknown, not installed or not usable here.
        ArtifactError: if the engine cannot load the file.
        ArgumentError: if `num_threads` is not from 1 to 1024.
    """
    if name != "auto" and name not in ENGINES:
        raise EngineUnavailable(
            f"unknown engine {name!r}; known are: {', '.join(['auto', *ENGINES])}"
        )
    if device not in DEVICES:
        raise EngineUnavailable(f"unknown device {device!r}; known are: {', '.join(DEVICES)}")
    if num_threads is not None:
        check_whole("num_threads", num_threads, most=MAX_THREADS)
    if name == "auto":
        engine = _open_auto(path, device, num_threads)
    else:
        engine = _open_one(name, path=path, device=device, num_threads=num_threads)
    if "auto" in (name, device):
        logger.info(
            "using %s %s, %s on %s", engine.name, engine.version, engine.provider, engine.device
        )
    return engine


def installed_engines() -> tuple[str, ...]:
    """Returns the names of the engines whose packages are installed.

    What is a second way of using an installed package, such as onnxruntime-tensorrt, is left out.
    """
    return tuple(
        name for name, package in ENGINES.items() if name == package and is_installed(package)
    )


def unavailable(name: str, err: Exception) -> DvflError:
    """Returns an error of an engine as a `DvflError`; a broken package may raise anything."""
    if isinstance(err, DvflError):
        return err
    said = " ".join(str(err).split())[:MAX_MESSAGE]
    return EngineUnavailable(
        f"engine {name!r} fails here with {type(err).__name__}: {said or 'no reason'}; install its "
        f"package {ENGINES.get(name, name)!r} again, or choose another engine"
    )


def _open_auto(path: str | os.PathLike[str], device: str, num_threads: int | None) -> Engine:
    """Opens the fastest engine; an NVIDIA GPU beats any engine on the CPU without measuring."""
    from dvfl_runtime.engines.choice import open_fastest  # 28 ms, mostly importlib.metadata

    groups = [(device, GPU_ENGINES.get(device, CPU_ENGINES))]
    if device == "auto" and cuda_problem() is None:
        groups = [("cuda", GPU_ENGINES["cuda"]), ("cpu", CPU_ENGINES)]
    installed = installed_engines()
    failed: list[tuple[str, DvflError]] = []
    for chosen, able in groups:
        names = [name for name in installed if name in able]
        if not names:
            continue
        open_one = partial(_open_one, path=path, device=chosen, num_threads=num_threads)
        engine = open_fastest(
            names, path, open_one, device=chosen, num_threads=num_threads, failed=failed
        )
        if engine is not None:
            for name, err in failed:
                logger.warning("not using %s: %s", name, err)
            return engine
    if failed:
        raise failed[-1][1]
    usual = {"cuda": "'onnxruntime-gpu[cuda,cudnn]'", "gpu": "openvino"}.get(device, "onnxruntime")
    raise EngineUnavailable(
        f"no engine is installed (known are: {', '.join(groups[-1][1])}); "
        f"run: {pip_install(usual, *MEDIA)}"
    )


def _open_one(
    name: str, *, path: str | os.PathLike[str], device: str, num_threads: int | None
) -> Engine:
    try:
        return _module(name).open_engine(path, device, num_threads)
    except DvflError:
        raise
    except Exception as err:
        raise unavailable(name, err) from err


def _module(name: str) -> _EngineModule:
    return cast(_EngineModule, importlib.import_module(f"{__package__}.{name.replace('-', '_')}"))
