"""Precisions against float32: agreement and accuracy of quantisers, and time, engines in turn.

    python -m dvfl_bench.comparisons.precision quality VIDEOS... --json FILE [--model FILE]
    python -m dvfl_bench.comparisons.precision speed --json FILE [--variant nano --size 224]

`quality` quantises a model file of the actions that the renderer knows, by default the bundled one,
with clips of the videos, a quarter of which is held back.
`speed` takes random weights: it is about time alone.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnxruntime.quantization import CalibrationMethod

from dvfl_bench.comparisons.bare_engines import onnxruntime_run, openvino_run
from dvfl_bench.comparisons.command import (
    Result,
    add_network_options,
    comparison_parser,
    run_comparison,
)
from dvfl_bench.comparisons.networks import (
    FRAMES,
    deploy_graph,
    floats_of,
    random_network,
    square_spec,
)
from dvfl_bench.device.timing import Work, paired_times, ratios, summary
from dvfl_export.precision.calibration import CalibrationSet, calibration_set
from dvfl_export.precision.half import to_float16
from dvfl_export.precision.quantise import quantise
from dvfl_export.precision.ranges import activation_ranges
from dvfl_export.precision.sensitivity import measure_sensitivity
from dvfl_export.sample_clips import cut_clips
from dvfl_export.verify import compare_logits
from dvfl_models import VARIANTS
from dvfl_models.rendered.synthetic import render_clip
from dvfl_runtime.artifact import ModelFile
from dvfl_runtime.clips.spec import Clip, ClipSpec
from dvfl_runtime.engines import open_engine
from dvfl_runtime.recognizer import BUNDLED_MODEL

ENGINES = ("onnxruntime", "openvino")
RENDERED_SEED = 900_000  # of the clips with labels; training uses other seeds
BATCH = 8


def by_nncf(
    model: onnx.ModelProto, clips: Sequence[Clip], floats: Sequence[str]
) -> onnx.ModelProto:
    """Return the model with the same layers in int8, by NNCF's ONNX backend (no dependency)."""
    import nncf

    data = nncf.Dataset(clips, lambda clip: {"clip": clip[None]})
    quantised: onnx.ModelProto = nncf.quantize(
        model, data, subset_size=len(clips), ignored_scope=nncf.IgnoredScope(names=list(floats))
    )
    return quantised


def by_method(
    model: onnx.ModelProto,
    clips: Sequence[Clip],
    floats: Sequence[str],
    method: CalibrationMethod,
) -> onnx.ModelProto:
    """Return the model in int8 by onnxruntime's quantiser, with ranges of another method."""
    return quantise(model, activation_ranges(model, clips, method), floats)


def logits_in(engine: str, model: onnx.ModelProto, clips: Sequence[Clip]) -> np.ndarray[Any, Any]:
    """Run N clips (T, H, W, 3) in an engine; return logits (N, num_classes)."""
    with tempfile.TemporaryDirectory() as folder:
        onnx.save(model, Path(folder) / "m.onnx")
        opened = open_engine(engine, ModelFile(Path(folder) / "m.onnx"), device="cpu")
    batches = [np.stack(clips[i : i + BATCH]) for i in range(0, len(clips), BATCH)]
    logits = np.concatenate([opened.run(batch) for batch in batches])
    opened.close()
    return logits


def rendered_clips(actions: Sequence[str], spec: ClipSpec) -> list[Clip]:
    """Return one clip (T, H, W, 3) for each action."""
    return [
        render_clip(
            action,
            seed=RENDERED_SEED + index,
            num_frames=spec.num_frames,
            window_s=spec.window_s,
            size=spec.size,
        ).images
        for index, action in enumerate(actions)
    ]


def quality(file: Path, videos: Sequence[Path], rendered: int) -> Result:
    """Compare quantisers on one model, each with the same layers kept in float32."""
    artifact = ModelFile(file).artifact
    spec, labels = artifact.spec, artifact.labels
    model = onnx.load(file)
    data: CalibrationSet = calibration_set(videos, spec)
    held_back = cut_clips(data.held_back, spec, views=data.views)
    classes = np.arange(rendered) % len(labels)  # as many clips of each action
    shown = rendered_clips([labels[c] for c in classes], spec)
    ranges = activation_ranges(model, data.clips)
    sensitivity = measure_sensitivity(model, ranges, data.clips)
    floats = sensitivity.floats
    candidates: dict[str, Callable[[], onnx.ModelProto]] = {
        "fp32": lambda: model,
        "fp16": lambda: to_float16(model),
        "int8 Percentile, all layers": lambda: quantise(model, ranges),
        "int8 Percentile": lambda: quantise(model, ranges, floats),
        "int8 NNCF": lambda: by_nncf(model, data.clips, floats),
    }
    for method in (CalibrationMethod.MinMax, CalibrationMethod.Entropy):
        candidates[f"int8 {method.name}"] = partial(by_method, model, data.clips, floats, method)
    wanted = logits_in("onnxruntime", model, [*held_back, *shown])
    rows: list[dict[str, Any]] = []
    cut = len(held_back)
    for name, make in candidates.items():
        begin = time.perf_counter()
        try:
            made = make()
        except Exception as err:  # a library that fails is a finding as well
            rows.append({"quantiser": name, "error": f"{type(err).__name__}: {err}"[:200]})
            continue
        took = time.perf_counter() - begin
        for engine in ENGINES:
            logits = logits_in(engine, made, [*held_back, *shown])
            rows.append(
                {
                    "quantiser": name,
                    "engine": engine,
                    "seconds": round(took, 1),
                    "mbytes": round(made.ByteSize() / 1e6, 2),
                    "held_back": compare_logits(wanted[:cut], logits[:cut]),
                    "rendered": compare_logits(wanted[cut:], logits[cut:]),
                    "accuracy": float((logits[cut:].argmax(1) == classes).mean()),
                }
            )
            sys.stdout.write(json.dumps(rows[-1]) + "\n")
            sys.stdout.flush()
    return {
        "what": "a model in lower precisions against itself in float32",
        "variant": artifact.variant,
        "source_sha256": artifact.source_sha256,
        "clips": {"calibrated": len(data.clips), "held_back": cut, "rendered": rendered},
        "rows": rows,
        **sensitivity.report(),
    }


def speed(variant: str, size: int, threads: int, repeats: int) -> Result:
    """Time float32, float16 and int8 of one network in both engines."""
    torch.set_num_threads(threads)
    model = deploy_graph(random_network(variant), square_spec(FRAMES, size))
    clip = np.random.default_rng(0).integers(0, 256, (1, FRAMES, size, size, 3), dtype=np.uint8)
    ranges = activation_ranges(model, [clip[0]])
    floats = floats_of(model, variant)
    convs = [node.name for node in model.graph.node if node.op_type == "Conv"]
    # the difference of the last two is the share of the convolutions in the gain
    forms = {
        "fp32": model,
        "fp16": to_float16(model),
        "int8": quantise(model, ranges, floats),
        "int8, convolutions in fp32": quantise(model, ranges, [*floats, *convs]),
    }
    runs: dict[tuple[str, str], Work] = {}
    with tempfile.TemporaryDirectory() as folder:
        for index, (form, proto) in enumerate(forms.items()):
            path = Path(folder) / f"{index}.onnx"
            onnx.save(proto, path)
            runs["onnxruntime", form] = onnxruntime_run(path, clip, threads)
            runs["openvino", form] = openvino_run(
                path, clip, threads, fixed_batch=True, rewritten=True
            )
        times = paired_times(runs, repeats)
    engines: dict[str, Any] = {}
    for engine in ENGINES:
        engines[engine] = {
            form: {
                **summary(times[engine, form]),
                "over_fp32": ratios(times[engine, form], times[engine, "fp32"]),
            }
            for form in forms
        }
        for form, row in engines[engine].items():
            sys.stdout.write(f"{engine:12} {form:28} {row['median_ms']:8.1f} {row['over_fp32']}\n")
    return {
        "what": "lower precisions against float32, batch 1, random weights",
        "variant": variant,
        "clip": [FRAMES, size, size],
        "engines": engines,
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    parser = comparison_parser("precision", __doc__)
    parser.add_argument("what", choices=("quality", "speed"))
    parser.add_argument("videos", type=Path, nargs="*", help="of quality: videos or folders")
    parser.add_argument("--model", type=Path, default=BUNDLED_MODEL, help="of quality: a file")
    parser.add_argument("--rendered", type=int, default=300, help="of quality: clips with labels")
    add_network_options(parser, VARIANTS)
    parser.add_argument("--repeats", type=int, default=10, help="of speed: rounds; default: 10")
    args = parser.parse_args(argv)

    def measure() -> Result:
        if args.what == "quality":
            return quality(args.model, args.videos, args.rendered)
        return speed(args.variant, args.size, args.threads, args.repeats)

    # the engines of `quality` are given no number of threads
    return run_comparison(args, measure, threads=args.threads if args.what == "speed" else 0)


if __name__ == "__main__":
    sys.exit(main())
