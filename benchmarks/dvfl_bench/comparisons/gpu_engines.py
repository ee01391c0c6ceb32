"""Compares the engines on an NVIDIA GPU with the CPU: their logits, and the time of a clip.

A part of `make gpu-check`, which starts it as a process of its own: what goes wrong inside TensorRT
may end the process, and a build may take longer than there is time. An engine that cannot run is a
row with the reason. On a GPU, onnxruntime also takes turns with fused nodes and with the standard
operators that they stand for.

python -m dvfl_bench.comparisons.gpu_engines --json runs/gpu-check/engines.json
"""

from __future__ import annotations

import logging
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from dvfl_bench.comparisons.command import Result, comparison_parser
from dvfl_bench.device.machine import describe_machine
from dvfl_bench.device.timing import (
    WarmUp,
    Work,
    paired_times,
    percentiles,
    ratios,
    times_in_turn,
)
from dvfl_runtime.arguments import BAD_INPUT
from dvfl_runtime.artifact import ModelFile
from dvfl_runtime.engines import Engine, open_engine
from dvfl_runtime.engines.cuda import cuda_problem, gpu_model
from dvfl_runtime.errors import DvflError, EngineUnavailable
from dvfl_runtime.files import check_places, write_json
from dvfl_runtime.recognizer import BUNDLED_MODEL

log = logging.getLogger(__name__)

BATCHES = (1, 8)
WARM_UP_S = 1.0
SECONDS = 1.0  # of measured runs, each batch
# TensorRT last: it may build for minutes
ON_GPU = ("onnxruntime", "tensorrt-rtx", "tensorrt", "onnxruntime-tensorrt")
ON_CPU = ("onnxruntime", "openvino")
STANDARD = ", standard operators"
ROUNDS = 40  # of fused and standard in turn


def engine_rows(
    models: Mapping[str, Path], names: Sequence[str], device: str, seconds: float = SECONDS
) -> Iterator[Result]:
    """Yield a row for each engine and model: its error, its logits and its times.

    Args:
        models: files by the names that the rows give them.
        names: of the engines.
        device: "cuda" or "cpu".
        seconds: of measured runs of each batch.
    """
    for name in names:
        for model_name, path in models.items():
            row: Result = {"row": "engine", "model": model_name, "engine": name, "device": device}
            try:
                yield row | _measure(ModelFile(path), name, device, seconds)
            except Exception as err:  # a library that is broken may raise anything
                reason = " ".join(str(err).split())
                ours = isinstance(err, DvflError)
                yield row | {"reason": reason if ours else f"{type(err).__name__}: {reason}"}


def _measure(model: ModelFile, name: str, device: str, seconds: float) -> Result:
    spec = model.artifact.spec
    shape = (max(BATCHES), spec.num_frames, *spec.size, 3)
    clips = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    began_s = time.perf_counter()
    with closing(_open(name, model, device)) as engine:
        opened_s = time.perf_counter() - began_s
        found = engine.run(clips)
        with closing(open_engine("onnxruntime", model, device="cpu")) as reference:
            wanted = reference.run(clips)
        row: Result = {"version": engine.version, "provider": engine.provider}
        row["fused_ops"] = list(engine.fused_ops)
        row |= {"clip": list(shape[1:]), "opened_s": round(opened_s, 2)}
        row["largest_logit"] = round(float(np.abs(wanted).max()), 4)
        row["largest_difference"] = float(f"{np.abs(found - wanted).max():.3g}")
        row["same_class"] = bool((found.argmax(1) == wanted.argmax(1)).all())
        for batch in BATCHES:
            work: Callable[[], Any] = partial(engine.run, clips[:batch])
            warm_up = WarmUp.of(work, min(WARM_UP_S, seconds))
            times = times_in_turn({name: work}, seconds)[name]
            row[f"batch_{batch}"] = {
                "ms_per_clip": round(float(np.median(times)) / batch, 3),
                "warm": warm_up.stable,
                **percentiles(times),
            }
    return row


def _open(name: str, model: ModelFile, device: str) -> Engine:
    if name == "tensorrt-rtx":
        return _open_rtx(model)
    return open_engine(name, model, device=device)


def _open_rtx(model: ModelFile) -> Engine:
    """Open our engine for TensorRT with TensorRT for RTX, whose module has the same names.

    Raises:
        EngineUnavailable: if there is no GPU, or a package is missing.
    """
    if problem := cuda_problem():
        raise EngineUnavailable(f"tensorrt-rtx needs an NVIDIA GPU: {problem}")
    try:
        import tensorrt_rtx
        from cuda.bindings import driver
    except ImportError as err:
        raise EngineUnavailable(
            f"tensorrt-rtx cannot be imported ({err}); run: pip install tensorrt-rtx-cu13 "
            f"cuda-bindings"
        ) from err
    from dvfl_runtime.engines.gpu import Gpu
    from dvfl_runtime.engines.tensorrt import TensorRtEngine

    return TensorRtEngine(tensorrt_rtx, Gpu(driver), model, lambda _share: None)


def fused_rows(models: Mapping[str, Path]) -> Iterator[Result]:
    """Yield what fused nodes gain in onnxruntime on the GPU: times in turn, in both precisions.

    Args:
        models: files by name; those of standard operators end in `STANDARD`.
    """
    for name in [name for name in models if name + STANDARD in models]:
        forms = {"fused": models[name], "standard": models[name + STANDARD]}
        row: Result = {"row": "fused over standard", "model": name, "engine": "onnxruntime"}
        try:
            with ExitStack() as stack:
                engines = {
                    form: stack.enter_context(
                        closing(open_engine("onnxruntime", ModelFile(path), device="cuda"))
                    )
                    for form, path in forms.items()
                }
                row["fused_ops"] = list(engines["fused"].fused_ops)
                spec = ModelFile(models[name]).artifact.spec
                shape = (max(BATCHES), spec.num_frames, *spec.size, 3)
                clips = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
                gap = np.abs(engines["fused"].run(clips) - engines["standard"].run(clips)).max()
                row["largest_difference"] = float(f"{gap:.3g}")
                for batch in BATCHES:
                    works: dict[str, Work] = {
                        form: partial(engine.run, clips[:batch]) for form, engine in engines.items()
                    }
                    times = paired_times(works, ROUNDS)
                    medians = {form: round(float(np.median(t[0])), 3) for form, t in times.items()}
                    found = ratios(times["fused"], times["standard"])
                    row[f"batch_{batch}"] = {**medians, **found, "n": ROUNDS}
            yield row
        except Exception as err:  # see engine_rows
            yield row | {"reason": " ".join(str(err).split())}


def _nano(folder: Path) -> dict[str, Path]:
    """Write `nano` at 8 x 224 x 224 with random weights, as dvfl-export writes it, and variations.

    Returns:
        Files by name: in float32 and float16, with fused nodes and with standard operators.
    """
    import onnx

    from dvfl_bench.comparisons.networks import FRAMES, deploy_graph, random_network, square_spec
    from dvfl_export.precision.half import to_float16

    written = {}
    for form in ("", STANDARD):
        graph = deploy_graph(random_network("nano"), square_spec(FRAMES, 224), fused=not form)
        for precision, content in (("", graph), (" fp16", to_float16(graph))):
            name = f"nano{precision}{form}"
            written[name] = folder / f"{name}.onnx"
            onnx.save(content, written[name])
    return written


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return the exit status."""
    parser = comparison_parser("gpu_engines", __doc__ or "")
    parser.add_argument("--tiny", action="store_true", help="the bundled model alone, for a moment")
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="gpu-check: %(message)s")
    device = "cpu" if cuda_problem() else "cuda"
    result: Result = {"part": "engines", "machine": describe_machine(0), "rows": []}
    if device == "cuda":
        result["gpu"] = gpu_model()
    try:
        check_places([("--json", args.json)])
        with tempfile.TemporaryDirectory() as folder:
            models: dict[str, Path] = {"bundled": BUNDLED_MODEL}
            if not args.tiny:
                try:
                    models |= _nano(Path(folder))
                except ImportError as err:  # an export needs packages that engines do not
                    reason = f"nano cannot be exported here: {err}"
                    result["rows"].append({"row": "engine", "model": "nano", "reason": reason})
            names = ON_GPU if device == "cuda" else ON_CPU
            alone = {name: path for name, path in models.items() if not name.endswith(STANDARD)}
            seconds = 0.05 if args.tiny else SECONDS
            found = engine_rows(alone, names[:1], device, seconds)
            if device == "cuda":
                found = chain(found, fused_rows(models))  # before a build that may end the process
            for row in chain(found, engine_rows(alone, names[1:], device, seconds)):
                log.info("%s", row)
                result["rows"].append(row)
                if args.json is not None:
                    write_json(args.json, result)
    except DvflError as err:
        log.error("error: %s", err)
        return BAD_INPUT
    return 0


if __name__ == "__main__":
    sys.exit(main())
