"""The committed comparisons of a machine as pictures.

python -m dvfl_bench.comparisons.charts benchmarks/results/<machine>
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dvfl_bench.plots import COLOURS, legend_below
from dvfl_runtime.files import read_text, replacing

if TYPE_CHECKING:
    from matplotlib.axes import Axes

log = logging.getLogger(__name__)

Result = dict[str, Any]
FORMS = ("official", "deploy", "official int8", "deploy int8")
ENGINES = ("onnxruntime", "openvino")


def draw_forms(axes: Axes, result: Result) -> None:
    """Median ms of each form in each engine, and the sgemm floor."""
    engines = list(result["engines"])
    bars: dict[str, list[float | None]] = {
        form: [result["engines"][engine].get(form, {}).get("median_ms") for engine in engines]
        for form in FORMS
    }
    _grouped(axes, engines, bars)
    floor = result["sgemm_floor"]["median_ms"]
    axes.axvline(floor, color="black", linestyle="--", label=f"sgemm floor, {floor:.0f} ms")
    frames, size, _ = result["clip"]
    axes.set(xlabel="ms per clip, median")
    axes.set_title(f"{result['variant']}, {frames} x {size} x {size}", fontsize=10)


def draw_peers(axes: Axes, result: Result) -> None:
    """Median ms of each network in both engines."""
    networks = result["networks"]
    names = [f"{name}\n{row['gmacs']} GMACs" for name, row in networks.items()]
    bars = {e: [row[e]["median_ms"] for row in networks.values()] for e in ENGINES}
    _grouped(axes, names, bars)
    axes.set(xlabel="ms per clip, median")
    frames, size, _ = result["clip"]
    axes.set_title(f"{frames} x {size} x {size}, fp32, random weights", fontsize=10)


def draw_naive(axes: Axes, result: Result) -> None:
    """Windows per second of the loops and of `Recognizer.stream`."""
    rates = result["windows_per_s"]
    bars = axes.barh(list(rates), list(rates.values()), color=COLOURS[0])
    axes.bar_label(bars, fmt="%.3g", padding=2, fontsize=8)
    axes.margins(x=0.12)  # room for the number beside the longest bar
    axes.invert_yaxis()
    axes.set(xlabel="windows per second")
    axes.set_title(f"{result['variant']}, {result['video']}", fontsize=10)


DRAWINGS: dict[str, Callable[[Axes, Result], None]] = {
    "forms": draw_forms,
    "peers": draw_peers,
    "naive": draw_naive,
}


def draw(path: Path) -> Path | None:
    """Draws one result beside its file; `None` for those that have no drawing here."""
    drawing = DRAWINGS.get(path.stem.partition("_")[0])
    if drawing is None:
        return None
    from matplotlib.figure import Figure

    result = json.loads(read_text(path))
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    drawing(axes, result)
    legend_below(axes)
    axes.grid(alpha=0.3, axis="x")
    machine = result["machine"]
    figure.suptitle(f"{machine['cpu']}, {machine['threads']} threads", fontsize=9)
    out = path.with_suffix(".png")
    with replacing(out) as part:
        figure.savefig(part, format="png", dpi=100)
    return out


def _grouped(axes: Axes, names: Sequence[str], bars: dict[str, list[float | None]]) -> None:
    """Horizontal bars, those of one name side by side; what is missing is left out."""
    height = 0.8 / len(bars)
    for k, (label, values) in enumerate(bars.items()):
        known = [(row, value) for row, value in enumerate(values) if value is not None]
        places = [row + (k - (len(bars) - 1) / 2) * height for row, _ in known]
        axes.barh(places, [value for _, value in known], height, color=COLOURS[k], label=label)
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.invert_yaxis()


def main(arguments: list[str] | None = None) -> int:
    """Entry point of `python -m dvfl_bench.comparisons.charts`."""
    parser = argparse.ArgumentParser(
        prog="dvfl_bench.comparisons.charts", description=__doc__.splitlines()[0]
    )
    parser.add_argument("folder", type=Path)
    args = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    drawn = [out for path in sorted(args.folder.glob("*.json")) if (out := draw(path))]
    for out in drawn:
        log.info("%s", out)
    if not drawn:
        log.error("error: %s holds no result that has a drawing", args.folder)
    return 0 if drawn else 2


if __name__ == "__main__":
    sys.exit(main())
