"""Official form against deploy form, float32 and int8, engines taken in turn in one run.

    python -m dvfl_bench.comparisons.forms --json FILE [--variant nano --size 224]

Weights and clip are the same. The floor is the time that the network's multiply-adds, counted as
published, would take at the rate of a large float32 matrix product by the fastest library, measured
between the runs.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray

from dvfl_bench.comparisons.bare_engines import (
    compiled_run,
    eager_run,
    onnxruntime_run,
    openvino_run,
)
from dvfl_bench.comparisons.command import (
    Result,
    add_network_options,
    comparison_parser,
    run_comparison,
)
from dvfl_bench.comparisons.networks import FRAMES, floats_of, random_network, square_spec
from dvfl_bench.comparisons.official import official_form
from dvfl_bench.comparisons.products import PRODUCT_MACS, fastest, product_runs
from dvfl_bench.device.timing import Times, Work, paired_times, ratios, summary
from dvfl_export.deploy.form import deploy_form
from dvfl_export.onnx_model import OPSET, onnx_from_model
from dvfl_export.precision.quantise import quantise
from dvfl_export.precision.ranges import activation_ranges
from dvfl_models import VARIANTS, count_macs
from dvfl_runtime.clips.spec import ClipSpec

FORMS = ("official", "deploy")
INT8 = {form: f"{form} int8" for form in FORMS}
OFFICIAL_OPSET = 18  # torch's own choice; GELU comes out in Erf
EngineAndForm = tuple[str, str]


def int8_of(model: onnx.ModelProto, clip: NDArray[np.uint8], variant: str) -> onnx.ModelProto:
    """Return the graph in int8, calibrated on the clip alone: this is about time, not accuracy."""
    return quantise(model, activation_ranges(model, [clip[0]]), floats_of(model, variant))


def build_runs(
    variant: str,
    spec: ClipSpec,
    threads: int,
    folder: Path,
    *,
    batch: int = 1,
    compiled: bool = False,
) -> tuple[dict[EngineAndForm, Work], float, dict[str, str]]:
    """Return a run of every form in every engine, the GMACs of the batch, and the failures.

    The GMACs are counted as published. The failures are engine -> why it does not work here.
    """
    model = random_network(variant)
    for name, value in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.uniform_(value, -0.1, 0.1)  # engines drop the addition of zeros
    modules: dict[str, torch.nn.Module] = {
        "official": official_form(model.config, model.state_dict(), spec),
        "deploy": deploy_form(model, spec),
    }
    rng = np.random.default_rng(0)
    clip = rng.integers(0, 256, (batch, spec.num_frames, *spec.size, 3), dtype=np.uint8)
    runs: dict[EngineAndForm, Work] = {}
    failed: dict[str, str] = {}
    for form, module in modules.items():
        opset = OFFICIAL_OPSET if form == "official" else OPSET
        proto = onnx_from_model(module, spec, opset=opset, fused=False)
        for name, graph in ((form, proto), (INT8[form], int8_of(proto, clip, variant))):
            path = folder / f"{name}.onnx"
            path.write_bytes(graph.SerializeToString())
            runs["onnxruntime", name] = onnxruntime_run(path, clip, threads)
            runs["openvino", name] = openvino_run(path, clip, threads)
            runs["openvino, batch fixed", name] = openvino_run(
                path, clip, threads, fixed_batch=True, rewritten=form == "deploy"
            )
        runs["pytorch eager", form] = eager_run(module, clip)
    for form, module in modules.items() if compiled else ():
        try:
            runs["pytorch compiled", form] = compiled_run(module, clip)
        except RuntimeError as err:
            failed["pytorch compiled"] = str(err).strip().splitlines()[0][:200]
    if failed:
        runs = {name: run for name, run in runs.items() if name[0] not in failed}
    runs |= product_runs(folder, threads, "fp32")
    return runs, batch * count_macs(model, (spec.num_frames, 3, *spec.size)) / 1e9, failed


def summarize(times: dict[EngineAndForm, Times], gmacs: float) -> Result:
    """Return the floor, and for each engine its times, and the ratios of forms and of int8."""
    floor = fastest(times) * gmacs * 1e9 / PRODUCT_MACS
    engines: dict[str, Any] = {}
    for engine in dict.fromkeys(name for name, form in times if name != "fp32"):
        official, deploy = (times[engine, form] for form in FORMS)
        engines[engine] = {
            **{form: summary(taken) for (name, form), taken in times.items() if name == engine},
            "official_over_deploy": ratios(official, deploy),
            "deploy_over_floor": ratios(deploy, floor),
        }
        if (engine, INT8["deploy"]) in times:
            lower = times[engine, INT8["deploy"]]
            engines[engine]["int8_over_fp32"] = ratios(lower, deploy)
            engines[engine]["official_int8_over_deploy_int8"] = ratios(
                times[engine, INT8["official"]], lower
            )
    return {"gmacs": round(gmacs, 3), "sgemm_floor": summary(floor), "engines": engines}


def compare(
    variant: str,
    size: int,
    threads: int,
    repeats: int,
    *,
    batch: int = 1,
    compiled: bool = False,
) -> Result:
    """Measure both forms on every engine; return the result."""
    spec = square_spec(FRAMES, size)
    torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory() as folder:
        runs, gmacs, failed = build_runs(
            variant, spec, threads, Path(folder), batch=batch, compiled=compiled
        )
        times = paired_times(runs, repeats)
    return {
        "what": f"official form against deploy form, fp32 and int8, batch {batch}, random weights",
        "variant": variant,
        "clip": [FRAMES, size, size],
        "failed": failed,
        **summarize(times, gmacs),
    }


def table(result: Result) -> str:
    """Return the result as a table: median ms; median ratios, and in brackets those of minima."""
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


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    parser = comparison_parser("forms", __doc__)
    add_network_options(parser, VARIANTS)
    parser.add_argument("--repeats", type=int, default=20, help="rounds; default: 20")
    parser.add_argument("--batch", type=int, default=1, help="clips at once")
    parser.add_argument(
        "--compiled", action="store_true", help="torch.compile too, which takes a while"
    )
    args = parser.parse_args(argv)
    shape = (args.variant, args.size, args.threads, args.repeats)

    def print_table(result: Result) -> int:
        sys.stdout.write(table(result) + "\n")
        return 0

    return run_comparison(
        args,
        lambda: compare(*shape, batch=args.batch, compiled=args.compiled),
        threads=args.threads,
        then=print_table,
    )


if __name__ == "__main__":
    sys.exit(main())
