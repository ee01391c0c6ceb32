"""What the fused kernels are worth: onnxruntime with and without dvfl-kernels, beside OpenVINO.

    python -m dvfl_bench.comparisons.kernels --json FILE [--library FILE] [--repeats 20]

Each network is measured in float32 and int8 with engines and forms in turn: onnxruntime on standard
operators, on the fused file without and with the library, and OpenVINO as the runtime runs it. The
floor is the time of the network's multiply-adds at the rate of a large float32 product of the same
run, by the fastest library. Profiles of onnxruntime say where the time goes, and what each kind of
fused node takes beside the nodes that it replaces: for that each runs alone, with the tensors that
it has in the network.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray

from dvfl_bench.comparisons.bare_engines import onnxruntime_run
from dvfl_bench.comparisons.command import Result, comparison_parser, run_comparison
from dvfl_bench.comparisons.networks import (
    FRAMES,
    deploy_graph,
    floats_of,
    random_network,
    square_spec,
)
from dvfl_bench.comparisons.node_profiles import (
    NodeTimes,
    Tensors,
    fused_node_models,
    least_ms,
    ms_by_operator,
    profiled_runs,
)
from dvfl_bench.comparisons.products import PRODUCT_MACS, fastest, product_runs
from dvfl_bench.device.timing import Times, Work, paired_times, ratios, summary
from dvfl_export.deploy.unfolding import unfold
from dvfl_export.precision.quantise import quantise
from dvfl_export.precision.ranges import activation_ranges
from dvfl_models import count_macs
from dvfl_models.network.video_focalnet import VideoFocalNet
from dvfl_runtime.artifact import ModelFile
from dvfl_runtime.clips.spec import Clip, ClipSpec
from dvfl_runtime.engines import open_engine
from dvfl_runtime.errors import DvflError
from dvfl_runtime.recognizer import BUNDLED_MODEL

PRECISIONS = ("fp32", "int8")
# name -> (which file, whether the library is registered)
ONNXRUNTIME = {
    "onnxruntime, standard": ("standard", False),
    "onnxruntime, functions": ("fused", False),
    "onnxruntime, kernels": ("fused", True),
}
STANDARD, _, KERNELS = ONNXRUNTIME
OPENVINO = "openvino"


@dataclass(frozen=True)
class Setup:
    """What all measurements of a run share."""

    library: Path
    threads: int
    repeats: int
    folder: Path


@dataclass(frozen=True)
class Network:
    """A network, its spec and a clip (1, T, H, W, 3)."""

    name: str
    net: VideoFocalNet
    spec: ClipSpec
    clip: NDArray[np.uint8]

    def write(
        self, folder: Path, forms: Sequence[str] = ("standard", "fused")
    ) -> dict[tuple[str, str], Path]:
        """Write its files: (standard or fused, precision) -> path."""
        written = {}
        for form in forms:
            graphs = {"fp32": deploy_graph(self.net, self.spec, fused=form == "fused")}
            # calibrated on the clip alone: this is about time, not accuracy
            ranges = activation_ranges(graphs["fp32"], [self.clip[0]])
            floats = floats_of(graphs["fp32"], self.name)
            graphs["int8"] = quantise(graphs["fp32"], ranges, floats)
            for precision, graph in graphs.items():
                written[form, precision] = folder / f"{self.name}_{form}_{precision}.onnx"
                onnx.save(graph, written[form, precision])
        return written


def networks(size: int) -> tuple[Network, ...]:
    """Return nano with random weights at `size` px, and the bundled network."""
    artifact = ModelFile(BUNDLED_MODEL).artifact
    bundled = unfold(onnx.load(BUNDLED_MODEL), artifact)
    spec = square_spec(FRAMES, size)
    return (
        Network("nano", random_network("nano"), spec, _noise(spec)),
        Network("bundled", bundled, artifact.spec, _noise(artifact.spec)),
    )


def _noise(spec: ClipSpec) -> NDArray[np.uint8]:
    shape = (1, spec.num_frames, *spec.size, 3)
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def measure_network(network: Network, setup: Setup) -> Result:
    """Measure a network in all engines and forms; return the result."""
    files = network.write(setup.folder)
    runs: dict[tuple[str, str], Work] = {}
    for precision in PRECISIONS:
        for name, (form, registered) in ONNXRUNTIME.items():
            library = setup.library if registered else None
            runs[name, precision] = onnxruntime_run(
                files[form, precision], network.clip, setup.threads, library=library
            )
        runs[OPENVINO, precision] = openvino_run(files["fused", precision], network.clip, setup)
    runs |= product_runs(setup.folder, setup.threads, "fp32")
    times = paired_times(runs, setup.repeats)
    spec = network.spec
    macs = count_macs(network.net, (spec.num_frames, 3, *spec.size))
    floor = fastest(times) * macs / PRODUCT_MACS
    return {
        "clip": [spec.num_frames, *spec.size],
        "gmacs": round(macs / 1e9, 3),
        "sgemm_floor": summary(floor),
        "precisions": {
            precision: {
                **summarize(times, precision, floor),
                "profile": profile(files["fused", precision], network.clip, setup),
            }
            for precision in PRECISIONS
        },
    }


def openvino_run(path: Path, clip: Clip, setup: Setup) -> Work:
    """Return one run of a clip by the runtime's engine of OpenVINO."""
    engine = open_engine(OPENVINO, ModelFile(path), device="cpu", num_threads=setup.threads)
    return lambda: engine.run(clip)


def summarize(times: dict[tuple[str, str], Times], precision: str, floor: Times) -> Result:
    """Return the times of each engine and form in a precision, and their ratios."""
    mine = {name: times[name, precision] for name in (*ONNXRUNTIME, OPENVINO)}
    standard, kernels, openvino = (mine[name] for name in (STANDARD, KERNELS, OPENVINO))
    return {
        "engines": {name: summary(taken) for name, taken in mine.items()},
        "kernels_over_standard": ratios(kernels, standard),
        "kernels_over_openvino": ratios(kernels, openvino),
        "standard_over_openvino": ratios(standard, openvino),
        "kernels_over_floor": ratios(kernels, floor),
        "openvino_over_floor": ratios(openvino, floor),
    }


def profile(path: Path, clip: Clip, setup: Setup) -> Result:
    """Return what onnxruntime's profiles say about a fused file, without and with the library.

    Returns:
        {"by_operator": {functions / kernels: {operator: ms}}, "nodes": {kind: {nodes, replaced_ms,
        kernel_ms, ratio}}}, least times.
    """
    forms = {"functions": None, "kernels": setup.library}
    model = onnx.load(path)

    def both(proto: onnx.ModelProto, inputs: Tensors) -> dict[str, NodeTimes]:
        return profiled_runs(proto, inputs, forms, threads=setup.threads, repeats=setup.repeats)

    nodes: dict[str, Any] = {}
    for node in fused_node_models(model, {"clip": clip}):
        found = both(node.model, node.inputs)
        row = nodes.setdefault(node.kind, {"nodes": 0, "replaced_ms": 0.0, "kernel_ms": 0.0})
        row["nodes"] += 1
        row["replaced_ms"] += least_ms(found["functions"])
        row["kernel_ms"] += least_ms(found["kernels"])
    for row in nodes.values():
        row["ratio"] = round(row["kernel_ms"] / row["replaced_ms"], 3)
        row |= {key: round(row[key], 3) for key in ("replaced_ms", "kernel_ms")}
    whole = both(model, {"clip": clip})
    return {
        "by_operator": {form: ms_by_operator(events) for form, events in whole.items()},
        "nodes": nodes,
    }


def find_library(path: Path | None) -> Path:
    """Return the absolute path of the library, by default that of the installed dvfl-kernels."""
    if path is not None:
        if not path.is_file():
            raise DvflError(f"--library {path} does not exist")
        return path.resolve()
    try:
        from dvfl_kernels import library_path
    except ImportError as err:
        raise DvflError("dvfl-kernels is not installed; run: pip install ./export/kernels") from err
    return library_path("onnxruntime")


def compare(size: int, setup: Callable[[Path], Setup]) -> Result:
    """Measure all networks; return the result."""
    with tempfile.TemporaryDirectory() as folder:
        shared = setup(Path(folder))
        torch.set_num_threads(shared.threads)
        found = {network.name: measure_network(network, shared) for network in networks(size)}
    return {
        "what": "fused kernels of dvfl-kernels in onnxruntime, beside OpenVINO, batch 1",
        "repeats": shared.repeats,
        "networks": found,
    }


def table(result: Result) -> str:
    """Return the result as a table of median ratios, those of the least times in brackets."""
    names = ("kernels_over_standard", "kernels_over_openvino", "kernels_over_floor")
    lines = [f"{'':14}" + "".join(f"{name:>24}" for name in (*names, "openvino_over_floor"))]
    for network, row in result["networks"].items():
        for precision, found in row["precisions"].items():
            cells = [found[name] for name in (*names, "openvino_over_floor")]
            text = "".join(f"{cell['median']:>15.3f} ({cell['min']:.3f}) " for cell in cells)
            lines.append(f"{network:8} {precision:5}" + text)
            for kind, node in found["profile"]["nodes"].items():
                lines.append(
                    f"    {kind}: {node['kernel_ms']:.2f} ms instead of {node['replaced_ms']:.2f}, "
                    f"{node['ratio']:.2f}"
                )
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    parser = comparison_parser("kernels", __doc__)
    parser.add_argument("--library", type=Path, help="default: that of the installed dvfl-kernels")
    parser.add_argument("--size", type=int, default=224, help="of nano, px; default: 224")
    parser.add_argument("--threads", type=int, default=2, help="of each engine; default: 2")
    parser.add_argument("--repeats", type=int, default=20, help="rounds; default: 20")
    args = parser.parse_args(argv)

    def setup(folder: Path) -> Setup:
        return Setup(find_library(args.library), args.threads, args.repeats, folder)

    def print_table(result: Result) -> int:
        sys.stdout.write(table(result) + "\n")
        return 0

    return run_comparison(
        args, lambda: compare(args.size, setup), threads=args.threads, then=print_table
    )


if __name__ == "__main__":
    sys.exit(main())
