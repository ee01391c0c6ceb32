"""Opens a model file in the engine that is asked for, or in the fastest one."""

from __future__ import annotations

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
    engine_error,
    engines_for,
    installed_engines,
)
from dvfl_runtime.errors import DvflError, EngineUnavailable
from dvfl_runtime.errors.checks import MAX_THREADS, check_whole
from dvfl_runtime.errors.packages import MEDIA, pip_install

logger = logging.getLogger(__name__)


def open_engine(
    name: str, model: ModelFile, *, device: str = "auto", num_threads: int | None = None
) -> Engine:
    """Load a model file into an engine.

    Args:
        name: of the engine; "auto" takes the fastest one installed that can load the file, by a
            short measurement that is remembered (see `choice`), and logs which.
        model: the file.
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
        engine = _open_auto(model, device, num_threads)
    else:
        _check_device(name, device)
        engine = _open_one(name, model=model, device=device, num_threads=num_threads)
    if "auto" in (name, device):
        logger.info(
            "using %s %s, %s on %s", engine.name, engine.version, engine.provider, engine.device
        )
    return engine


def _open_auto(model: ModelFile, device: str, num_threads: int | None) -> Engine:
    """Open the fastest engine; an NVIDIA GPU beats any engine on the CPU without measuring."""
    devices = ("cuda", "cpu") if device == "auto" and cuda_problem() is None else (device,)
    failed: list[Failure] = []
    for chosen in devices:
        open_one = partial(_open_one, model=model, device=chosen, num_threads=num_threads)
        candidates = Candidates(open_one, run_once=chosen == "cuda")
        # without an NVIDIA GPU, the engines for the CPU find the best device themselves
        kind = "cpu" if chosen == "auto" else chosen
        engine = open_fastest(
            installed_engines(kind), candidates, model, device=chosen, num_threads=num_threads
        )
        failed += candidates.failed
        if engine is not None:
            for name, err in failed:
                logger.warning("not using %s: %s", name, err)
            return engine
    if failed:
        raise failed[-1][1]
    usual = {"cuda": "'onnxruntime-gpu[cuda,cudnn]'", "gpu": "openvino"}.get(device, "onnxruntime")
    raise EngineUnavailable(
        f"no engine is installed (known are: {', '.join(engines_for(kind))}); "
        f"run: {pip_install(usual, *MEDIA)}"
    )


def _open_one(name: str, *, model: ModelFile, device: str, num_threads: int | None) -> Engine:
    try:
        return ENGINES[name].open(model, device, num_threads)
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
