"""OpenVINO on the CPU, on an Intel GPU or where it decides, in float32 wherever the model is.

Where it is asked to, it computes a float32 model in bfloat16 on CPUs that have instructions for it.

Device "gpu" is experimental: not yet run on an Intel GPU.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from dvfl_runtime.artifact import INPUT, OUTPUT, ModelFile, Shape
from dvfl_runtime.artifact.onnx_edits import with_signed_bytes
from dvfl_runtime.engines.cache import recall, remember
from dvfl_runtime.engines.candidates import noise_clip
from dvfl_runtime.engines.cpus import cpu_name, usable_cpus
from dvfl_runtime.engines.openvino_graph import rewrite_for_cpu
from dvfl_runtime.engines.openvino_nodes import read_onnx
from dvfl_runtime.errors import ArtifactError, DvflError, EngineUnavailable
from dvfl_runtime.errors.packages import MEDIA, needed
from dvfl_runtime.version import __version__

logger = logging.getLogger(__name__)

AUTO = "AUTO:GPU,CPU"
LARGEST = 8  # batch that is compiled
REWRITING = 2  # version of what `openvino_graph` does
# share of the largest logit by which a rewritten model may differ; int8 values between two steps
# may round to the other one, which moved logits by up to 0.03
AGREE, AGREE_INT8 = 1e-3, 0.1
AGREE_BF16 = 0.03  # rounding to 8 bits elsewhere moved logits by up to 0.004
TINY = 1e-6

_cores: dict[int, Any] = {}  # process -> its only `Core`
_cores_lock = threading.Lock()


def open_engine(
    model: ModelFile, device: str, num_threads: int | None, precision: str = "file"
) -> OpenVinoEngine:
    """Load a model file into OpenVINO; see `dvfl_runtime.engines.open_engine`."""
    ov = _import()
    core = shared_core(ov)
    chosen = _device(core, device)
    if precision == "bf16":
        _check_bf16(core)
    config: dict[str, Any] = {
        "PERFORMANCE_HINT": "LATENCY",
        # CPUs with AMX would otherwise take bfloat16, and logits would differ from machine to
        # machine; integer arithmetic of int8 models is not touched by it
        "INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" else "f32",
    }
    if chosen == AUTO:
        config["ENABLE_STARTUP_FALLBACK"] = False  # so that `provider` stays true
    if chosen == "CPU":
        config["INFERENCE_NUM_THREADS"] = num_threads or usable_cpus()
    compiler = _Compiler(ov, core, chosen, config, model.path)
    graph = compiler.read(model)
    # `openvino_graph` was made for files of dvfl-export, which writes its version there
    if chosen == "CPU" and "dvfl" in model.artifact.tools:
        return _open_rewritten(compiler, graph, model)
    return OpenVinoEngine(compiler, graph)


@contextlib.contextmanager
def _path_of_content(model: ModelFile) -> Iterator[str]:
    """Yield a path of the content that was checked, whatever became of the file.

    Given a stream instead, OpenVINO 2026.4 took two minutes and all memory for some damaged files.
    """
    if not hasattr(os, "memfd_create"):  # it is Linux's alone
        yield os.fspath(model.path)
        return
    with open(os.memfd_create("dvfl"), "wb") as file:
        file.write(with_signed_bytes(model.content))  # they take less time than unsigned ones
        file.flush()
        yield f"/proc/self/fd/{file.fileno()}"


def _open_rewritten(compiler: _Compiler, graph: Any, model: ModelFile) -> OpenVinoEngine:
    """Open a file of dvfl-export as it runs faster here, if it then computes the same.

    Once for each file, machine and version both are compiled and run on one clip, which takes as
    long as to open the file once more; the outcome is remembered.

    Args:
        compiler: for the CPU.
        graph: as it was read; left unchanged.
        model: the file.
    """
    faster = graph.clone()
    quantised = any(node.get_type_name() == "FakeQuantize" for node in graph.get_ops())
    engine = plain = None
    try:
        count = rewrite_for_cpu(faster)
        if not count:
            return OpenVinoEngine(compiler, graph)
        key = {
            **{"schema": REWRITING, "dvfl": __version__, "openvino": compiler.version},
            **{"cpu": cpu_name(), "places": count, "model_sha256": model.graph_sha256},
            "precision": compiler.precision,
        }
        share = recall("rewriting", key).get("difference")
        if not isinstance(share, float):
            engine, plain = OpenVinoEngine(compiler, faster), OpenVinoEngine(compiler, graph)
            share = _difference(plain, engine)
            remember("rewriting", key, {"difference": share})
        float_limit = AGREE_BF16 if compiler.precision == "bf16" else AGREE
        if share <= (AGREE_INT8 if quantised else float_limit):
            return engine or OpenVinoEngine(compiler, faster)
        reason = f"a clip's logits differ by {share:.2g} of the largest one"
    except Exception as err:
        reason = f"{type(err).__name__}: {_reason(err)}"
    plain = plain or OpenVinoEngine(compiler, graph)
    logger.warning(
        "openvino runs %s as it is, which takes longer: rewritten for this CPU it does not "
        "compute the same (%s); please report this",
        *(model.path, reason),
    )
    return plain


def _difference(plain: OpenVinoEngine, faster: OpenVinoEngine) -> float:
    """Return by what share of the largest logit two engines differ on one clip of noise."""
    clip = noise_clip(plain)
    wanted, found = plain.run(clip), faster.run(clip)
    if not np.isfinite(wanted).all():
        return 0.0  # a fault of the file, which is reported when it is used
    share = np.abs(found - wanted).max() / max(np.abs(wanted).max(), TINY)
    return float(np.nan_to_num(share, nan=1.0, posinf=1.0))


class OpenVinoEngine:
    """An OpenVINO model as an `Engine`.

    With the batch fixed a clip takes less time than with an open one (benchmarks/README.md), so the
    model is compiled for 1 clip, and for 2, 4 and 8 when so many first come; other batches run in
    parts.
    """

    name = "openvino"
    fused_ops: tuple[str, ...] = ()

    def __init__(self, compiler: _Compiler, graph: Any) -> None:
        self.version = compiler.version
        self.precision = compiler.precision
        self.clip_shape = _static(graph.input(0).partial_shape)
        self.num_classes = _static(graph.output(0).partial_shape)[-1]
        self._path = compiler.path
        self._lock = threading.Lock()
        self._graph: Any = graph  # with its own batch
        self._compiler: _Compiler | None = compiler
        first = self.clip_shape[0] or 1
        self._compiled = {first: compiler.compile(graph, first)}  # by batch
        self.provider = self._compiled[first].provider
        self.device = "gpu" if "GPU" in self.provider else "cpu"

    def run(self, clips: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Execute the graph: (B, T, H, W, 3) uint8 -> (B, num_classes) float32 logits.

        Raises:
            ArtifactError: if the graph fails.
            DvflError: after `close`.
        """
        parts: list[NDArray[np.float32]] = []
        rest = clips
        try:
            while len(rest):
                size = self.clip_shape[0] or _part(len(rest))
                parts.append(self._model_for(size).infer(np.ascontiguousarray(rest[:size])))
                rest = rest[size:]
        except DvflError:
            raise
        except Exception as err:  # its exceptions share no base of their own
            raise ArtifactError(
                f"model {self._path} fails on clips of shape {clips.shape}: {_reason(err)}"
            ) from err
        none = np.empty((0, self.num_classes or 0), np.float32)
        return np.concatenate(parts) if parts else none

    def close(self) -> None:
        """Release the model once running calls are done; further calls do nothing."""
        with self._lock:
            self._compiler = self._graph = None
            self._compiled = {}

    def _model_for(self, batch: int) -> _CompiledModel:
        """Return the model for batches of this size; it is compiled when it is first used."""
        with self._lock:
            if self._compiler is None:
                raise DvflError("this engine is closed; open another one")
            if batch not in self._compiled:
                self._compiled[batch] = self._compiler.compile(self._graph, batch)
            return self._compiled[batch]


class _Compiler:
    """Reads and compiles graphs for one device and configuration."""

    def __init__(
        self, ov: ModuleType, core: Any, device: str, config: dict[str, Any], path: Path
    ) -> None:
        self.version: str = ov.__version__.partition("-")[0]
        self.path = path
        self._core = core
        self._device = device
        self._config = config
        self.precision = "bf16" if config["INFERENCE_PRECISION_HINT"] == "bf16" else "file"

    def read(self, model: ModelFile) -> Any:
        """Return the `openvino.Model` of an ONNX file.

        Raises:
            ArtifactError: if OpenVINO cannot read it.
        """
        try:
            with _path_of_content(model) as path:
                return read_onnx(path, model.fused_operators)
        except Exception as err:  # the front ends' exceptions share no base of their own
            raise self._cannot_load(err) from err

    def compile(self, graph: Any, batch: int) -> _CompiledModel:
        """Compile a graph with the batch fixed.

        Raises:
            ArtifactError: if the device cannot compile it.
            EngineUnavailable: if OpenVINO takes another precision than the one asked for.
        """
        try:
            graph = graph.clone()
            shape = graph.input(0).partial_shape
            shape[0] = batch
            graph.reshape({INPUT: shape})
            compiled = self._core.compile_model(graph, self._device, self._config)
        except RuntimeError as err:
            raise self._cannot_load(err) from err
        if self.precision == "bf16":
            taken = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
            if taken != "bf16":  # OpenVINO would not say so
                raise EngineUnavailable(
                    f"openvino {self.version} takes {taken} in place of bf16; pass precision='file'"
                )
        return _CompiledModel(compiled)

    def _cannot_load(self, err: Exception) -> ArtifactError:
        return ArtifactError(
            f"openvino {self.version} cannot load model {self.path}: {_reason(err)}; "
            f"copy or export it again, or upgrade openvino"
        )


class _CompiledModel:
    """A compiled model and its idle infer requests, as many as have run at once."""

    def __init__(self, compiled: Any) -> None:
        self.provider = "+".join(compiled.get_property("EXECUTION_DEVICES"))
        self._compiled = compiled
        self._idle: list[Any] = []

    def infer(self, clips: NDArray[np.uint8]) -> NDArray[np.float32]:
        try:
            request = self._idle.pop()  # a list's pop and append are atomic
        except IndexError:
            request = self._compiled.create_infer_request()
        # copied: the request writes its next result to the same place
        logits = np.array(request.infer({INPUT: clips})[OUTPUT], np.float32)
        self._idle.append(request)
        return logits


def _part(rest: int) -> int:
    """Return how many of the clips left are run at once: the largest power of 2, at most 8."""
    return min(LARGEST, 1 << (rest.bit_length() - 1))


def _import() -> ModuleType:
    """Import OpenVINO, which otherwise reports each import of it to its makers.

    It sends the report with a forked child, which may hang where other threads run.
    """
    modules = cast("dict[str, ModuleType | None]", sys.modules)
    modules.setdefault("openvino_telemetry", None)  # is then taken for not installed
    with needed("engine 'openvino'", "openvino", *MEDIA, error=EngineUnavailable):
        import openvino
    module: ModuleType = openvino
    return module


def shared_core(ov: ModuleType) -> Any:
    """Return this process's `Core`, which is made once and never destroyed.

    OpenVINO's CPU plugin gives the thread that makes a `Core` another stack for signals, and puts
    back the one before when that `Core` is destroyed. Of two that end in the order they began, the
    second puts back the memory that the first has unmapped, and the next signal, such as Ctrl-C, is
    a segmentation fault (seen with 2026.4.1). A forked child needs one of its own.
    """
    with _cores_lock:
        core = _cores.get(os.getpid())
        if core is None:
            core = _cores[os.getpid()] = ov.Core()
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(core))  # outlives the interpreter
        return core


def _check_bf16(core: Any) -> None:
    """Raise EngineUnavailable unless the CPU has instructions for bfloat16.

    Without them OpenVINO emulates it with AVX-512, and elsewhere silently takes float32.
    """
    if "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        raise EngineUnavailable(
            f"precision 'bf16' needs a CPU with AVX512_BF16 or AMX, and openvino finds neither in "
            f"this one ({cpu_name()}); pass precision='file'"
        )


def _device(core: Any, device: str) -> str:
    """Return OpenVINO's name of a device.

    Raises:
        EngineUnavailable: if the one asked for cannot be had.
    """
    if device == "cpu":
        return "CPU"
    listed = core.available_devices
    has_gpu = any(name.partition(".")[0] == "GPU" for name in listed)
    if device == "auto":  # with a GPU, OpenVINO itself decides
        return AUTO if has_gpu else "CPU"
    if not has_gpu:
        raise EngineUnavailable(
            f"device 'gpu': openvino lists {', '.join(listed)} alone; install Intel's GPU driver, "
            f"or pass device='cpu'"
        )
    return "GPU"


def _static(shape: Any) -> Shape:
    return tuple(n.get_length() if n.is_static else None for n in shape)


def _reason(err: Exception) -> str:
    """Return the last line of a message; the first ones are places in OpenVINO's sources."""
    lines = [line.strip() for line in str(err).splitlines() if line.strip()]
    return lines[-1] if lines else type(err).__name__
