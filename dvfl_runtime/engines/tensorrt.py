"""TensorRT on an NVIDIA GPU, by a plan that is built here from the model file and kept.

Experimental: not yet run on a GPU. Reading models and building plans are tested with TensorRT for
RTX, and the names that are called here with the bindings of TensorRT 10.3, 10.16 and 11.4.
"""

from __future__ import annotations

import contextlib
import logging
import math
import threading
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dvfl_runtime.artifact import INPUT, OUTPUT, ModelFile
from dvfl_runtime.engines.cuda import cuda_problem, gpu_model
from dvfl_runtime.engines.gpu import Gpu
from dvfl_runtime.engines.kernels import library_mark, say_unused
from dvfl_runtime.engines.plans import (
    MAX_WORKSPACE_BYTES,
    PlanBuilder,
    PlanCache,
    PlanKey,
    Progress,
    tensorrt_log,
)
from dvfl_runtime.engines.plugins import Plugins
from dvfl_runtime.errors import ArtifactError, DvflError, EngineUnavailable, OutputError
from dvfl_runtime.errors.packages import needed

logger = logging.getLogger(__name__)

OLDEST, NEWEST_MAJOR = (10, 3), 11


def open_engine(
    model: ModelFile,
    device: str,
    num_threads: int | None,
    *,
    progress: Progress | None = None,
) -> TensorRtEngine:
    """Load a model file into TensorRT; see `dvfl_runtime.engines.open_engine`.

    The first time on a GPU it builds a plan, which takes from seconds to many minutes, and keeps it
    in the folder of `dvfl_runtime.files.cache_folder`.

    Args:
        model: the file.
        device: "auto" or "cuda", which are the same here.
        num_threads: not used; the GPU does the work.
        progress: called with the share of a build that is done; by default it is logged.
    """
    trt, gpu = open_device()
    try:
        return TensorRtEngine(trt, gpu, model, progress or _log_progress())
    except BaseException:
        with contextlib.suppress(Exception):  # the first error tells more
            gpu.close()
        raise


def open_device() -> tuple[ModuleType, Gpu]:
    """Return the module `tensorrt` and the GPU.

    Raises:
        EngineUnavailable: if there is no GPU (found out before TensorRT is loaded), a package is
            missing, or TensorRT is older than 10.3 or newer than 11.
    """
    if problem := cuda_problem():
        raise EngineUnavailable(
            f"tensorrt needs an NVIDIA GPU: {problem}; "
            f"pass engine='onnxruntime' or engine='openvino'"
        )
    try:
        import tensorrt as trt
    except ImportError as err:
        raise EngineUnavailable(
            f"tensorrt cannot be imported ({err}); on a Jetson it is part of JetPack (make the "
            f"environment with --system-site-packages), elsewhere run: pip install tensorrt"
        ) from err
    with needed("engine 'tensorrt'", "cuda.bindings", error=EngineUnavailable):
        from cuda.bindings import driver
    version = tuple(int(part) for part in trt.__version__.split(".")[:2])
    if version < OLDEST or version[0] > NEWEST_MAJOR:
        raise EngineUnavailable(
            f"TensorRT {trt.__version__} is not supported, 10.3 to 11 are; "
            f"pass engine='onnxruntime'"
        )
    module: ModuleType = trt
    return module, Gpu(driver)


class TensorRtEngine:
    """A TensorRT plan as an `Engine`.

    One execution context, used by one thread at a time: a GPU works on one clip after another
    anyway, and a second context would take its memory a second time.
    """

    name = "tensorrt"
    provider = "TensorRT"
    device = "cuda"
    precision = "file"

    def __init__(self, trt: ModuleType, gpu: Gpu, model: ModelFile, progress: Progress) -> None:
        self.version: str = trt.__version__
        self.plan: Path | None = None  # where it is kept, from `_load` on
        self._path = model.path
        self._lock = threading.Lock()
        self._log = tensorrt_log(trt)  # must live as long as the runtime
        self._runtime: Any = trt.Runtime(self._log)
        self._plugins = Plugins(self._runtime.get_plugin_registry(), model)
        self._engine: Any = self._load(trt, gpu, model, progress)
        self._context: Any = self._engine.create_execution_context()
        if self._context is None:
            raise EngineUnavailable(f"TensorRT has no memory for {model.path}: {self._reason()}")
        batch, *clip = tuple(self._engine.get_tensor_shape(INPUT))
        self.clip_shape: tuple[int | None, ...] = (None if batch == -1 else batch, *clip)
        self.num_classes: int = tuple(self._engine.get_tensor_shape(OUTPUT))[-1]
        if batch == -1:
            _least, _best, largest = self._engine.get_tensor_profile_shape(INPUT, 0)
            batch = next(iter(largest))
        self._max_batch = int(batch)
        self._clips_at = gpu.allocate(self._max_batch * math.prod(clip))
        self._logits_at = gpu.allocate(self._max_batch * self.num_classes * 4)
        self._gpu: Gpu | None = gpu

    @property
    def fused_ops(self) -> tuple[str, ...]:
        """The kinds of nodes that plugins of dvfl compute."""
        return self._plugins.names

    def run(self, clips: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Execute the plan: (B, T, H, W, 3) uint8 -> (B, num_classes) float32 logits.

        Raises:
            ArtifactError: if the plan fails.
            DvflError: after `close`.
        """
        clips = np.ascontiguousarray(clips)
        if clips.shape[1:] != self.clip_shape[1:] or clips.dtype != np.uint8:
            raise ArtifactError(
                f"model {self._path} takes uint8 clips of shape {self.clip_shape}, "
                f"got {clips.dtype} {clips.shape}"
            )
        logits = np.empty((len(clips), self.num_classes), np.float32)
        with self._lock:
            if self._gpu is None:
                raise DvflError("this engine is closed; open another one")
            self._gpu.make_current()
            for begin in range(0, len(clips), self._max_batch):
                part = slice(begin, begin + self._max_batch)
                self._run_part(self._gpu, clips[part], logits[part])
        return logits

    def close(self) -> None:
        """Release the plan and its memory once a running call is done; again does nothing."""
        with self._lock:
            gpu, self._gpu = self._gpu, None
            if gpu is None:
                return
            gpu.make_current()
            self._context = self._engine = self._runtime = None
            gpu.release(self._clips_at)
            gpu.release(self._logits_at)
            gpu.close()

    def _run_part(self, gpu: Gpu, clips: NDArray[np.uint8], logits: NDArray[np.float32]) -> None:
        context = self._context
        gpu.upload(self._clips_at, clips)
        ready = (
            context.set_input_shape(INPUT, clips.shape)
            and context.set_tensor_address(INPUT, self._clips_at)
            and context.set_tensor_address(OUTPUT, self._logits_at)
            and context.execute_async_v3(gpu.stream)
        )
        if not ready:
            raise ArtifactError(
                f"model {self._path} fails on clips of shape {clips.shape}: {self._reason()}"
            )
        gpu.download(logits, self._logits_at)

    def _load(self, trt: ModuleType, gpu: Gpu, model: ModelFile, progress: Progress) -> Any:
        """Return the deserialised plan: the one kept, or a new one.

        Where it cannot be built with plugins, it is built without.
        """
        key = PlanKey(
            tensorrt=self.version,
            gpu=gpu_model(),
            compute_capability=gpu.compute_capability,
            precision=model.artifact.precision,
            model_sha256=model.graph_sha256,
            plugins=library_mark("tensorrt") if self._plugins.names else [],
        )
        cache = PlanCache(model.artifact.name, key)
        self.plan = cache.plan
        kept = cache.load()
        if kept is not None:
            engine = self._runtime.deserialize_cuda_engine(kept)
            if engine is not None:
                logger.info("using the TensorRT plan %s", cache.plan)
                return engine
            logger.warning("building %s again: %s", cache.plan, self._reason())
        try:
            plan = self._build(trt, gpu, model, cache, progress)
            engine = self._runtime.deserialize_cuda_engine(plan)
            if engine is None:
                reason = self._reason()
                raise ArtifactError(f"TensorRT cannot load the plan that it built: {reason}")
        except ArtifactError as err:
            if not self._plugins.names:
                raise
            unbuilt = str(err)
        else:
            return engine
        # not in the block above, where the error still holds the network with the plugins in it
        if not self._plugins.unload():
            raise ArtifactError(unbuilt)
        say_unused("tensorrt", ArtifactError(unbuilt))
        return self._load(trt, gpu, model, progress)

    def _build(
        self, trt: ModuleType, gpu: Gpu, model: ModelFile, cache: PlanCache, progress: Progress
    ) -> bytes:
        """Build a plan, keep it and return it."""
        begin_s = time.perf_counter()
        # a warning, because the first start on a device would otherwise seem to hang
        logger.warning(
            "building a TensorRT plan for %s on %s: takes minutes, once", model.path, cache.key.gpu
        )
        builder = PlanBuilder(
            trt, model, max_batch=cache.key.max_batch, by_plugins=self._plugins.names
        )
        plan, timings = builder.build(
            # on a Jetson the CPU needs a part of the same memory
            workspace_bytes=min(MAX_WORKSPACE_BYTES, gpu.free_bytes() // 2),
            timings=cache.timings(),
            progress=progress,
        )
        logger.info("built it in %.0f s", time.perf_counter() - begin_s)
        try:
            cache.keep(plan, timings)
        except OutputError as err:  # such as a read-only disk: it runs all the same
            logger.warning("the plan is built again next time: %s", err)
        return plan

    def _reason(self) -> str:
        return self._log.errors[-1] if self._log.errors else "TensorRT gives no reason"


def _log_progress() -> Progress:
    """Return a function that logs each tenth of a build."""
    logged = 0

    def progress(done: float) -> None:
        nonlocal logged
        if (tenths := int(done * 10)) > logged:
            logged = tenths
            logger.info("building a TensorRT plan: %d %%", tenths * 10)

    return progress
