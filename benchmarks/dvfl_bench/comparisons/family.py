"""How cost grows over our networks: with frames, resolution, batch and threads.

    python -m dvfl_bench.comparisons.family --json FILE --plot FILE.png [--repeats 5]

Each measurement is a process of its own, so that its peak memory is its own; weights are random.
"""

from __future__ import annotations

import argparse
import itertools
import logging
import math
import multiprocessing
import sys
import tempfile
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from dvfl_bench.comparisons.command import report
from dvfl_bench.device.cold_start import peak_mb
from dvfl_bench.device.machine import describe_machine
from dvfl_bench.device.timing import elapsed_ms
from dvfl_bench.plots import legend_below, log_axis
from dvfl_runtime.clips.spec import ClipSpec
from dvfl_runtime.engines import open_engine
from dvfl_runtime.files import check_places, replacing

log = logging.getLogger(__name__)

VARIANTS = ("femto", "pico", "nano", "tiny")
SIZES = (112, 160, 224)
FRAMES = (8, 16)
BATCHES = (1, 2, 4, 8)
THREADS = (1, 2)
ENGINES = ("onnxruntime", "openvino")


@dataclass(frozen=True)
class Case:
    """One measurement: a network, its input, an engine."""

    variant: str
    frames: int
    size: int
    engine: str
    threads: int = max(THREADS)
    batch: int = 1

    @property
    def file(self) -> str:
        """Name of the model's file; engine, threads and batch share it."""
        return f"{self.variant}_{self.frames}x{self.size}.onnx"


@dataclass(frozen=True)
class Cost:
    """What a case costs: the median and least time of one run, and the peak memory of its process.

    `mb_above` is what the network takes of it: the peak less that of the same process before it
    opened the file.
    """

    median_ms: float
    min_ms: float
    peak_mb: float
    mb_above: float


def cases() -> list[Case]:
    """The family at all inputs, then the growth of nano at 8 x 112 px with batch and threads."""
    grid = itertools.product(VARIANTS, FRAMES, SIZES, ENGINES)
    family = [Case(*values) for values in grid]
    nano = [Case("nano", 8, 112, engine) for engine in ENGINES]
    grown = [
        replace(case, batch=batch, threads=threads)
        for case, batch, threads in itertools.product(nano, BATCHES, THREADS)
    ]
    return list(dict.fromkeys([*family, *grown]))


def run_case(case: Case, folder: Path, repeats: int) -> Cost:
    """Measures a case in this process."""
    shape = (case.batch, case.frames, case.size, case.size, 3)
    clips = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    before = peak_mb() or math.nan  # Linux tells it
    engine = open_engine(case.engine, folder / case.file, device="cpu", num_threads=case.threads)
    times = [elapsed_ms(lambda: engine.run(clips)) for _ in range(repeats + 1)][1:]
    peak = peak_mb() or math.nan
    return Cost(*(round(float(v), 2) for v in (np.median(times), min(times), peak, peak - before)))


def export_models(wanted: Iterable[Case], folder: Path) -> dict[str, float]:
    """Writes the file of each case; returns file -> GMACs."""
    import torch

    from dvfl_export.deploy.form import deploy_form
    from dvfl_export.onnx_model import onnx_from_model
    from dvfl_models import build_model, count_macs

    torch.manual_seed(0)
    gmacs = {}
    for case in {case.file: case for case in wanted}.values():
        spec = ClipSpec(num_frames=case.frames, size=(case.size, case.size), resize=case.size)
        net = build_model(case.variant).eval()
        proto = onnx_from_model(deploy_form(net, spec), spec)
        (folder / case.file).write_bytes(proto.SerializeToString())
        gmacs[case.file] = count_macs(net, (case.frames, 3, *spec.size)) / 1e9
        log.info("%s: %.2f GMACs", case.file, gmacs[case.file])
    return gmacs


def exponents(rows: Sequence[dict[str, Any]], columns: Sequence[str]) -> dict[str, float]:
    """Fits time = c(variant) x product of columns^exponent by least squares of logarithms."""
    names = sorted({row["variant"] for row in rows})
    features = [
        [float(row["variant"] == name) for name in names] + [np.log(row[c]) for c in columns]
        for row in rows
    ]
    wanted = np.log([row["median_ms"] for row in rows])
    found = np.linalg.lstsq(np.array(features), wanted, rcond=None)[0]
    return {c: round(float(v), 3) for c, v in zip(columns, found[len(names) :], strict=True)}


def growth(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Per engine: exponents of frames and side, of GMACs, of batch, and the gain of threads."""
    found = {}
    for engine in ENGINES:
        mine = [row for row in rows if row["engine"] == engine]
        plain = [row for row in mine if row["batch"] == 1 and row["threads"] == max(THREADS)]
        # all variants on one line: how well multiply-adds alone tell the time
        line = exponents([{**row, "variant": ""} for row in plain], ["gmacs"])
        grown = [r for r in mine if (r["variant"], r["frames"], r["size"]) == ("nano", 8, 112)]
        batches = [row for row in grown if row["threads"] == max(THREADS)]
        by_threads = {r["threads"]: r["median_ms"] for r in grown if r["batch"] == 1}
        found[engine] = {
            **exponents(plain, ["frames", "size"]),
            **line,
            **exponents(batches, ["batch"]),
            "one_over_two_threads": round(by_threads[1] / by_threads[2], 3),
        }
    return found


def measure(repeats: int) -> dict[str, Any]:
    """Measures all cases; returns the JSON-ready result."""
    machine = describe_machine(max(THREADS))
    wanted = cases()
    rows = []
    # a process per task, and none that has torch in its memory
    spawn = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        gmacs = export_models(wanted, folder)
        with ProcessPoolExecutor(1, mp_context=spawn, max_tasks_per_child=1) as pool:
            for case in wanted:
                cost = pool.submit(run_case, case, folder, repeats).result()
                rows.append({**asdict(case), "gmacs": round(gmacs[case.file], 3), **asdict(cost)})
                log.info("%s", rows[-1])
    return {
        "what": "cost of one run in a process of its own, fp32, random weights",
        "repeats": repeats,
        "machine": machine,
        "exponents": growth(rows),
        "rows": rows,
    }


def save_plot(result: dict[str, Any], path: Path) -> None:
    """Time against multiply-adds, one panel per engine."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.4), layout="constrained")
    for index, engine in enumerate(ENGINES):
        axes = figure.add_subplot(1, len(ENGINES), index + 1)
        for variant in VARIANTS:
            rows = [
                row
                for row in result["rows"]
                if (row["engine"], row["variant"], row["batch"]) == (engine, variant, 1)
                and row["threads"] == max(THREADS)
            ]
            rows.sort(key=lambda row: float(row["gmacs"]))
            axes.plot(
                *([row[key] for row in rows] for key in ("gmacs", "median_ms")), "o-", label=variant
            )
        found = result["exponents"][engine]
        log_axis(axes, "x")
        log_axis(axes, "y")
        axes.set(xlabel="GMACs per clip", ylabel="ms per clip, median")
        axes.set_title(
            f"{engine}: frames^{found['frames']}, side^{found['size']}, GMACs^{found['gmacs']}",
            fontsize=10,
        )
        axes.grid(alpha=0.3)
        legend_below(axes)
    machine = result["machine"]
    figure.suptitle(f"{machine['cpu']}, {machine['threads']} threads", fontsize=10)
    figure.savefig(path, format="png", dpi=110)


def main(arguments: list[str] | None = None) -> int:
    """Entry point of `python -m dvfl_bench.comparisons.family`."""
    parser = argparse.ArgumentParser(
        prog="dvfl_bench.comparisons.family", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--json", type=Path, help="write the result here")
    parser.add_argument("--plot", type=Path, metavar="FILE.png")
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args(arguments)

    def work() -> dict[str, Any]:
        check_places([("--json", args.json), ("--plot", args.plot)])
        return measure(args.repeats)

    def draw(result: dict[str, Any]) -> None:
        if args.plot is not None:
            with replacing(args.plot) as part:
                save_plot(result, part)

    return 2 if report(work, args.json, draw) is None else 0


if __name__ == "__main__":
    sys.exit(main())
