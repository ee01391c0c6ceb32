"""The least time that a clip can take on devices that nobody here has: a bound, no measurement.

    python -m dvfl_bench.comparisons.roofline --json FILE --plot FILE.png [--rounds 15]

For each node of the exported graph its multiply-adds and bytes are held against what the device's
maker has published. Two bounds come out. "at least": all arithmetic at the peak rate, or weights
and clip once through memory, whichever takes longer; nothing gets below. "node by node": each node
takes what its arithmetic or its bytes take, inputs read from memory and outputs written back;
only an engine that fuses more, or keeps tensors in its caches, gets below. Neither knows of
launches, of products that are too small to fill a device, or of elementwise arithmetic.

The same sum for this CPU, by the rates of its fastest products and copies, is held against what
engines take here, both in CPU time: that is how far from the bound they end up.
"""

from __future__ import annotations

import logging
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import torch

from dvfl_bench.comparisons.command import Result, comparison_parser, run_comparison
from dvfl_bench.comparisons.graph_costs import FLOAT_BYTES, NodeCost, node_costs
from dvfl_bench.comparisons.kernels import Network, networks
from dvfl_bench.comparisons.products import COPIED, PRODUCT_MACS, copy_run, product_runs
from dvfl_bench.comparisons.published_peaks import PUBLISHED, Peaks
from dvfl_bench.device.timing import Times, Work, paired_times, summary
from dvfl_bench.plots import COLOURS, log_axis
from dvfl_runtime.artifact import ModelFile
from dvfl_runtime.engines import installed_engines, open_engine
from dvfl_runtime.errors import DvflError
from dvfl_runtime.files import replacing

log = logging.getLogger(__name__)

PRECISIONS = {"fp32": FLOAT_BYTES, "fp16": 2, "int8": FLOAT_BYTES}  # -> bytes of a float
HERE = {"fp32": "fp32", "bf16": "fp16", "int8": "int8"}  # of this CPU -> whose costs it has
COPY = ("copy", "numpy")
Costs = dict[str, list[NodeCost]]  # by precision
Files = dict[tuple[str, str], Path]  # by form and precision
Key = tuple[str, ...]  # precision and library of a product; network, engine and precision


@dataclass(frozen=True)
class Counted:
    """A network, its files, and what a clip costs in them."""

    network: Network
    files: Files
    costs: Costs


@dataclass(frozen=True)
class Run:
    """How this CPU is measured: threads of each engine, and rounds."""

    threads: int
    rounds: int


def costs_of(files: Files) -> Costs:
    """Return the costs of a network's files in every precision."""
    kept = {"fp32": "fp32", "fp16": "fp32", "int8": "int8"}
    return {
        precision: node_costs(onnx.load(files["fused", kept[precision]]), float_bytes=size)
        for precision, size in PRECISIONS.items()
    }


def bounds_ms(costs: Sequence[NodeCost], peaks: Peaks, precision: str) -> tuple[float, float]:
    """Return the two bounds, "at least" and "node by node", ms."""
    # what a file in int8 keeps as floats runs in fp32
    floats = "fp32" if precision == "int8" else precision
    arithmetic = [
        2e-6 * cost.product_macs / peaks.gflops["int8" if cost.integer else floats]
        + 2e-6 * cost.depthwise_macs / peaks.depthwise_gflops
        for cost in costs
    ]
    weights = [1e-6 * cost.weight_bytes / peaks.gb_s for cost in costs]
    moved = [1e-6 * (c.weight_bytes + c.activation_bytes) / peaks.gb_s for c in costs]
    nodes = sum(max(pair) for pair in zip(arithmetic, moved, strict=True))
    return max(sum(arithmetic), sum(weights)), nodes


def bounds_of(costs: Costs, peaks: Peaks) -> Result:
    """Return both bounds in every precision, and which share of "node by node" is memory's."""
    found = {}
    for precision, nodes in costs.items():
        least, by_node = bounds_ms(nodes, peaks, precision)
        endless = Peaks(peaks.gflops, peaks.depthwise_gflops, gb_s=float("inf"))
        arithmetic = bounds_ms(nodes, endless, precision)[1]
        found[precision] = {
            "at_least_ms": round(least, 4),
            "node_by_node_ms": round(by_node, 4),
            "memory_share": round(1 - arithmetic / by_node, 3),
        }
    return found


def totals(costs: Costs) -> Result:
    """Return what a clip costs in every precision."""
    return {
        precision: {
            "nodes": len(nodes),
            "product_gmacs": round(sum(n.product_macs for n in nodes) / 1e9, 4),
            "of_them_int8": round(sum(n.product_macs for n in nodes if n.integer) / 1e9, 4),
            "depthwise_gmacs": round(sum(n.depthwise_macs for n in nodes) / 1e9, 4),
            "weight_mb": round(sum(n.weight_bytes for n in nodes) / 1e6, 2),
            "activation_mb": round(sum(n.activation_bytes for n in nodes) / 1e6, 2),
        }
        for precision, nodes in costs.items()
    }


def engine_runs(network: Network, files: Files, threads: int) -> dict[tuple[str, str], Work]:
    """Return a run of a clip by each installed engine and precision, as the runtime opens it."""
    runs: dict[tuple[str, str], Work] = {}
    for precision in HERE:
        mode = "bf16" if precision == "bf16" else "file"
        file = ModelFile(files["fused", "int8" if precision == "int8" else "fp32"])
        for engine in installed_engines("cpu", mode):
            try:
                opened = open_engine(
                    engine, file, device="cpu", num_threads=threads, precision=mode
                )
            except DvflError as err:  # a CPU without bf16
                log.warning("left out: %s", err)
                continue
            name = "onnxruntime, kernels" if opened.fused_ops else engine
            runs[name, precision] = partial(opened.run, network.clip)
    return runs


def peaks_of(times: dict[Key, Times]) -> Peaks:
    """Return what a core of this CPU can do: the fastest product of each precision, and a copy.

    Args:
        times: see `paired_times`; the least CPU times count.
    """
    rates = {
        kind: max(
            2e-6 * PRODUCT_MACS / taken[1].min()
            for (first, *_), taken in times.items()
            if first == precision
        )
        for precision, kind in HERE.items()
    }
    return Peaks(rates, rates["fp32"], 2e-6 * COPIED / float(times[COPY][1].min()))


def measure_here(counted: dict[str, Counted], folder: Path, run: Run) -> Result:
    """Measure this CPU's peaks and its engines in turn; return them beside the bounds.

    CPU time is compared, which other programs on the machine hardly change.
    """
    works: dict[Key, Work] = {COPY: copy_run(run.threads)}
    for product, multiply in product_runs(folder, run.threads, *HERE).items():
        works[product] = multiply
    for name, one in counted.items():
        for (engine, precision), work in engine_runs(one.network, one.files, run.threads).items():
            works[name, engine, precision] = work
    times = paired_times(works, run.rounds)
    products: dict[Key, Times] = {name: taken for name, taken in times.items() if len(name) == 2}
    peaks = peaks_of(products)
    engines: Result = {}
    for name, engine, precision in (key for key in times if key not in products):
        taken, kind = times[name, engine, precision], HERE[precision]
        least, by_node = bounds_ms(counted[name].costs[kind], peaks, kind)
        row = engines.setdefault(name, {}).setdefault(engine, {})
        row[precision] = {
            **summary(taken),
            "cpu_median_ms": round(float(np.median(taken[1])), 2),
            "over_at_least": round(float(taken[1].min()) / least, 3),
            "over_node_by_node": round(float(taken[1].min()) / by_node, 3),
        }
    return {
        "peaks_of_a_core": asdict(peaks),
        "products": {" ".join(name): summary(taken) for name, taken in products.items()},
        "engines": engines,
    }


def compare(size: int, run: Run) -> Result:
    """Return the bounds of every device, and this CPU's beside its times."""
    torch.set_num_threads(run.threads)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        counted = {}
        for network in networks(size):
            files = network.write(folder, ["fused"])
            counted[network.name] = Counted(network, files, costs_of(files))
        here = measure_here(counted, folder, run) if run.rounds else None
    return {
        "what": "the least time of a clip, batch 1: a bound by published peaks, no measurement",
        "networks": {
            name: {
                "clip": list(one.network.clip.shape[1:4]),
                "costs": totals(one.costs),
                "bounds": {
                    device: bounds_of(one.costs, peaks) for device, peaks in PUBLISHED.items()
                },
            }
            for name, one in counted.items()
        },
        "devices": {device: asdict(peaks) for device, peaks in PUBLISHED.items()},
        "this_cpu": here,
    }


def table(result: Result) -> str:
    """Return the bounds as a table, ms: at least / node by node."""
    lines = []
    for name, network in result["networks"].items():
        lines.append(f"{name}, {'x'.join(map(str, network['clip']))}; ms: at least / node by node")
        for device, row in network["bounds"].items():
            cells = [
                f"{precision} {each['at_least_ms']:.3g} / {each['node_by_node_ms']:.3g}"
                for precision, each in row.items()
            ]
            lines.append(f"  {device:28}" + "".join(f"{cell:>24}" for cell in cells))
        for engine, row in ((result["this_cpu"] or {}).get("engines", {}).get(name, {})).items():
            cells = [
                f"{precision} {each['over_at_least']:.2f} / {each['over_node_by_node']:.2f}"
                for precision, each in row.items()
            ]
            lines.append(f"  over it: {engine:19}" + "".join(f"{cell:>24}" for cell in cells))
    return "\n".join(lines)


def draw(result: Result, path: Path) -> None:
    """Draw "node by node" of every device as bars, and "at least" as a mark in each."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.6), layout="constrained")
    height = 0.8 / len(PRECISIONS)
    for column, (name, network) in enumerate(result["networks"].items()):
        axes = figure.add_subplot(1, len(result["networks"]), column + 1)
        for k, precision in enumerate(PRECISIONS):
            rows = [bounds[precision] for bounds in network["bounds"].values()]
            places = [row + (k - 1) * height for row in range(len(rows))]
            by_node = [row["node_by_node_ms"] for row in rows]
            axes.barh(places, by_node, height * 0.9, color=COLOURS[k], label=precision)
            least = [row["at_least_ms"] for row in rows]
            axes.plot(least, places, "|", color="black", markersize=9)
        if column:
            axes.set_yticks([])
        else:
            axes.set_yticks(range(len(network["bounds"])), list(network["bounds"]), fontsize=8)
        axes.invert_yaxis()
        log_axis(axes, "x")
        axes.set(xlabel="ms per clip")
        axes.set_title(f"{name}, {' x '.join(map(str, network['clip']))}", fontsize=10)
        axes.grid(alpha=0.3, axis="x")
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, fontsize=8, frameon=False)
    figure.suptitle(
        "Bounds by published peaks, NOT measured. Bar: node by node; mark: at least", fontsize=10
    )
    figure.savefig(path, format="png", dpi=110)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    parser = comparison_parser("roofline", __doc__)
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="draw the bounds")
    parser.add_argument("--size", type=int, default=224, help="of nano, px; default: 224")
    parser.add_argument("--threads", type=int, default=2, help="of each engine; default: 2")
    parser.add_argument("--rounds", type=int, default=15, help="on this CPU; 0 leaves it out")
    args = parser.parse_args(argv)

    def show(result: Result) -> int:
        sys.stdout.write(table(result) + "\n")
        if args.plot is not None:
            with replacing(args.plot) as part:
                draw(result, part)
        return 0

    return run_comparison(
        args,
        lambda: compare(args.size, Run(args.threads, args.rounds)),
        threads=args.threads,
        then=show,
    )


if __name__ == "__main__":
    sys.exit(main())
