"""Official form against deploy form, the same weights and clip, engines taken in turn in one run.

    python -m dvfl_bench.forms --json FILE [--variant nano --size 224 --threads 2 --repeats 20]

The floor is the time that the network's multiply-adds, counted as published, would take at the rate
of a 2048^3 float32 matrix product measured between the other runs.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from dvfl_bench.machine import describe_machine
from dvfl_bench.official import official_form
from dvfl_export.deploy import deploy_form
from dvfl_export.onnx_model import onnx_from_model
from dvfl_models import VARIANTS, build_model, count_macs
from dvfl_models.video_focalnet import init_weights
from dvfl_runtime.engines.openvino import shared_core
from dvfl_runtime.files import replacing
from dvfl_runtime.spec import ClipSpec

Run = Callable[[], Any]
SGEMM = 2048
FRAMES = 8
FORMS = ("official", "deploy")
OFFICIAL_OPSET = 18  # torch's own choice; GELU comes out in Erf


def onnxruntime_run(path: Path, clip: NDArray[np.uint8], threads: int) -> Run:
    """A session whose waiting threads sleep, so that the engines do not slow each other down."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, {"clip": clip})


def openvino_run(
    path: Path, clip: NDArray[np.uint8], threads: int, *, fixed_batch: bool = False
) -> Run:
    """A request in float32: without the hint, OpenVINO computes in bf16 where the CPU has AMX."""
    import openvino

    core = shared_core(openvino)
    model = core.read_model(path)
    if fixed_batch:
        model.reshape({"clip": list(clip.shape)})
    compiled = core.compile_model(
        model,
        "CPU",
        {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": threads,
            "INFERENCE_PRECISION_HINT": "f32",
        },
    )
    request = compiled.create_infer_request()
    return lambda: request.infer({"clip": clip})


def eager_run(module: torch.nn.Module, clip: NDArray[np.uint8]) -> Run:
    """PyTorch without compilation."""
    tensor = torch.from_numpy(clip)

    def run() -> torch.Tensor:
        with torch.inference_mode():
            out: torch.Tensor = module(tensor)
            return out

    return run


def sgemm_run() -> Run:
    """One float32 matrix product of SGEMM^3 by torch (MKL)."""
    left, right = torch.randn(2, SGEMM, SGEMM)
    return lambda: left @ right


def build_runs(
    variant: str, spec: ClipSpec, threads: int, folder: Path
) -> tuple[dict[tuple[str, str], Run], float]:
    """Every engine with every form, and the published GMACs of the network."""
    torch.manual_seed(0)
    model = build_model(variant)
    init_weights(model, "xavier")  # activations of the size that trained weights give
    for name, value in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.uniform_(value, -0.1, 0.1)  # engines leave out the addition of zeros
    modules: dict[str, torch.nn.Module] = {
        "official": official_form(model.config, model.state_dict(), spec),
        "deploy": deploy_form(model.eval(), spec),
    }
    rng = np.random.default_rng(0)
    clip = rng.integers(0, 256, (1, spec.num_frames, *spec.size, 3), dtype=np.uint8)
    runs: dict[tuple[str, str], Run] = {}
    for form, module in modules.items():
        path = folder / f"{form}.onnx"
        opset = {"opset": OFFICIAL_OPSET} if form == "official" else {}
        path.write_bytes(onnx_from_model(module, spec, **opset).SerializeToString())
        runs["onnxruntime", form] = onnxruntime_run(path, clip, threads)
        runs["openvino", form] = openvino_run(path, clip, threads)
        runs["openvino, batch fixed", form] = openvino_run(path, clip, threads, fixed_batch=True)
        runs["pytorch eager", form] = eager_run(module, clip)
    runs["sgemm", "floor"] = sgemm_run()
    return runs, count_macs(model, (spec.num_frames, 3, *spec.size)) / 1e9


def time_in_turn(
    runs: dict[tuple[str, str], Run], repeats: int
) -> dict[tuple[str, str], NDArray[np.float64]]:
    """Milliseconds, (2, repeats) per run: on the wall, and of CPU time over all threads.

    One warm-up round; a round takes each run once. CPU time does not grow when other programs take
    the cores, so it compares forms on a busy machine, where the wall does not.
    """
    times: dict[tuple[str, str], list[tuple[float, float]]] = {name: [] for name in runs}
    for round_ in range(repeats + 1):
        for name, run in runs.items():
            wall, cpu = time.perf_counter_ns(), time.process_time_ns()
            run()
            spent = (time.perf_counter_ns() - wall) / 1e6, (time.process_time_ns() - cpu) / 1e6
            if round_:
                times[name].append(spent)
    return {name: np.array(values).T for name, values in times.items()}


def statistics(times_ms: NDArray[np.float64]) -> dict[str, float]:
    """Median, p10, p90 and minimum (ms) of the wall, n, and the minimum of CPU time."""
    wall, cpu = times_ms
    p10, median, p90 = np.percentile(wall, [10, 50, 90])
    values = {
        "median_ms": median,
        "p10_ms": p10,
        "p90_ms": p90,
        "min_ms": wall.min(),
        "cpu_min_ms": cpu.min(),
    }
    return {**{name: round(float(value), 2) for name, value in values.items()}, "n": len(wall)}


def ratios(above: NDArray[np.float64], below: NDArray[np.float64]) -> dict[str, float]:
    """How many times longer `above` takes: by median, by minimum, and by CPU time."""
    values = {
        "median": np.median(above[0]) / np.median(below[0]),
        "min": above[0].min() / below[0].min(),
        "cpu": above[1].min() / below[1].min(),
    }
    return {name: round(float(value), 3) for name, value in values.items()}


def summarize(times: dict[tuple[str, str], NDArray[np.float64]], gmacs: float) -> dict[str, Any]:
    """The floor, and per engine both forms, their ratio and the deploy form over the floor."""
    floor = times["sgemm", "floor"] * gmacs * 1e9 / SGEMM**3
    engines: dict[str, Any] = {}
    for engine in dict.fromkeys(name for name, _ in times if name != "sgemm"):
        official, deploy = (times[engine, form] for form in FORMS)
        engines[engine] = {
            **{form: statistics(times[engine, form]) for form in FORMS},
            "official_over_deploy": ratios(official, deploy),
            "deploy_over_floor": ratios(deploy, floor),
        }
    return {"gmacs": round(gmacs, 3), "sgemm_floor": statistics(floor), "engines": engines}


def compare(variant: str, size: int, threads: int, repeats: int) -> dict[str, Any]:
    """Measures both forms on every engine and returns the JSON-ready result."""
    spec = ClipSpec(num_frames=FRAMES, size=(size, size), resize=size)
    torch.set_num_threads(threads)
    machine = describe_machine(threads)  # the load before this run adds its own
    with tempfile.TemporaryDirectory() as folder:
        runs, gmacs = build_runs(variant, spec, threads, Path(folder))
        times = time_in_turn(runs, repeats)
    return {
        "what": "official form against deploy form, fp32, batch 1, random weights",
        "variant": variant,
        "clip": [FRAMES, size, size],
        "machine": machine,
        **summarize(times, gmacs),
    }


def table(result: dict[str, Any]) -> str:
    """The result as a table: median ms; ratios of medians, of minima and of CPU time."""
    head = f"{'engine':22} {'official ms':>12} {'deploy ms':>10}"
    columns = f" {'median':>7} {'min':>6} {'cpu':>6}"
    lines = [f"{'':46}   official / deploy      deploy / floor", head + columns * 2]
    for engine, row in result["engines"].items():
        cells = [
            f"{row[form]['median_ms']:{w}.1f}" for form, w in zip(FORMS, (12, 10), strict=True)
        ]
        for name in ("official_over_deploy", "deploy_over_floor"):
            ratio = row[name]
            cells.append(f"{ratio['median']:7.2f} {ratio['min']:6.2f} {ratio['cpu']:6.2f}")
        lines.append(f"{engine:22} " + " ".join(cells))
    lines.append(f"sgemm floor {result['sgemm_floor']['median_ms']:.1f} ms (median)")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """Entry point of `python -m dvfl_bench.forms`."""
    parser = argparse.ArgumentParser(prog="dvfl_bench.forms", description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="write the result here")
    parser.add_argument("--variant", choices=sorted(VARIANTS), default="nano")
    parser.add_argument("--size", type=int, default=224, help="px, both sides")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=20)
    args = parser.parse_args(arguments)
    result = compare(args.variant, args.size, args.threads, args.repeats)
    sys.stdout.write(table(result) + "\n")
    if args.json is not None:
        with replacing(args.json) as path:
            path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
