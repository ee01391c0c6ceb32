"""A result of `dvfl-bench` as a picture, and what all pictures of results share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from dvfl_bench.device.stages import STAGES

if TYPE_CHECKING:
    from matplotlib.axes import Axes

T = TypeVar("T")

# Paul Tol's "bright", which people with colour-blindness can tell apart
COLOURS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#bbbbbb")


def save_plot(result: dict[str, Any], path: Path) -> None:
    """Draw latency, stages and, of several models, accuracy against latency, as a PNG."""
    runs: list[dict[str, Any]] = result["runs"]
    panels = [_latency]
    if runs and "end_to_end" in runs[0]:
        panels.append(_stages)
    if len({run["model"] for run in runs if accuracy(run) is not None}) > 1:
        panels.append(_accuracy)
    save_panels(panels, runs, result["machine"], path)


def save_panels(
    panels: Sequence[Callable[[Axes, T], None]], data: T, machine: dict[str, Any], path: Path
) -> None:
    """Draw panels of the same data side by side, under the name of the machine and its threads."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(max(7, 5.4 * len(panels)), 4.2), layout="constrained")
    for index, panel in enumerate(panels):
        axes = figure.add_subplot(1, len(panels), index + 1)
        panel(axes, data)
        _legend_below(axes)
    name = machine.get("board") or machine["cpu"]
    threads = f", {machine['threads']} threads" if "threads" in machine else ""
    figure.suptitle(f"{name}{threads}", fontsize=10)
    figure.savefig(path, format="png", dpi=110)


def accuracy(run: dict[str, Any]) -> tuple[str, float] | None:
    """Return the test set and top-1 on it: what was measured here, or else what the file tells.

    Of several test sets that the file names it is the one with the most clips.
    """
    if "measured_accuracy" in run:
        return "measured here", float(run["measured_accuracy"]["top1"])
    known = {name: v for name, v in run["accuracy"].items() if "top1" in v}
    if not known:
        return None
    name = max(known, key=lambda n: int(known[n].get("clips", 0)))
    return name, float(known[name]["top1"])


def _legend_below(axes: Axes) -> None:
    """Put the legend under the axes, where it covers nothing that is drawn."""
    _, labels = axes.get_legend_handles_labels()
    if labels:
        columns = max(1, 100 // (6 + max(map(len, labels))))  # about 100 letters fit in a line
        where = (0.5, -0.14)
        style = {"ncols": columns, "fontsize": 8, "frameon": False}
        axes.legend(loc="upper center", bbox_to_anchor=where, **style)


def log_axis(axes: Axes, name: str) -> None:
    """Make an axis logarithmic, with ticks as plain numbers and at least three of them.

    Args:
        axes: with everything drawn in it.
        name: "x" or "y".
    """
    from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullLocator

    axes.set(**{f"{name}scale": "log"})
    low, high = axes.get_xlim() if name == "x" else axes.get_ylim()
    powers = [LogLocator(subs=subs) for subs in ((1,), (1, 2, 5))]
    for locator in (*powers, MaxNLocator(6)):
        ticks = [tick for tick in locator.tick_values(low, high) if low <= tick <= high]
        if len(ticks) >= 3:
            break
    axis = axes.xaxis if name == "x" else axes.yaxis
    axis.set_major_locator(FixedLocator(ticks))
    axis.set_major_formatter(FuncFormatter(lambda tick, _: f"{tick:g}"))
    axis.set_minor_locator(NullLocator())


def _title(run: dict[str, Any]) -> str:
    return f"{Path(run['model']).stem} {run['precision']}, {run['engine']}"


def _latency(axes: Axes, runs: list[dict[str, Any]]) -> None:
    """Draw how many clips took at most so long; every sample is in it."""
    for run, colour in zip(runs, COLOURS * len(runs), strict=False):
        times = np.sort(run["inference"]["samples_ms"])
        axes.plot(times, np.arange(1, len(times) + 1) / len(times), color=colour, label=_title(run))
    log_axis(axes, "x")
    axes.set(xlabel="ms per clip", ylabel="part of the clips", ylim=(0, 1.02))
    axes.set_title("inference alone", fontsize=10)
    axes.grid(alpha=0.3)


def _stages(axes: Axes, runs: list[dict[str, Any]]) -> None:
    begin = np.zeros(len(runs))
    for stage, colour in zip(STAGES, COLOURS, strict=False):
        width = np.array([run["end_to_end"][stage]["p50_ms"] for run in runs])
        axes.barh(range(len(runs)), width, left=begin, color=colour, label=stage)
        begin += width
    axes.set_yticks(range(len(runs)), [_title(run).replace(", ", "\n") for run in runs], fontsize=7)
    axes.invert_yaxis()
    axes.set(xlabel="ms per window, p50")
    axes.set_title("from a file, one stage after the other", fontsize=10)


def _accuracy(axes: Axes, runs: list[dict[str, Any]]) -> None:
    sets = set()
    for run, colour in zip(runs, COLOURS * len(runs), strict=False):
        if (found := accuracy(run)) is None:
            continue
        name, top1 = found
        sets.add(name if "measured_accuracy" in run else f"as the file tells it, {name}")
        axes.plot(run["inference"]["p50_ms"], 100 * top1, "o", color=colour, label=_title(run))
    log_axis(axes, "x")
    axes.set(xlabel="ms per clip, p50", ylabel="top-1, %")
    axes.set_title(f"accuracy: {', '.join(sorted(sets))}", fontsize=10)
    axes.grid(alpha=0.3)
