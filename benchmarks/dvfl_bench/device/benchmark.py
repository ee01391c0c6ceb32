"""What `dvfl-bench` measures: model files in engines, in turn, on this machine."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dvfl_bench.device.accuracy import find_test_set, measure_accuracy
from dvfl_bench.device.cold_start import measure_cold_start
from dvfl_bench.device.jetson import temperatures_c
from dvfl_bench.device.machine import describe_machine
from dvfl_bench.device.power import Energy, find_meter
from dvfl_bench.device.stages import stage_times
from dvfl_bench.device.streams import measure_cameras, measure_throughput
from dvfl_bench.device.timing import WarmUp, drift, percentiles, sgemm_gflops, times_in_turn
from dvfl_bench.device.videos import size_of, write_scaled
from dvfl_runtime import Recognizer
from dvfl_runtime.artifact import Artifact, ModelFile
from dvfl_runtime.engines import Engine, open_engine
from dvfl_runtime.errors import DvflError
from dvfl_runtime.recognizer import DEMO_CLIP
from dvfl_runtime.sources import open_source
from dvfl_runtime.version import __version__

log = logging.getLogger(__name__)

SCHEMA = 1
HOT = 1.1  # drift above which the result says that the machine got slower
IDLE_S = 3.0  # of measuring the power of the idle machine
CAMERA_SIZE = (1280, 720)  # (width, height) px that the bundled clip is scaled to

Step = Callable[[str], None]


@dataclass(frozen=True)
class BenchRequest:
    """What to measure.

    Attributes:
        models: files written by dvfl-export.
        engines: name and precision of each, see `open_engine`.
        video: the file to decode; `None` for the bundled clip, scaled to 1280x720.
        device: "auto", "cpu", "cuda" or "gpu".
        threads: of engines on CPUs.
        seconds: about how long each measurement takes, for each model and engine.
        streams: whether streams and cameras are measured too.
        accuracy: labelled videos, a folder or an index; `None` to leave it out.
    """

    models: Sequence[Path]
    engines: Sequence[tuple[str, str]]
    video: Path | None
    device: str
    threads: int
    seconds: float
    streams: bool = True
    accuracy: Path | None = None


@dataclass
class LoadedModel:
    """One file in one engine, and everything that was found out about it.

    Attributes:
        path: of the file.
        recognizer: runs the engine on streams.
        engine: runs the clip.
        clip: (1, T, H, W, 3), random.
        found: the entry of the result, filled step by step.
    """

    path: Path
    recognizer: Recognizer
    engine: Engine
    clip: NDArray[np.uint8]
    found: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def open(cls, path: Path, name: str, precision: str, request: BenchRequest) -> LoadedModel:
        """Open the file in the engine of this name.

        Raises:
            DvflError: if this engine or device cannot run it here.
        """
        engine = open_engine(
            name,
            ModelFile(path),
            device=request.device,
            num_threads=request.threads,
            precision=precision,
        )
        recognizer = Recognizer(path, engine=engine)
        spec, info = recognizer.spec, recognizer.info
        shape = (1, spec.num_frames, *spec.size, 3)
        clip = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
        found = {
            "model": path.name,
            "name": info.name,
            "variant": recognizer.artifact.variant,
            "precision": info.precision,
            "clip": [spec.num_frames, *spec.size],
            "size_mb": round(path.stat().st_size / 1e6, 2),
            "accuracy": dict(recognizer.artifact.training.get("accuracy", {})),
            "engine": info.engine,
            "engine_version": info.versions[info.engine],
            "provider": info.provider,
            "device": info.device,
            "fused_ops": list(info.fused_ops),
        }
        return cls(path, recognizer, engine, clip, found)

    @property
    def artifact(self) -> Artifact:
        """The file's description of itself."""
        return self.recognizer.artifact

    @property
    def title(self) -> str:
        """Name of file, precision and engine, for people."""
        return f"{self.path.stem} {self.found['precision']} on {self.found['engine']}"

    def infer(self) -> None:
        """Run the engine once, on a clip that is ready; the logits are back when it returns."""
        self.engine.run(self.clip)


def measure(request: BenchRequest, step: Step = log.info) -> dict[str, Any]:
    """Measure everything; engines that cannot run a file are left out and named.

    Args:
        request: what to measure.
        step: called with the name of each step as it begins.

    Returns:
        Ready for JSON; docs/benchmarks.md describes it.

    Raises:
        DvflError: if a file cannot be read, or no engine can run any.
    """
    # raises its errors before any work
    described = [(path.name, ModelFile(path).artifact) for path in request.models]
    test_set = None if request.accuracy is None else find_test_set(request.accuracy, described)
    machine = describe_machine(request.threads)  # the load before this run adds its own
    before_c = temperatures_c()
    skipped: list[dict[str, str]] = []
    with ExitStack() as stack:
        video = _video(request, stack, step) if request.streams else None
        size = None if video is None else size_of(video)
        models = _open_models(request, skipped, stack, step)
        energy = Energy(find_meter())
        if energy.meter is not None:
            step("power of the idle machine")
            energy.measure_idle(IDLE_S)
        step("float32 matrix product")
        sgemm = sgemm_gflops(request.threads)
        _time_models(models, request, sgemm["gflops"], energy, step)
        if video is not None:
            for model in models:
                _time_streams(model, video, request.seconds, step)
        if test_set is not None:
            for model, right in zip(models, measure_accuracy(models, test_set, step), strict=True):
                model.found["measured_accuracy"] = right
    return {
        "schema": SCHEMA,
        "what": "dvfl-bench",
        "dvfl": __version__,
        "machine": machine,
        "temperatures_c": {"before": before_c, "after": temperatures_c()},
        "energy": energy.report(),
        "sgemm": sgemm,
        "video": size,
        "seconds": request.seconds,
        "test_set": None if request.accuracy is None else _name_of(request.accuracy),
        "runs": [model.found for model in models],
        "skipped": skipped,
    }


def _name_of(test_set: Path) -> str:
    """Return the name of a data set: that of its folder, without the way there."""
    place = test_set.resolve()
    return place.parent.name if place.name == "index.csv" else place.stem


def _video(request: BenchRequest, stack: ExitStack, step: Step) -> Path:
    """Return the video to decode; without one, write a copy of the bundled clip."""
    if request.video is not None:
        return request.video
    step("video of {}x{}".format(*CAMERA_SIZE))
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    return write_scaled(open_source(DEMO_CLIP), CAMERA_SIZE, folder / "camera.mp4")


def _open_models(
    request: BenchRequest, skipped: list[dict[str, str]], stack: ExitStack, step: Step
) -> list[LoadedModel]:
    """Open every file in every engine; pairs that cannot run are added to `skipped`."""
    models: list[LoadedModel] = []
    for path in request.models:
        for name, precision in request.engines:
            step(f"cold start of {path.stem} on {name}, precision {precision}")
            try:
                model = LoadedModel.open(path, name, precision, request)
                stack.enter_context(model.recognizer)
                model.found["cold_start"] = measure_cold_start(
                    path,
                    engine=name,
                    device=request.device,
                    threads=request.threads,
                    precision=precision,
                )
            except DvflError as err:
                if len(request.models) * len(request.engines) == 1:
                    raise
                skipped.append({"model": path.name, "engine": name, "why": str(err)})
                continue
            models.append(model)
    if not models:
        reasons = dict.fromkeys(f"{left['engine']}: {left['why']}" for left in skipped)
        raise DvflError(f"no engine can run this here; {'; '.join(reasons)}")
    for left in skipped:
        log.warning("left out: %s on %s: %s", *left.values())
    return models


def _time_models(
    models: list[LoadedModel], request: BenchRequest, gflops: float, energy: Energy, step: Step
) -> None:
    """Time the engines alone: all models in turn, each after a warm-up of its own."""
    for model in models:
        step(f"warm-up of {model.title}")
        model.found["warm_up"] = vars(WarmUp.of(model.infer, request.seconds))
    step("inference, engines in turn")
    times = times_in_turn(
        {index: model.infer for index, model in enumerate(models)}, request.seconds
    )
    for index, model in enumerate(models):
        taken, macs = times[index], model.artifact.macs
        found = percentiles(taken)
        p50_ms = found["p50_ms"]
        slower = drift(taken)
        # a multiply-add is two operations
        model.found |= {
            "inference": {**found, "samples_ms": [round(float(t), 3) for t in taken]},
            "clips_per_s": round(1e3 / float(taken.mean()), 2),
            "drift": slower,
            "slowed_down": slower > HOT,
            "gmacs": round(macs / 1e9, 4) or None,
            "gflops": round(2 * macs / 1e6 / p50_ms, 1) or None,
            "over_floor": round(p50_ms * gflops * 1e6 / (2 * macs), 3) if macs else None,
        }
        if energy.meter is not None:
            step(f"energy of {model.title}")
            with energy.of(index):
                for _ in range(max(1, int(request.seconds * 1e3 / p50_ms))):
                    model.infer()
        model.found["energy"] = energy.per_clip(index, p50_ms / 1e3)


def _time_streams(model: LoadedModel, video: Path, seconds: float, step: Step) -> None:
    step(f"stages of {model.title}")
    model.found["end_to_end"] = stage_times(model.artifact, model.engine, video, seconds=seconds)
    step(f"stream through {model.title}")
    model.found["stream"] = measure_throughput(model.recognizer, video, seconds)
    step(f"cameras for {model.title}")
    guess = model.found["stream"]["video_s_per_s"]
    model.found["live"] = measure_cameras(model.recognizer, video, seconds, guess)
