"""The engines: how each is opened, which package it needs, on which devices it runs."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from dvfl_runtime.artifact import ModelFile
from dvfl_runtime.engines.engine import Engine
from dvfl_runtime.errors import DvflError, EngineUnavailable
from dvfl_runtime.errors.packages import is_installed

DEVICES = ("auto", "cpu", "cuda", "gpu")
PRECISIONS = ("file", "bf16")
MAX_MESSAGE = 300  # characters that are kept of an error of another library


@dataclass(frozen=True)
class EngineOptions:
    """How an engine is to run a model.

    Attributes:
        device: one of `DEVICES`.
        num_threads: for CPU work; None for as many as this process may use.
        precision: "file" for that of the model file; "bf16" for products of float32 values rounded
            to bfloat16.
    """

    device: str
    num_threads: int | None = None
    precision: str = "file"


@dataclass(frozen=True)
class EngineEntry:
    """What is known about an engine before its package is imported.

    Attributes:
        open: loads a model file.
        package: that it needs, by the name that Python imports.
        devices: where it runs.
        measured: whether "auto" measures it; if not, it is used by name alone.
        precisions: those of `PRECISIONS` that it can compute in.
        distributions: names of pip for the package, if not its own.
    """

    open: Callable[[ModelFile, EngineOptions], Engine]
    package: str
    devices: tuple[str, ...]
    measured: bool = True
    precisions: tuple[str, ...] = ("file",)
    distributions: tuple[str, ...] = ()


def _open_tensorrt(model: ModelFile, options: EngineOptions) -> Engine:
    from dvfl_runtime.engines import tensorrt

    return tensorrt.open_engine(model, options.device, options.num_threads)


def _open_openvino(model: ModelFile, options: EngineOptions) -> Engine:
    from dvfl_runtime.engines import openvino

    return openvino.open_engine(model, options.device, options.num_threads, options.precision)


def _open_onnxruntime(model: ModelFile, options: EngineOptions) -> Engine:
    from dvfl_runtime.engines import onnxruntime

    return onnxruntime.open_engine(model, options.device, options.num_threads)


def _open_onnxruntime_tensorrt(model: ModelFile, options: EngineOptions) -> Engine:
    from dvfl_runtime.engines import onnxruntime

    return onnxruntime.open_on_tensorrt(model, options.device, options.num_threads)


# the first one wins a tie of "auto"
ENGINES = {
    "tensorrt": EngineEntry(_open_tensorrt, "tensorrt", devices=("cuda",)),
    "openvino": EngineEntry(
        _open_openvino, "openvino", devices=("cpu", "gpu"), precisions=PRECISIONS
    ),
    "onnxruntime": EngineEntry(
        _open_onnxruntime,
        "onnxruntime",
        devices=("cpu", "cuda"),
        distributions=("onnxruntime", "onnxruntime-gpu"),
    ),
    # it builds for minutes when a model is first opened
    "onnxruntime-tensorrt": EngineEntry(
        _open_onnxruntime_tensorrt, "onnxruntime", devices=("cuda",), measured=False
    ),
}


def engines_for(device: str | None = None, precision: str = "file") -> tuple[str, ...]:
    """Return the names of the engines that "auto" measures.

    Args:
        device: on which they run; None for any device.
        precision: that they can compute in.
    """
    return tuple(
        name
        for name, entry in ENGINES.items()
        if entry.measured and device in (None, *entry.devices) and precision in entry.precisions
    )


def installed_engines(device: str | None = None, precision: str = "file") -> tuple[str, ...]:
    """Return those of `engines_for` whose packages are installed."""
    return tuple(
        name for name in engines_for(device, precision) if is_installed(ENGINES[name].package)
    )


def installed_version(name: str) -> str:
    """Return the version of an engine without importing it, "" where it is not known."""
    import importlib.metadata  # takes 28 ms, and not every start needs it

    entry = ENGINES[name]
    for distribution in entry.distributions or (entry.package,):
        with suppress(importlib.metadata.PackageNotFoundError):
            return importlib.metadata.version(distribution)
    return ""


def engine_error(name: str, err: Exception) -> DvflError:
    """Return an error of an engine as a `DvflError`; a broken package may raise anything."""
    if isinstance(err, DvflError):
        return err
    message = " ".join(str(err).split())[:MAX_MESSAGE]
    package = ENGINES[name].package if name in ENGINES else name
    return EngineUnavailable(
        f"engine {name!r} fails here with {type(err).__name__}: {message or 'no reason'}; install "
        f"its package {package!r} again, or choose another engine"
    )
