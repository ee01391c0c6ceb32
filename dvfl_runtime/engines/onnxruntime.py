"""ONNX Runtime on the CPU, on CUDA or on TensorRT, without silent fallback from one to the other.

The CUDA and TensorRT providers are experimental: not yet run on a GPU.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import re
import tempfile
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dvfl_runtime.artifact import FUSED_DOMAIN, INPUT, OUTPUT, ModelFile, Shape
from dvfl_runtime.artifact.onnx_edits import with_signed_bytes
from dvfl_runtime.engines.cache import private_folder, slug
from dvfl_runtime.engines.cpus import usable_cpus
from dvfl_runtime.engines.cuda import cuda_problem, gpu_model
from dvfl_runtime.engines.kernels import kernel_library, say_lacking, say_unused
from dvfl_runtime.errors import ArtifactError, DvflError, EngineUnavailable, OutputError
from dvfl_runtime.errors.packages import MEDIA, needed

logger = logging.getLogger(__name__)

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
TENSORRT = "TensorrtExecutionProvider"
MAX_BATCH = 8  # the TensorRT provider is built for; larger batches are run in parts
_NOT_REGISTERED = re.compile(rf"\b{FUSED_DOMAIN}:(\w+)\(-?\d+\) is not a registered")
INSTALL_CUDA = "pip uninstall onnxruntime; pip install 'onnxruntime-gpu[cuda,cudnn]'"


def open_engine(model: ModelFile, device: str, num_threads: int | None) -> OnnxRuntimeEngine:
    """Load a model file into ONNX Runtime; see `dvfl_runtime.engines.open_engine`."""
    ort = _import()
    chosen = _device(ort, device)
    provider = _cuda_provider(ort) if chosen == "cuda" else PROVIDERS[chosen]
    return _open(ort, model, chosen, num_threads, [provider])


def open_on_tensorrt(model: ModelFile, device: str, num_threads: int | None) -> OnnxRuntimeEngine:
    """Load a model file into the TensorRT provider; nodes that it lacks run on the CUDA provider.

    TensorRT builds its engine when the model is first opened, which takes minutes; it is kept in a
    folder of this user in the cache. The provider has no option against TF32, which the engine
    "tensorrt" switches off: NVIDIA_TF32_OVERRIDE=0 in the environment does it.
    """
    ort = _import()
    if TENSORRT not in ort.get_available_providers():
        raise EngineUnavailable(
            f"engine 'onnxruntime-tensorrt': this onnxruntime is built without TensorRT; run: "
            f"{INSTALL_CUDA}"
        )
    chosen = _device(ort, "cuda")
    providers = [(TENSORRT, _tensorrt_options(model)), _cuda_provider(ort)]
    return _open(ort, model, chosen, num_threads, providers)


def _cuda_provider(ort: ModuleType) -> tuple[str, dict[str, str]]:
    """Load the CUDA provider's libraries; return the provider with its options.

    The libraries of pip's packages are in folders of their own, where only onnxruntime looks.
    Those that it does not find may be the system's.
    """
    preload = getattr(ort, "preload_dlls", None)  # onnxruntime 1.21 and later
    if preload is not None:
        printed = io.StringIO()  # standard output is for results
        with contextlib.redirect_stdout(printed):
            try:
                preload()
            except Exception as err:  # whether CUDA works without them shows in `_open`
                printed.write(f"{type(err).__name__}: {err}")
        logger.info("CUDA's libraries: %s", " ".join(printed.getvalue().split()) or "loaded")
    # TF32 keeps ten bits of the mantissa: fp32 logits would be off by more than 1e-3
    return PROVIDERS["cuda"], {"use_tf32": "0"}


def _tensorrt_options(model: ModelFile) -> dict[str, str]:
    """Return the TensorRT provider's options: its batches, and where it keeps its engines.

    Without the batches it builds again for each batch that is larger than all before.
    """
    spec = model.artifact.spec
    options = {
        f"trt_profile_{name}_shapes": f"{INPUT}:{'x'.join(map(str, clip_shape))}"
        for name, batch in (("min", 1), ("opt", 1), ("max", MAX_BATCH))
        for clip_shape in [(batch, spec.num_frames, *spec.size, 3)]
    }
    try:
        # it names its files by the compute capability alone, which Orin Nano and AGX share
        kept = private_folder(f"onnxruntime-tensorrt-{slug(gpu_model())}")
    except (OSError, OutputError) as err:
        logger.warning("TensorRT builds its engine at each start: %s", err)
        return options
    return {
        **options,
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": str(kept),
        "trt_timing_cache_enable": "1",
        "trt_timing_cache_path": str(kept),
    }


def _open(
    ort: ModuleType,
    model: ModelFile,
    device: str,
    num_threads: int | None,
    providers: list[Any],
) -> OnnxRuntimeEngine:
    """Make a session that uses these providers and no others."""
    wanted = [p if isinstance(p, str) else p[0] for p in providers]
    version, unused = ort.__version__, None
    try:
        if opened := _session_of_kernels(ort, model, device, num_threads, providers):
            session, fused = opened
            return OnnxRuntimeEngine(session, version, device, wanted, model, fused)
    except Exception as err:  # it may be the file's fault, which is found out below
        unused = err
    # bytes, so that the content that was checked is the one that runs: 240 ms instead of 205 ms for
    # 85 MB, no difference for 10 MB. The TensorRT provider names the engines that it keeps after
    # the file: from bytes, two models of one architecture would share one.
    source = _expanded_file(ort, model) if TENSORRT in wanted else model.content
    options = _session_options(ort, device, num_threads)
    try:
        session = ort.InferenceSession(source, options, providers=providers)
    except Exception as err:  # its exceptions share no base of their own
        if device != "cpu":
            raise EngineUnavailable(
                f"onnxruntime cannot run {model.path} on {device}: {_first_line(err)}; "
                f"pass device='cpu'"
            ) from err
        raise ArtifactError(
            f"onnxruntime {version} cannot load model {model.path}: {_first_line(err)}; "
            f"copy or export it again, or upgrade onnxruntime"
        ) from err
    found = session.get_providers()
    if found[: len(wanted)] != wanted:
        raise EngineUnavailable(
            f"onnxruntime fell back from {wanted[0]} to {found[0]}; "
            f"pass device='cpu' if that is meant"
        )
    if unused is not None:
        say_unused("onnxruntime", unused)
    return OnnxRuntimeEngine(session, version, device, wanted, model)


def _expanded_file(ort: ModuleType, model: ModelFile) -> str:
    """Return the path of a model without functions, the file's own where it has none.

    Whether the TensorRT provider hands the functions of fused nodes to TensorRT is not known, so
    onnxruntime writes the file with their operators once; the copy is kept beside the engines.
    """
    if not model.fused_operators:
        return os.fspath(model.path)
    try:
        folder = private_folder("onnxruntime-expanded")
        name = f"{slug(model.artifact.name)}-{model.graph_sha256[:12]}-{ort.__version__}.onnx"
        if not (folder / name).exists():
            options = _session_options(ort, "cpu", None)
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
            with tempfile.TemporaryDirectory(dir=folder) as part:
                options.optimized_model_filepath = os.path.join(part, name)
                content = with_signed_bytes(model.content)  # it takes no others
                ort.InferenceSession(content, options, providers=[PROVIDERS["cpu"]])
                os.replace(options.optimized_model_filepath, folder / name)
        return os.fspath(folder / name)
    except Exception as err:  # onnxruntime's exceptions share no base of their own
        logger.warning("TensorRT gets %s with its functions: %s", model.path, _first_line(err))
        return os.fspath(model.path)


def _session_options(ort: ModuleType, device: str, num_threads: int | None) -> Any:
    options = ort.SessionOptions()
    options.intra_op_num_threads = num_threads or usable_cpus()
    options.inter_op_num_threads = 1
    # threads that spin between two runs gain nothing here and take the CPU from the decoder
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 4  # fatal errors alone; the others are raised as well
    if device != "cpu":
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    return options


def _session_of_kernels(
    ort: ModuleType,
    model: ModelFile,
    device: str,
    num_threads: int | None,
    providers: list[Any],
) -> tuple[Any, tuple[str, ...]] | None:
    """Return a session and the kinds of nodes that kernels run in it; None where there are none.

    It opens the file without the functions of those nodes, so nothing else can run them. A node
    that the library does not know keeps its function: a newer file goes with an older library.

    Raises:
        Exception: if the kernels do not load, or do not take a node that they know.
    """
    operators = model.fused_operators
    if device == "cpu":
        library_of, fits = "onnxruntime", model.artifact.precision != "fp16"
    else:  # not yet run on a GPU
        library_of, fits = "onnxruntime-cuda", not any(name[:1] == "Q" for name in operators)
        fits = fits and len(providers) == 1  # TensorRT's provider knows no operators of others
    library = kernel_library(library_of) if operators and fits else ""
    if not library:
        return None
    by_kernels = operators
    while True:
        options = _session_options(ort, device, num_threads)
        options.register_custom_ops_library(library)
        content = model.content_for_kernels(by_kernels)
        try:
            session = ort.InferenceSession(content, options, providers=providers)
            break
        except Exception as err:  # it names one kind at a time
            unknown = by_kernels.intersection(_NOT_REGISTERED.findall(str(err)))
            if not unknown or unknown == by_kernels:
                raise
            by_kernels -= unknown
    wanted = providers[0] if isinstance(providers[0], str) else providers[0][0]
    if session.get_providers()[0] != wanted:
        return None
    if by_kernels != operators:
        say_lacking("onnxruntime", operators - by_kernels)
    return session, tuple(sorted(by_kernels))


class OnnxRuntimeEngine:
    """An ONNX Runtime session as an `Engine`."""

    precision = "file"

    def __init__(
        self,
        session: Any,
        version: str,
        device: str,
        providers: list[str],
        model: ModelFile,
        fused_ops: tuple[str, ...] = (),
    ) -> None:
        # by default it keeps the bytes, and opens them on the CPU when another device fails
        session.disable_fallback()
        session._model_bytes = None
        self.fused_ops = fused_ops
        self.name = "onnxruntime-tensorrt" if TENSORRT in providers else "onnxruntime"
        self.version: str = version
        self.device: str = device
        self.provider: str = "+".join(providers)
        self.clip_shape = _static(session.get_inputs()[0].shape)
        self.num_classes = _static(session.get_outputs()[0].shape)[-1]
        self._path = model.path
        self._most = MAX_BATCH if TENSORRT in providers else None
        self._session: Any = session

    def run(self, clips: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Execute the graph: (B, T, H, W, 3) uint8 -> (B, num_classes) float32 logits.

        Raises:
            ArtifactError: if the graph fails.
            DvflError: after `close`.
        """
        session = self._session
        if session is None:
            raise DvflError("this engine is closed; open another one")
        clips = np.ascontiguousarray(clips)
        if not len(clips) and self.fused_ops:  # kernels refuse an empty batch
            return np.empty((0, self.num_classes or 0), np.float32)
        most = self._most or max(1, len(clips))
        try:
            parts = [
                session.run([OUTPUT], {INPUT: clips[begin : begin + most]})[0]
                for begin in range(0, max(1, len(clips)), most)
            ]
        except Exception as err:  # its exceptions share no base of their own
            raise ArtifactError(
                f"model {self._path} fails on clips of shape {clips.shape}: {_first_line(err)}"
            ) from err
        return np.concatenate(parts).astype(np.float32, copy=False)

    def close(self) -> None:
        """Release the session once running calls are done; further calls do nothing."""
        self._session = None


def _import() -> ModuleType:
    # since 1.32 it sends data about this machine to Microsoft unless this is 1; users may set 0
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    with needed("engine 'onnxruntime'", "onnxruntime", *MEDIA, error=EngineUnavailable):
        import onnxruntime
    module: ModuleType = onnxruntime
    return module


def _device(ort: ModuleType, device: str) -> str:
    """Return "cpu" or "cuda".

    Raises:
        EngineUnavailable: if CUDA was asked for and cannot be had.
    """
    if device == "cpu":
        return device
    has_cuda = PROVIDERS["cuda"] in ort.get_available_providers()
    problem = cuda_problem() if has_cuda else "this onnxruntime is built without CUDA"
    if device == "auto":
        return "cpu" if problem else "cuda"
    if not has_cuda:
        raise EngineUnavailable(f"device 'cuda': {problem}; run: {INSTALL_CUDA}")
    if problem:
        raise EngineUnavailable(f"device 'cuda': {problem}; pass device='cpu'")
    return "cuda"


def _static(shape: list[Any]) -> Shape:
    return tuple(n if isinstance(n, int) else None for n in shape)


def _first_line(err: Exception) -> str:
    return (str(err).strip() or type(err).__name__).splitlines()[0]
