"""The committed comparisons of a machine as pictures.

python -m dvfl_bench.comparisons.charts benchmarks/results/<machine>
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from dvfl_bench.comparisons.command import Result
from dvfl_bench.plots import COLOURS, log_axis, save_panels
from dvfl_runtime.files import read_text, replacing

if TYPE_CHECKING:
    from matplotlib.axes import Axes

log = logging.getLogger(__name__)

FORMS = ("official", "deploy", "official int8", "deploy int8")
ENGINES = ("onnxruntime", "openvino")


def draw_forms(axes: Axes, result: Result) -> None:
    """Draw the median ms of each form in each engine, and the sgemm floor."""
    engines = list(result["engines"])
    bars: dict[str, list[float | None]] = {
        form: [result["engines"][engine].get(form, {}).get("median_ms") for engine in engines]
        for form in FORMS
    }
    _grouped_bars(axes, engines, bars)
    floor = result["sgemm_floor"]["median_ms"]
    axes.axvline(floor, color="black", linestyle="--", label=f"sgemm floor, {floor:.0f} ms")
    frames, size, _ = result["clip"]
    axes.set_title(f"{result['variant']}, {frames} x {size} x {size}", fontsize=10)


def draw_peers(axes: Axes, result: Result) -> None:
    """Draw the median ms of each network in both engines."""
    networks = result["networks"]
    names = [f"{name}\n{row['gmacs']} GMACs" for name, row in networks.items()]
    bars = {e: [row[e]["median_ms"] for row in networks.values()] for e in ENGINES}
    _grouped_bars(axes, names, bars)
    frames, size, _ = result["clip"]
    axes.set_title(f"{frames} x {size} x {size}, fp32, random weights", fontsize=10)


def draw_naive(axes: Axes, result: Result) -> None:
    """Draw the windows per second of the loops and of `Recognizer.stream`."""
    rates = result["windows_per_s"]
    bars = axes.barh(list(rates), list(rates.values()), color=COLOURS[0])
    axes.bar_label(bars, fmt="%.3g", padding=2, fontsize=8)
    axes.margins(x=0.12)  # room for the number beside the longest bar
    axes.invert_yaxis()
    axes.set(xlabel="windows per second")
    axes.set_title(f"{result['variant']}, {result['video']}", fontsize=10)
    axes.grid(alpha=0.3, axis="x")


def draw_family(axes: Axes, result: Result, engine: str) -> None:
    """Draw the time of each variant in an engine against its multiply-adds."""
    threads = result["machine"]["threads"]
    rows = [row for row in result["rows"] if (row["engine"], row["batch"]) == (engine, 1)]
    for variant in dict.fromkeys(row["variant"] for row in rows):
        points = sorted(
            (row["gmacs"], row["median_ms"])
            for row in rows
            if (row["variant"], row["threads"]) == (variant, threads)
        )
        axes.plot(*zip(*points, strict=True), "o-", label=variant)
    log_axis(axes, "x")
    log_axis(axes, "y")
    axes.set(xlabel="GMACs per clip", ylabel="ms per clip, median")
    found = result["exponents"][engine]
    powers = f"frames^{found['frames']}, side^{found['size']}, GMACs^{found['gmacs']}"
    axes.set_title(f"{engine}: {powers}", fontsize=10)
    axes.grid(alpha=0.3)


# the first part of a result's name -> what draws its panels
PANELS: dict[str, list[Callable[[Axes, Result], None]]] = {
    "forms": [draw_forms],
    "peers": [draw_peers],
    "naive": [draw_naive],
    "family": [partial(draw_family, engine=engine) for engine in ENGINES],
}


def save_chart(name: str, result: Result, path: Path) -> None:
    """Draw the result of a comparison as a PNG, complete or not at all.

    Raises:
        OutputError: if the file cannot be written.
    """
    with replacing(path) as part:
        save_panels(PANELS[name], result, result["machine"], part)


def _grouped_bars(axes: Axes, names: Sequence[str], bars: dict[str, list[float | None]]) -> None:
    """Draw horizontal bars of ms, those of one name side by side; missing ones are left out."""
    height = 0.8 / len(bars)
    for k, (label, values) in enumerate(bars.items()):
        known = [(row, value) for row, value in enumerate(values) if value is not None]
        places = [row + (k - (len(bars) - 1) / 2) * height for row, _ in known]
        axes.barh(places, [value for _, value in known], height, color=COLOURS[k], label=label)
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.invert_yaxis()
    axes.set(xlabel="ms per clip, median")
    axes.grid(alpha=0.3, axis="x")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m dvfl_bench.comparisons.charts", description=__doc__.splitlines()[0]
    )
    parser.add_argument("folder", type=Path)
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    drawn = 0
    for path in sorted(args.folder.glob("*.json")):
        if (name := path.stem.partition("_")[0]) in PANELS:
            save_chart(name, json.loads(read_text(path)), path.with_suffix(".png"))
            log.info("%s", path.with_suffix(".png"))
            drawn += 1
    if not drawn:
        log.error("error: %s holds no result that has a drawing", args.folder)
    return 0 if drawn else 2


if __name__ == "__main__":
    sys.exit(main())
