"""Official form against deploy form, float32 and int8, engines taken in turn in one run.

    python -m dvfl_bench.comparisons.forms --json FILE [--variant nano --size 224]

Weights and clip are the same. The floor is the time that the network's multiply-adds, counted as
published, would take at the rate of a 2048^3 float32 matrix product measured between the runs.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray

from dvfl_bench.comparisons.command import report
from dvfl_bench.comparisons.official import official_form
from dvfl_bench.device.machine import describe_machine
from dvfl_export.deploy.form import deploy_form
from dvfl_export.onnx_model import onnx_from_model
from dvfl_export.precision.quantise import activation_ranges, layers_of, quantise
from dvfl_models import VARIANTS, build_model, count_macs
from dvfl_models.network.video_focalnet import init_weights
from dvfl_runtime.clips.spec import ClipSpec
from dvfl_runtime.engines.openvino import shared_core
from dvfl_runtime.engines.openvino_graph import rewrite_for_cpu

Run = Callable[[], Any]
SGEMM = 2048
FRAMES = 8
FORMS = ("official", "deploy")
INT8 = {form: f"{form} int8" for form in FORMS}
# what the sensitivity analyses of our trained models keep in float32 (precision_*.json)
FLOATS: dict[str, tuple[str, ...]] = {
    "femto": ("patch_embed", "layers.7.modulation.proj/"),
    "nano": (),
}
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
    path: Path,
    clip: NDArray[np.uint8],
    threads: int,
    *,
    fixed_batch: bool = False,
    rewritten: bool = False,
) -> Run:
    """A request in float32: without the hint, OpenVINO computes in bf16 where the CPU has AMX.

    With `fixed_batch` and `rewritten` as the runtime opens a file.
    """
    import openvino

    core = shared_core(openvino)
    model = core.read_model(path)
    if rewritten:
        rewrite_for_cpu(model)
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


def eager_run(module: Callable[[torch.Tensor], Any], clip: NDArray[np.uint8]) -> Run:
    """PyTorch without compilation."""
    tensor = torch.from_numpy(clip)

    def run() -> torch.Tensor:
        with torch.inference_mode():
            out: torch.Tensor = module(tensor)
            return out

    return run


def compiled_run(module: torch.nn.Module, clip: NDArray[np.uint8]) -> Run:
    """PyTorch with torch.compile; compiles now, which takes a while.

    Raises:
        RuntimeError: if that does not work here, for one because there is no C++ compiler.
    """
    import torch._dynamo  # its errors are RuntimeErrors

    torch._dynamo.reset()
    run = eager_run(torch.compile(module), clip)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of inductor's own code
        run()
    return run


def floats_of(model: onnx.ModelProto, variant: str) -> list[str]:
    """The layers that int8 keeps in float32, as trained models of the network have them."""
    parts = FLOATS.get(variant, FLOATS["nano"])
    return [name for name in layers_of(model) if any(part in name for part in parts)]


def int8_of(model: onnx.ModelProto, clip: NDArray[np.uint8], variant: str) -> onnx.ModelProto:
    """The same graph in int8, calibrated on the clip: about time, not accuracy."""
    return quantise(model, activation_ranges(model, [clip[0]]), floats_of(model, variant))


def sgemm_run() -> Run:
    """One float32 matrix product of SGEMM^3 by torch (MKL)."""
    left, right = torch.randn(2, SGEMM, SGEMM)
    return lambda: left @ right


def build_runs(
    variant: str,
    spec: ClipSpec,
    threads: int,
    folder: Path,
    *,
    batch: int = 1,
    compiled: bool = False,
) -> tuple[dict[tuple[str, str], Run], float, dict[str, str]]:
    """Every engine with every form, the published GMACs of the batch, and what did not work."""
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
    clip = rng.integers(0, 256, (batch, spec.num_frames, *spec.size, 3), dtype=np.uint8)
    runs: dict[tuple[str, str], Run] = {}
    failed: dict[str, str] = {}
    for form, module in modules.items():
        opset = {"opset": OFFICIAL_OPSET} if form == "official" else {}
        proto = onnx_from_model(module, spec, **opset)
        for name, graph in ((form, proto), (INT8[form], int8_of(proto, clip, variant))):
            path = folder / f"{name}.onnx"
            path.write_bytes(graph.SerializeToString())
            runs["onnxruntime", name] = onnxruntime_run(path, clip, threads)
            runs["openvino", name] = openvino_run(path, clip, threads)
            as_runtime = {"fixed_batch": True, "rewritten": form == "deploy"}
            runs["openvino, batch fixed", name] = openvino_run(path, clip, threads, **as_runtime)
        runs["pytorch eager", form] = eager_run(module, clip)
    for form, module in modules.items() if compiled else ():
        try:
            runs["pytorch compiled", form] = compiled_run(module, clip)
        except RuntimeError as err:
            failed["pytorch compiled"] = str(err).strip().splitlines()[0][:200]
    if failed:
        runs = {name: run for name, run in runs.items() if name[0] not in failed}
    runs["sgemm", "floor"] = sgemm_run()
    return runs, batch * count_macs(model, (spec.num_frames, 3, *spec.size)) / 1e9, failed


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
    """How many times longer `above` takes.

    By the median of the rounds' own ratios, which a machine that slows down for some rounds does
    not change, by the minimum, and by the minimum of CPU time.
    """
    values = {
        "median": np.median(above[0] / below[0]),
        "min": above[0].min() / below[0].min(),
        "cpu": above[1].min() / below[1].min(),
    }
    return {name: round(float(value), 3) for name, value in values.items()}


def summarize(times: dict[tuple[str, str], NDArray[np.float64]], gmacs: float) -> dict[str, Any]:
    """The floor, and per engine both forms, their ratio, the deploy form over the floor, int8."""
    floor = times["sgemm", "floor"] * gmacs * 1e9 / SGEMM**3
    engines: dict[str, Any] = {}
    for engine in dict.fromkeys(name for name, _ in times if name != "sgemm"):
        official, deploy = (times[engine, form] for form in FORMS)
        engines[engine] = {
            **{form: statistics(taken) for (name, form), taken in times.items() if name == engine},
            "official_over_deploy": ratios(official, deploy),
            "deploy_over_floor": ratios(deploy, floor),
        }
        if (engine, INT8["deploy"]) in times:
            lower = times[engine, INT8["deploy"]]
            engines[engine]["int8_over_fp32"] = ratios(lower, deploy)
            engines[engine]["official_int8_over_deploy_int8"] = ratios(
                times[engine, INT8["official"]], lower
            )
    return {"gmacs": round(gmacs, 3), "sgemm_floor": statistics(floor), "engines": engines}


def compare(
    variant: str,
    size: int,
    threads: int,
    repeats: int,
    *,
    batch: int = 1,
    compiled: bool = False,
) -> dict[str, Any]:
    """Measures both forms on every engine and returns the JSON-ready result."""
    spec = ClipSpec(num_frames=FRAMES, size=(size, size), resize=size)
    torch.set_num_threads(threads)
    machine = describe_machine(threads)  # the load before this run adds its own
    with tempfile.TemporaryDirectory() as folder:
        runs, gmacs, failed = build_runs(
            variant, spec, threads, Path(folder), batch=batch, compiled=compiled
        )
        times = time_in_turn(runs, repeats)
    return {
        "what": f"official form against deploy form, fp32 and int8, batch {batch}, random weights",
        "variant": variant,
        "clip": [FRAMES, size, size],
        "machine": machine,
        "failed": failed,
        **summarize(times, gmacs),
    }


def table(result: dict[str, Any]) -> str:
    """The result as a table: median ms; median ratios and those of minima."""
    columns = (
        "official ms",
        "deploy ms",
        "int8 ms",
        "official/deploy",
        "deploy/floor",
        "int8/fp32",
    )
    lines = [f"{'engine':22}" + "".join(f"{name:>17}" for name in columns)]
    for engine, row in result["engines"].items():
        forms = [row.get(form) for form in (*FORMS, INT8["deploy"])]
        cells = [f"{form['median_ms']:.1f}" if form else "-" for form in forms]
        for name in ("official_over_deploy", "deploy_over_floor", "int8_over_fp32"):
            ratio = row.get(name)
            cells.append(f"{ratio['median']:.2f} ({ratio['min']:.2f})" if ratio else "-")
        lines.append(f"{engine:22}" + "".join(f"{cell:>17}" for cell in cells))
    lines.append(f"sgemm floor {result['sgemm_floor']['median_ms']:.1f} ms; in brackets: of minima")
    lines += [f"{name} does not work here: {why}" for name, why in result["failed"].items()]
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """Entry point of `python -m dvfl_bench.comparisons.forms`."""
    parser = argparse.ArgumentParser(
        prog="dvfl_bench.comparisons.forms", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--json", type=Path, help="write the result here")
    parser.add_argument("--variant", choices=sorted(VARIANTS), default="nano")
    parser.add_argument("--size", type=int, default=224, help="px, both sides")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--batch", type=int, default=1, help="clips at once")
    parser.add_argument(
        "--compiled", action="store_true", help="torch.compile too, which takes a while"
    )
    args = parser.parse_args(arguments)
    shape = (args.variant, args.size, args.threads, args.repeats)
    result = report(lambda: compare(*shape, batch=args.batch, compiled=args.compiled), args.json)
    if result is not None:
        sys.stdout.write(table(result) + "\n")
    return 2 if result is None else 0


if __name__ == "__main__":
    raise SystemExit(main())
