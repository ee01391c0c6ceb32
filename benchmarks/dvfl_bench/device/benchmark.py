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

from dvfl_bench.device.cold_start import cold_start
from dvfl_bench.device.jetson import temperatures_c
from dvfl_bench.device.machine import describe_machine
from dvfl_bench.device.power import Energy, find_meter
from dvfl_bench.device.stages import stage_times
from dvfl_bench.device.streams import live, sustained
from dvfl_bench.device.timing import WarmUp, drift, in_turn, percentiles, sgemm_gflops
from dvfl_bench.device.videos import scaled, size_of
from dvfl_runtime import Recognizer
from dvfl_runtime.app.cli import DEMO_CLIP
from dvfl_runtime.artifact import Artifact, read_artifact
from dvfl_runtime.engines import Engine, open_engine
from dvfl_runtime.errors import DvflError
from dvfl_runtime.version import __version__

log = logging.getLogger(__name__)

SCHEMA = 1
HOT = 1.1  # drift beyond which the machine is said to have got slower
IDLE_S = 3.0
CAMERA = (1280, 720)  # what the bundled clip is scaled to

Step = Callable[[str], None]


@dataclass(frozen=True)
class Plan:
    """What to measure.

    Attributes:
        models: files written by dvfl-export.
        engines: names.
        video: what is decoded; `None` for the bundled clip, scaled to 1280x720.
        device: "auto", "cpu", "cuda" or "gpu".
        threads: for CPU work.
        seconds: about how long each measurement takes, for each model and engine.
        streams: whether streams and cameras are measured too.
    """

    models: Sequence[Path]
    engines: Sequence[str]
    video: Path | None
    device: str
    threads: int
    seconds: float
    streams: bool = True


@dataclass
class Run:
    """One file in one engine, and what was found out about it."""

    path: Path
    recognizer: Recognizer
    engine: Engine
    clip: NDArray[np.uint8]
    found: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def open(cls, path: Path, name: str, plan: Plan) -> Run:
        """Opens the file.

        Raises:
            DvflError: if this engine or device cannot run it here.
        """
        engine = open_engine(name, path, device=plan.device, num_threads=plan.threads)
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
        """What the file says about itself."""
        return self.recognizer.artifact

    @property
    def title(self) -> str:
        """Names it for people."""
        return f"{self.path.stem} on {self.found['engine']}"

    def infer(self) -> None:
        """Runs the engine once, on a clip that is ready; the logits are back when it returns."""
        self.engine.run(self.clip)


def bench(plan: Plan, step: Step = log.info) -> dict[str, Any]:
    """Measures everything; engines that cannot run a file are left out and named.

    Args:
        plan: what to measure.
        step: called with the name of each step as it begins.

    Returns:
        JSON-ready; benchmarks/README.md describes it.

    Raises:
        DvflError: if a file cannot be read, or no engine can run any.
    """
    for path in plan.models:
        read_artifact(path)  # its errors before any work
    machine = describe_machine(plan.threads)  # the load before this run adds its own
    before_c = temperatures_c()
    skipped: list[dict[str, str]] = []
    with ExitStack() as stack:
        video = _video(plan, stack, step) if plan.streams else None
        size = None if video is None else size_of(video)
        runs = _open(plan, skipped, stack, step)
        energy = Energy(find_meter())
        if energy.meter is not None:
            step("power of the idle machine")
            energy.measure_idle(IDLE_S)
        step("float32 matrix product")
        sgemm = sgemm_gflops(plan.threads)
        _time_models(runs, plan, sgemm["gflops"], energy, step)
        if video is not None:
            for run in runs:
                _time_streams(run, video, plan.seconds, step)
    return {
        "schema": SCHEMA,
        "what": "dvfl-bench",
        "dvfl": __version__,
        "machine": machine,
        "temperatures_c": {"before": before_c, "after": temperatures_c()},
        "energy": energy.report(),
        "sgemm": sgemm,
        "video": size,
        "seconds": plan.seconds,
        "runs": [run.found for run in runs],
        "skipped": skipped,
    }


def _video(plan: Plan, stack: ExitStack, step: Step) -> Path:
    """The video, made if there is none."""
    if plan.video is not None:
        return plan.video
    step("video of {}x{}".format(*CAMERA))
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    return scaled(DEMO_CLIP, CAMERA, folder / "camera.mp4")


def _open(plan: Plan, skipped: list[dict[str, str]], stack: ExitStack, step: Step) -> list[Run]:
    runs: list[Run] = []
    for path in plan.models:
        for name in plan.engines:
            step(f"cold start of {path.stem} on {name}")
            try:
                run = Run.open(path, name, plan)
                stack.enter_context(run.recognizer)
                run.found["cold_start"] = cold_start(
                    path, engine=name, device=plan.device, threads=plan.threads
                )
            except DvflError as err:
                if len(plan.models) * len(plan.engines) == 1:
                    raise
                skipped.append({"model": path.name, "engine": name, "why": str(err)})
                continue
            runs.append(run)
    if not runs:
        reasons = dict.fromkeys(f"{left['engine']}: {left['why']}" for left in skipped)
        raise DvflError(f"no engine can run this here; {'; '.join(reasons)}")
    for left in skipped:
        log.warning("left out: %s on %s: %s", *left.values())
    return runs


def _time_models(runs: list[Run], plan: Plan, gflops: float, energy: Energy, step: Step) -> None:
    """The engine alone: all runs in turn, each after a warm-up of its own."""
    for run in runs:
        step(f"warm-up of {run.title}")
        run.found["warm_up"] = vars(WarmUp.of(run.infer, plan.seconds))
    step("inference, engines in turn")
    times = in_turn({index: run.infer for index, run in enumerate(runs)}, plan.seconds)
    for index, run in enumerate(runs):
        taken, macs = times[index], run.artifact.macs
        found = percentiles(taken)
        p50_ms = found["p50_ms"]
        slower = drift(taken)
        run.found |= {
            "inference": {**found, "samples_ms": [round(float(t), 3) for t in taken]},
            "clips_per_s": round(1e3 / float(taken.mean()), 2),
            "drift": slower,
            "slowed_down": slower > HOT,
            "gmacs": round(macs / 1e9, 4) or None,
            "gflops": round(2 * macs / 1e6 / p50_ms, 1) or None,
            "over_floor": round(p50_ms * gflops * 1e6 / (2 * macs), 3) if macs else None,
        }
        if energy.meter is not None:
            step(f"energy of {run.title}")
            with energy.of(index):
                for _ in range(max(1, int(plan.seconds * 1e3 / p50_ms))):
                    run.infer()
        run.found["energy"] = energy.per_clip(index, p50_ms / 1e3)


def _time_streams(run: Run, video: Path, seconds: float, step: Step) -> None:
    step(f"stages of {run.title}")
    run.found["end_to_end"] = stage_times(run.artifact, run.engine, video, seconds=seconds)
    step(f"stream through {run.title}")
    run.found["stream"] = sustained(run.recognizer, video, seconds)
    step(f"cameras for {run.title}")
    guess = run.found["stream"]["video_s_per_s"]
    run.found["live"] = live(run.recognizer, video, seconds, guess)
