"""How cost grows over our networks: with frames, resolution, batch and threads.

    python -m dvfl_bench.comparisons.family --json FILE --plot FILE.png [--repeats 5]

Each measurement is a process of its own, so that its peak memory is its own. Weights are random.
"""

from __future__ import annotations

import itertools
import logging
import math
import multiprocessing
import sys
import tempfile
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from dvfl_bench.comparisons.charts import save_chart
from dvfl_bench.comparisons.command import Result, comparison_parser, run_comparison
from dvfl_bench.device.cold_start import peak_mb
from dvfl_bench.device.timing import elapsed_ms
from dvfl_runtime.artifact import ModelFile
from dvfl_runtime.engines import open_engine

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
    """What a case costs.

    Attributes:
        median_ms: median time of one run.
        min_ms: least time of one run.
        peak_mb: peak memory of its process.
        mb_above: the network's part of it: the peak less that before the file was opened.
    """

    median_ms: float
    min_ms: float
    peak_mb: float
    mb_above: float


def cases() -> list[Case]:
    """Return the family at all inputs, then nano at 8 x 112 px with more clips and threads."""
    grid = itertools.product(VARIANTS, FRAMES, SIZES, ENGINES)
    family = [Case(*values) for values in grid]
    nano = [Case("nano", 8, 112, engine) for engine in ENGINES]
    grown = [
        replace(case, batch=batch, threads=threads)
        for case, batch, threads in itertools.product(nano, BATCHES, THREADS)
    ]
    return list(dict.fromkeys([*family, *grown]))


def run_case(case: Case, folder: Path, repeats: int) -> Cost:
    """Measure a case in this process."""
    shape = (case.batch, case.frames, case.size, case.size, 3)
    clips = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    before = peak_mb() or math.nan  # known on Linux alone
    model = ModelFile(folder / case.file)
    engine = open_engine(case.engine, model, device="cpu", num_threads=case.threads)
    # the first run warms up
    times = [elapsed_ms(lambda: engine.run(clips)) for _ in range(repeats + 1)][1:]
    peak = peak_mb() or math.nan
    return Cost(*(round(float(v), 2) for v in (np.median(times), min(times), peak, peak - before)))


def export_models(wanted: Iterable[Case], folder: Path) -> dict[str, float]:
    """Write the file of each case; return file -> GMACs."""
    # late: the processes that measure import this module, and must not hold PyTorch
    import torch

    from dvfl_bench.comparisons.networks import deploy_graph, square_spec
    from dvfl_models import build_model, count_macs

    torch.manual_seed(0)
    gmacs = {}
    for case in {case.file: case for case in wanted}.values():
        spec = square_spec(case.frames, case.size)
        net = build_model(case.variant).eval()
        (folder / case.file).write_bytes(deploy_graph(net, spec).SerializeToString())
        gmacs[case.file] = count_macs(net, (case.frames, 3, *spec.size)) / 1e9
        log.info("%s: %.2f GMACs", case.file, gmacs[case.file])
    return gmacs


def exponents(rows: Sequence[dict[str, Any]], columns: Sequence[str]) -> dict[str, float]:
    """Fit time = c(variant) x product of columns^exponent by least squares of logarithms."""
    names = sorted({row["variant"] for row in rows})
    # one column for each variant, whose value is log c, then the logarithms: (rows, V + columns)
    features = [
        [float(row["variant"] == name) for name in names] + [np.log(row[c]) for c in columns]
        for row in rows
    ]
    wanted = np.log([row["median_ms"] for row in rows])
    found = np.linalg.lstsq(np.array(features), wanted, rcond=None)[0]
    return {c: round(float(v), 3) for c, v in zip(columns, found[len(names) :], strict=True)}


def growth(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return, for each engine, exponents of frames, side, GMACs and batch, and threads' gain."""
    found = {}
    for engine in ENGINES:
        mine = [row for row in rows if row["engine"] == engine]
        plain = [row for row in mine if row["batch"] == 1 and row["threads"] == max(THREADS)]
        # all variants on one line: how well multiply-adds alone predict the time
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


def measure(repeats: int) -> Result:
    """Measure all cases; return the result."""
    wanted = cases()
    rows = []
    # a forked process would begin with the memory of PyTorch
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
        "exponents": growth(rows),
        "rows": rows,
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    parser = comparison_parser("family", __doc__)
    parser.add_argument("--plot", type=Path, metavar="FILE.png")
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args(argv)

    def draw(result: Result) -> int:
        if args.plot is not None:
            save_chart("family", result, args.plot)
        return 0

    measured = partial(measure, args.repeats)
    return run_comparison(args, measured, threads=max(THREADS), then=draw)


if __name__ == "__main__":
    sys.exit(main())
