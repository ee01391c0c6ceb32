"""OpenVINO, on the CPU, on an Intel GPU or where it decides, in float32 wherever the model is.

The Intel GPU has not yet been run.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dvfl_runtime.artifact import exported_graph
from dvfl_runtime.engines.cpus import usable_cpus
from dvfl_runtime.engines.openvino_graph import rewrite_for_cpu
from dvfl_runtime.engines.remembered import cpu_name, recall, remember
from dvfl_runtime.engines.signature import INPUT, OUTPUT, Shape, Value, check_signature
from dvfl_runtime.errors import ArtifactError, DvflError, EngineUnavailable
from dvfl_runtime.errors.packages import MEDIA, needed
from dvfl_runtime.version import __version__

logger = logging.getLogger(__name__)

TYPES = {"u8": "uint8", "f32": "float32"}  # its names of them
AUTO = "AUTO:GPU,CPU"
LARGEST = 8  # batch that is compiled
REWRITING = 1  # version of what `openvino_graph` does
# share of the largest logit by which a rewritten model may differ; int8 values between two steps
# may round to the other one, which moved logits by up to 0.03
AGREE = {False: 1e-3, True: 0.1}
TINY = 1e-6

_cores: dict[int, Any] = {}  # process -> its only `Core`
_cores_lock = threading.Lock()


def open_engine(
    path: str | os.PathLike[str], device: str, num_threads: int | None
) -> OpenVinoEngine:
    """Loads a model file into OpenVINO; see `dvfl_runtime.engines.open_engine`."""
    ov = _import()
    core = shared_core(ov)
    chosen = _device(core, device)
    config: dict[str, Any] = {
        "PERFORMANCE_HINT": "LATENCY",
        # CPUs with AMX would otherwise take bfloat16, and logits would differ from machine to
        # machine; integer arithmetic of int8 models is not touched by it
        "INFERENCE_PRECISION_HINT": "f32",
    }
    if chosen == AUTO:
        config["ENABLE_STARTUP_FALLBACK"] = False  # what is reported at first stays true
    if chosen == "CPU":
        config["INFERENCE_NUM_THREADS"] = num_threads or usable_cpus()
    model = _read(ov, path)
    inputs = [_value(port) for port in model.inputs]
    outputs = [_value(port) for port in model.outputs]
    check_signature(path, inputs, outputs)
    graph = _Graph(ov, core, chosen, config, os.fspath(path))
    digest = exported_graph(path) if chosen == "CPU" else ""
    return _rewritten(graph, model, digest) if digest else OpenVinoEngine(graph, model)


def _rewritten(graph: _Graph, model: Any, digest: str) -> OpenVinoEngine:
    """Opens a file of dvfl-export as it runs faster here, if it then computes the same.

    Once for each file, machine and version both are compiled and run on one clip, which takes as
    long as to open the file another time; the outcome is remembered.

    Args:
        graph: what compiles it.
        model: as it was read; left unchanged.
        digest: of the file's graph.
    """
    faster = model.clone()
    quantised = any(node.get_type_name() == "FakeQuantize" for node in model.get_ops())
    engine = plain = None
    try:
        count = rewrite_for_cpu(faster)
        if not count:
            return OpenVinoEngine(graph, model)
        key = {
            **{"schema": REWRITING, "dvfl": __version__, "openvino": graph.version},
            **{"cpu": cpu_name(), "places": count, "model_sha256": digest},
        }
        share = recall("rewriting", key).get("difference")
        if not isinstance(share, float):
            engine, plain = OpenVinoEngine(graph, faster), OpenVinoEngine(graph, model)
            share = _difference(plain, engine)
            remember("rewriting", key, {"difference": share})
        if share <= AGREE[quantised]:
            return engine or OpenVinoEngine(graph, faster)
        reason = f"a clip's logits differ by {share:.2g} of the largest one"
    except Exception as err:
        reason = f"{type(err).__name__}: {_reason(err)}"
    plain = plain or OpenVinoEngine(graph, model)
    logger.warning(
        "openvino runs %s as it is, which takes longer: rewritten for this CPU it does not "
        "compute the same (%s); please report this",
        *(graph.path, reason),
    )
    return plain


def _difference(plain: OpenVinoEngine, faster: OpenVinoEngine) -> float:
    """Returns by what share of the largest logit two engines differ on one clip of noise."""
    shape = (1, *(n or 1 for n in plain.clip_shape[1:]))
    clip = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    wanted, found = plain.run(clip), faster.run(clip)
    if not np.isfinite(wanted).all():
        return 0.0  # a fault of the file's own, which is told when it is used
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

    def __init__(self, graph: _Graph, model: Any) -> None:
        self.version = graph.version
        self.clip_shape = _static(model.input(0).partial_shape)
        self.num_classes = _static(model.output(0).partial_shape)[-1]
        self._path = graph.path
        self._lock = threading.Lock()
        self._model: Any = model  # as it was read, with its own batch
        self._graph: _Graph | None = graph
        first = self.clip_shape[0] or 1
        self._pools = {first: graph.compiled(model, first)}
        self.provider = self._pools[first].provider
        self.device = "gpu" if "GPU" in self.provider else "cpu"

    def run(self, clips: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Executes the graph: (B, T, H, W, 3) uint8 -> (B, num_classes) float32 logits.

        Raises:
            ArtifactError: if the graph fails.
            DvflError: after `close`.
        """
        parts: list[NDArray[np.float32]] = []
        rest = clips
        try:
            while len(rest):
                size = self.clip_shape[0] or _part(len(rest))
                parts.append(self._requests(size).infer(np.ascontiguousarray(rest[:size])))
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
        """Releases the model once running calls are done; further calls do nothing."""
        with self._lock:
            self._graph = self._model = None
            self._pools = {}

    def _requests(self, batch: int) -> _Requests:
        """Returns what runs batches of this size; compiles it when it is first used."""
        with self._lock:
            if self._graph is None:
                raise DvflError("this engine is closed; open another one")
            if batch not in self._pools:
                self._pools[batch] = self._graph.compiled(self._model, batch)
            return self._pools[batch]


class _Graph:
    """Compiles a model for one device and configuration."""

    def __init__(
        self, ov: ModuleType, core: Any, device: str, config: dict[str, Any], path: str
    ) -> None:
        self.version: str = ov.__version__.partition("-")[0]
        self.path = path
        self._core = core
        self._device = device
        self._config = config

    def compiled(self, model: Any, batch: int) -> _Requests:
        """Compiles with the batch fixed.

        Raises:
            ArtifactError: if the device cannot compile the model.
        """
        try:
            model = model.clone()
            shape = model.input(0).partial_shape
            shape[0] = batch
            model.reshape({INPUT: shape})
            return _Requests(self._core.compile_model(model, self._device, self._config))
        except RuntimeError as err:
            raise ArtifactError(
                f"openvino {self.version} cannot load model {Path(self.path)}: {_reason(err)}; "
                f"copy or export it again, or upgrade openvino"
            ) from err


class _Requests:
    """A compiled model and its idle infer requests; as many come to be as run at once."""

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
    """Returns how many of the clips left are run at once: the largest power of 2, at most 8."""
    return min(LARGEST, 1 << (rest.bit_length() - 1))


def _import() -> ModuleType:
    with needed("engine 'openvino'", "openvino", *MEDIA, error=EngineUnavailable):
        import openvino
    module: ModuleType = openvino
    return module


def shared_core(ov: ModuleType) -> Any:
    """Returns this process's `Core`, which is made once and never destroyed.

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


def _device(core: Any, device: str) -> str:
    """Returns OpenVINO's name of a device, and raises if the one asked for cannot be had."""
    if device == "cpu":
        return "CPU"
    if device not in ("auto", "gpu"):
        raise EngineUnavailable(
            f"openvino does not run on device {device!r}; pass device='cpu' or device='gpu' "
            f"(Intel's), or engine='onnxruntime'"
        )
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


def _read(ov: ModuleType, path: str | os.PathLike[str]) -> Any:
    """Reads an ONNX file.

    By the ONNX front end alone: `Core.read_model` tries the others as well and prints what each of
    them dislikes.
    """
    from openvino.frontend import FrontEndManager

    with _loading(ov, path):
        frontend = FrontEndManager().load_by_framework("onnx")
        return frontend.convert(frontend.load(os.fspath(path)))


@contextlib.contextmanager
def _loading(ov: ModuleType, path: str | os.PathLike[str]) -> Iterator[None]:
    """Turns what OpenVINO raises into an `ArtifactError`."""
    try:
        yield
    except Exception as err:  # the front ends' exceptions share no base of their own
        raise ArtifactError(
            f"openvino {ov.__version__.partition('-')[0]} cannot load model {Path(path)}: "
            f"{_reason(err)}; copy or export it again, or upgrade openvino"
        ) from err


def _value(port: Any) -> Value:
    kind = port.element_type.get_type_name()
    return port.get_any_name(), TYPES.get(kind, kind), _static(port.partial_shape)


def _static(shape: Any) -> Shape:
    return tuple(n.get_length() if n.is_static else None for n in shape)


def _reason(err: Exception) -> str:
    """Returns the last line of a message, the first ones being places in OpenVINO's sources."""
    lines = [line.strip() for line in str(err).splitlines() if line.strip()]
    return lines[-1] if lines else type(err).__name__
