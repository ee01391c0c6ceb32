"""Opens a model file in the engine that is asked for, or in the fastest one."""

from __future__ import annotations

import dataclasses
import logging
from functools import partial

from dvfl_runtime.artifact import ModelFile
from dvfl_runtime.engines.candidates import Candidates, Failure
from dvfl_runtime.engines.choice import open_fastest
from dvfl_runtime.engines.cuda import cuda_problem
from dvfl_runtime.engines.engine import Engine
from dvfl_runtime.engines.table import (
    DEVICES,
    ENGINES,
    PRECISIONS,
    EngineOptions,
    engine_error,
    engines_for,
    installed_engines,
)
from dvfl_runtime.errors import ArgumentError, DvflError, EngineUnavailable
from dvfl_runtime.errors.checks import MAX_THREADS, check_choice, check_whole
from dvfl_runtime.errors.packages import MEDIA, pip_install

logger = logging.getLogger(__name__)


def open_engine(
    name: str,
    model: ModelFile,
    *,
    device: str = "auto",
    num_threads: int | None = None,
    precision: str = "file",
) -> Engine:
    """Load a model file into an engine.

    Args:
        name: of the engine; "auto" takes the fastest one installed that can load the file, by a
            short measurement that is remembered (see `choice`), and logs which.
        model: the file.
        device: "cpu", "cuda", "gpu" (Intel's), or "auto" for the best one the engine can use here.
        num_threads: for CPU work; by default as many as this process may use.
        precision: "file" for that of the file, or "bf16" for a float32 file on a CPU that
            multiplies bfloat16 values, which takes as little as half of the time.

    Raises:
        EngineUnavailable: if the engine or device is unknown, not installed or not usable here, or
            does not compute in this precision.
        ArtifactError: if the engine cannot load the file.
        ArgumentError: if `num_threads` is not from 1 to 1024, `precision` is unknown, or not for
            this file.
    """
    if name != "auto" and name not in ENGINES:
        raise EngineUnavailable(
            f"unknown engine {name!r}; known are: {', '.join(['auto', *ENGINES])}"
        )
    if device not in DEVICES:
        raise EngineUnavailable(f"unknown device {device!r}; known are: {', '.join(DEVICES)}")
    if num_threads is not None:
        check_whole("num_threads", num_threads, most=MAX_THREADS)
    if name != "auto":
        _check_device(name, device)
    if precision != "file":
        _check_precision(precision, name, device, model)
    options = EngineOptions("cpu" if precision == "bf16" else device, num_threads, precision)
    if name == "auto":
        engine = _open_auto(model, options)
    else:
        engine = _open_one(name, model=model, options=options)
    if "auto" in (name, device):
        logger.info(
            "using %s %s, %s on %s", engine.name, engine.version, engine.provider, engine.device
        )
    return engine


def _open_auto(model: ModelFile, options: EngineOptions) -> Engine:
    """Open the fastest engine; an NVIDIA GPU beats any engine on the CPU without measuring."""
    device = options.device
    devices = ("cuda", "cpu") if device == "auto" and cuda_problem() is None else (device,)
    failed: list[Failure] = []
    for chosen in devices:
        on_chosen = dataclasses.replace(options, device=chosen)
        open_one = partial(_open_one, model=model, options=on_chosen)
        candidates = Candidates(open_one, run_once=chosen == "cuda")
        # without an NVIDIA GPU, the engines for the CPU find the best device themselves
        kind = "cpu" if chosen == "auto" else chosen
        names = installed_engines(kind, options.precision)
        engine = open_fastest(names, candidates, model, on_chosen)
        failed += candidates.failed
        if engine is not None:
            for name, err in failed:
                logger.warning("not using %s: %s", name, err)
            return engine
    if failed:
        raise failed[-1][1]
    known = engines_for(kind, options.precision)
    usual = {"cuda": "'onnxruntime-gpu[cuda,cudnn]'", "gpu": "openvino"}.get(device, known[-1])
    wanted = "" if options.precision == "file" else f" that computes in {options.precision}"
    raise EngineUnavailable(
        f"no engine{wanted} is installed (known are: {', '.join(known)}); "
        f"run: {pip_install(usual, *MEDIA)}"
    )


def _open_one(name: str, *, model: ModelFile, options: EngineOptions) -> Engine:
    try:
        return ENGINES[name].open(model, options)
    except DvflError:
        raise
    except Exception as err:
        raise engine_error(name, err) from err


def _check_device(name: str, device: str) -> None:
    """Raise EngineUnavailable if an engine never runs on a device."""
    devices = ENGINES[name].devices
    if device in ("auto", *devices):
        return
    names = {known: repr(known) for known in DEVICES} | {"gpu": "'gpu' (Intel's)"}
    fitting = [f"device={names[able]}" for able in devices]
    others = [f"engine={other!r}" for other in installed_engines(device) or engines_for(device)]
    raise EngineUnavailable(
        f"{name} does not run on device {names[device]}; pass {' or '.join(fitting)}, "
        f"or {' or '.join(others)}"
    )


def _check_precision(precision: str, name: str, device: str, model: ModelFile) -> None:
    """Raise an error if an engine, a device or a file is not for a precision of its own.

    Raises:
        ArgumentError: if the precision is unknown, or the file is not in float32.
        EngineUnavailable: if the engine or the device never computes in it.
    """
    check_choice("precision", precision, PRECISIONS)
    able = engines_for(precision=precision)
    if name not in ("auto", *able):
        raise EngineUnavailable(
            f"{name} does not compute in {precision}; pass "
            f"{' or '.join(f'engine={other!r}' for other in able)}, or precision='file'"
        )
    if device not in ("auto", "cpu"):
        raise EngineUnavailable(
            f"{precision} is for CPUs, not for device {device!r}; pass device='cpu', "
            f"or precision='file'"
        )
    if model.artifact.precision != "fp32":
        raise ArgumentError(
            f"precision={precision!r} is for files in fp32, and {model.path} is in "
            f"{model.artifact.precision}; pass precision='file', or export it in fp32"
        )
