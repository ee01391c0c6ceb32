"""TensorRT plans: made from a model file on the device, kept, and made again when stale.

A plan works with the TensorRT and the kind of GPU that it was built with, and nowhere else. The
module `trt` is an argument: the tests build with TensorRT for RTX, whose parser and builder need
no GPU. Experimental: not yet run on a GPU.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from dvfl_runtime.artifact import INPUT, ModelFile, Precision
from dvfl_runtime.artifact.onnx_edits import with_own_functions, with_signed_bytes
from dvfl_runtime.engines.cache import private_folder, read_private, slug, write_private
from dvfl_runtime.errors import ArtifactError, OutputError

logger = logging.getLogger(__name__)

MAX_BATCH = 8  # larger batches are run in parts
MAX_WORKSPACE_BYTES = 1 << 30

Progress: TypeAlias = Callable[[float], None]  # called with the share that is done, 0 to 1


@dataclass(frozen=True)
class PlanKey:
    """What a plan was built for. Another value of any of them makes a plan stale.

    Attributes:
        tensorrt: version.
        gpu: its model, see `dvfl_runtime.engines.cuda.gpu_model`.
        compute_capability: of the GPU, such as "8.7".
        precision: of the model.
        model_sha256: of the model's graph, see `dvfl_runtime.artifact.ModelFile`.
        max_batch: the largest batch that the plan takes.
        plugins: `library_mark` of dvfl's plugins, empty without them.
    """

    tensorrt: str
    gpu: str
    compute_capability: str
    precision: Precision
    model_sha256: str
    max_batch: int = MAX_BATCH
    plugins: list[int] = dataclasses.field(default_factory=list)


class PlanCache:
    """Plans of this user: FILE.plan as trtexec loads it, and FILE.json with its PlanKey.

    Args:
        model: name of the model, for people who look into the folder.
        key: of the plan that is wanted.

    Attributes:
        key: of the plan that is wanted.
        plan: its path; None if nothing can be kept.
    """

    def __init__(self, model: str, key: PlanKey) -> None:
        self.plan: Path | None = None
        self.key = key
        try:
            folder = private_folder("tensorrt")
        except OutputError as err:
            self._problem = err
            return
        name = f"{slug(model)}-{key.model_sha256[:12]}-{slug(key.gpu)}"
        self.plan = folder / f"{name}.plan"
        self._sidecar = folder / f"{name}.json"
        self._timings = folder / f"{slug(key.gpu)}.timing"

    def load(self) -> bytes | None:
        """Return the plan, None if there is none, or if it is damaged, stale or not trusted.

        The reason is logged.
        """
        if self.plan is None or not os.path.lexists(self.plan):
            return None
        try:
            plan = read_private(self.plan)
            about = json.loads(read_private(self._sidecar))
            found, digest = dict(about["key"]), about["plan_sha256"]
        except (OSError, OutputError, ValueError, KeyError, TypeError) as err:
            logger.warning("building %s again: it cannot be used (%s)", self.plan, err)
            return None
        wanted = dataclasses.asdict(self.key)
        if found != wanted:
            changed = [
                f"{name} was {found.get(name)!r} and is {value!r}"
                for name, value in wanted.items()
                if found.get(name) != value
            ]
            logger.info("building %s again: %s", self.plan, "; ".join(changed) or "another format")
            return None
        if _sha256(plan) != digest:
            logger.warning("building %s again: it is damaged", self.plan)
            return None
        return plan

    def keep(self, plan: bytes, timings: bytes) -> None:
        """Write a plan, its description and the timing cache, each complete or not at all.

        Raises:
            OutputError: if there is no folder for them that can be written and is this user's own.
        """
        if self.plan is None:
            raise self._problem
        about = {"key": dataclasses.asdict(self.key), "plan_sha256": _sha256(plan)}
        write_private(self.plan, plan)
        write_private(self._sidecar, (json.dumps(about, indent=2) + "\n").encode())
        write_private(self._timings, timings)

    def timings(self) -> bytes:
        """Return what earlier builds on this GPU have measured, b"" if there is nothing."""
        if self.plan is not None:
            with suppress(OSError, OutputError):
                return read_private(self._timings)
        return b""


class PlanBuilder:
    """One build: the model's network, the configuration, the plan.

    Args:
        trt: the module `tensorrt`.
        model: the file.
        max_batch: the largest batch that the plan takes, if the model's batch is dynamic.
        by_plugins: the kinds of nodes that are left to plugins. Their functions are taken out:
            TensorRT before 10.7 would prefer them.

    Raises:
        ArtifactError: if TensorRT cannot read the model.

    Attributes:
        config: TensorRT's `IBuilderConfig`.
    """

    def __init__(
        self,
        trt: Any,
        model: ModelFile,
        *,
        max_batch: int = MAX_BATCH,
        by_plugins: Sequence[str] = (),
    ) -> None:
        self._trt = trt
        self._path = model.path
        self._log = tensorrt_log(trt)
        self._builder = trt.Builder(self._log)
        strongly_typed = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
        self._network = self._builder.create_network(strongly_typed)
        self._parser = trt.OnnxParser(self._network, self._log)
        content = model.content_for_kernels(by_plugins) if by_plugins else model.content
        # it takes no unsigned bytes
        if not self._parser.parse(with_own_functions(with_signed_bytes(content))):
            raise ArtifactError(
                f"{self._version()} cannot read model {self._path}: {self._parser_error()}"
            )
        self.config = self._builder.create_builder_config()
        # TF32 keeps ten bits of the mantissa: fp32 logits would be off by more than 1e-3
        self.config.clear_flag(trt.BuilderFlag.TF32)
        self._add_profile(max_batch)

    def build(
        self,
        *,
        workspace_bytes: int = MAX_WORKSPACE_BYTES,
        timings: bytes = b"",
        progress: Progress | None = None,
    ) -> tuple[bytes, bytes]:
        """Build the plan, which takes from seconds to many minutes.

        Args:
            workspace_bytes: memory that a layer may use for its work.
            timings: the timing cache of an earlier build.
            progress: called with the share of the build that is done. An exception of it ends the
                build and is raised here.

        Returns:
            The plan and the timing cache.

        Raises:
            ArtifactError: if TensorRT cannot build the plan.
        """
        config = self.config
        config.set_memory_pool_limit(self._trt.MemoryPoolType.WORKSPACE, workspace_bytes)
        timing_cache = config.create_timing_cache(timings)
        if timing_cache is None or not config.set_timing_cache(timing_cache, ignore_mismatch=False):
            # of another TensorRT or GPU; an empty one always fits
            config.set_timing_cache(config.create_timing_cache(b""), ignore_mismatch=False)
        monitor = None if progress is None else progress_monitor(self._trt, progress)
        if monitor is not None:
            config.progress_monitor = monitor
        plan = self._builder.build_serialized_network(self._network, config)
        if monitor is not None and monitor.error is not None:
            raise monitor.error
        if plan is None:
            reason = self._log.errors[0] if self._log.errors else "it gives no reason"
            raise ArtifactError(f"{self._version()} cannot build model {self._path}: {reason}")
        timing_cache = config.get_timing_cache()
        return bytes(plan), b"" if timing_cache is None else bytes(timing_cache.serialize())

    def _version(self) -> str:
        return f"TensorRT {self._trt.__version__}"

    def _parser_error(self) -> str:
        if not self._parser.num_errors:
            return self._log.errors[0] if self._log.errors else "it gives no reason"
        parser_error = self._parser.get_error(0)
        where = f"node {parser_error.node_name()!r} ({parser_error.node_operator()})"
        return f"{where}: {_one_line(parser_error.desc())}; export it again with dvfl-export"

    def _add_profile(self, max_batch: int) -> None:
        """Ask for 1 to `max_batch` clips where the batch is open, and the best time for one."""
        batch, *clip = tuple(self._network.get_input(0).shape)
        if batch != -1:
            return
        profile = self._builder.create_optimization_profile()
        profile.set_shape(INPUT, (1, *clip), (1, *clip), (max_batch, *clip))
        self.config.add_optimization_profile(profile)


def tensorrt_log(trt: Any) -> Any:
    """Return a `trt.ILogger` that writes to `logging` and keeps the errors in `.errors`."""
    errors = (trt.ILogger.INTERNAL_ERROR, trt.ILogger.ERROR)

    class Log(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in errors:
                self.errors.append(_one_line(message))
            if severity in (*errors, trt.ILogger.WARNING):
                logger.debug("TensorRT: %s", message)  # what is fatal is raised by the caller too

    return Log()


def progress_monitor(trt: Any, progress: Progress) -> Any:
    """Return a `trt.IProgressMonitor` that reports the share done of all phases known so far.

    An exception of `progress` must not reach TensorRT: it is kept in `.error`, and the build is
    asked to stop.
    """

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.error: BaseException | None = None
            self._open: dict[str | None, tuple[float, float, int]] = {}  # begin, length, steps
            self._reported = 0.0

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            begin, length = 0.0, 1.0
            if parent_phase in self._open:  # it fills one step of its parent, from now on
                above, parent_length, parent_steps = self._open[parent_phase]
                begin, length = max(above, self._reported), parent_length / parent_steps
            self._open[phase_name] = (begin, length, max(num_steps, 1))

        def step_complete(self, phase_name: str, step: int) -> bool:
            begin, length, steps = self._open.get(phase_name, (0.0, 1.0, 1))
            return self._report(begin + length * min(step + 1, steps) / steps)

        def phase_finish(self, phase_name: str) -> None:
            begin, length, _steps = self._open.pop(phase_name, (0.0, 0.0, 1))
            self._report(begin + length)

        def _report(self, done: float) -> bool:
            if self.error is not None:
                return False
            self._reported = max(self._reported, min(done, 1.0))
            try:
                progress(self._reported)
            except BaseException as err:
                self.error = err
            return self.error is None

    return Monitor()


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _one_line(text: str) -> str:
    return " ".join(text.split())
