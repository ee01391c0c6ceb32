"""A result of `dvfl-bench` as tables for a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from dvfl_bench.device.power import SCOPE
from dvfl_bench.device.stages import STAGES

Row = dict[str, Any]


def tables(result: dict[str, Any]) -> RenderableType:
    """Return the machine, inference, the whole way from a file, and streams."""
    runs: list[Row] = result["runs"]
    parts: list[RenderableType] = [_machine(result), _inference(result, runs), _start(runs)]
    if runs and "stream" in runs[0]:
        parts += [_stages(result, runs), _streams(runs)]
    if result["test_set"]:
        parts.append(_accuracy(result, runs))
    if any(run["energy"] for run in runs):
        parts.append(_energy(result, runs))
    slower = [run["model"] for run in runs if run["slowed_down"]]
    if slower:
        parts.append(
            Text(f"got slower while it ran (heat, or another program): {', '.join(slower)}")
        )
    return Group(*parts)


def comparison(rows: Sequence[Row]) -> Table:
    """Return the ratios to an older result."""
    columns = ("model", "old p50 ms", "new p50 ms", "new / old", "")
    table = _table("against the baseline", columns)
    for row in rows:
        verdict = "slower" if row["regressed"] else ""
        cells = (f"{row['old_ms']:.2f}", f"{row['new_ms']:.2f}", f"{row['ratio']:.3f}", verdict)
        table.add_row(_names(row), *cells)
    return table


def _table(title: str, columns: Sequence[str]) -> Table:
    """Return an empty table, its first column aligned to the left, all others to the right."""
    table = Table(title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD)
    table.caption_justify, table.padding = "left", (0, 1, 0, 0)
    for index, name in enumerate(columns):
        table.add_column(name, justify="right" if index else "left", no_wrap=True)
    return table


def _number(value: float | None, digits: int = 1) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _names(run: Row) -> str:
    return f"{run['model'].removesuffix('.onnx')} {run['precision']} {run['engine']}"


def _machine(result: dict[str, Any]) -> Text:
    machine = result["machine"]
    lines = [
        f"{machine['board'] or machine['cpu']}, {machine['usable_cpus']} of {machine['cores']} "
        f"cores, {machine['threads']} threads, {' '.join(machine['flags'])}",
        f"{machine['system']}, load {machine['load_1min']}; float32 matrix product "
        f"{result['sgemm']['gflops']} GFLOP/s",
    ]
    jetson = machine["jetson"]
    if jetson is None:
        lines.append("not a Jetson")
    else:
        mode = (jetson["power_mode"] or {}).get("name", "unknown")
        held = {True: "held by jetson_clocks", False: "free", None: "unknown"}
        lines.append(
            f"JetPack {jetson['jetpack']} (L4T {jetson['l4t']}), power mode {mode}, "
            f"clocks {held[jetson['clocks_held']]}"
        )
    energy = result["energy"]
    meter = energy["meter"]
    lines.append(f"power by {meter} ({SCOPE})" if meter else energy["why"])
    return Text("\n".join(lines))


def _inference(result: dict[str, Any], runs: Sequence[Row]) -> Table:
    columns = ("model", "p50 ms", "p90", "p99", "max", "n", "clips/s", "GFLOP/s",
               "x floor", "drift")  # fmt: skip
    table = _table("inference alone, batch 1, engines in turn", columns)
    for run in runs:
        found = run["inference"]
        times = [_number(found[f"{p}_ms"], 2) for p in ("p50", "p90", "p99", "max")]
        rates = (_number(run["clips_per_s"]), _number(run["gflops"]))
        last = (_number(run["over_floor"], 2), _number(run["drift"], 2))
        table.add_row(_names(run), *times, str(found["n"]), *rates, *last)
    table.caption = (
        "x floor: p50 over the time that the model's multiply-adds take at the rate of "
        f"numpy's matrix product; warm-up {', '.join(_warm_up(run) for run in runs)}"
    )
    return table


def _warm_up(run: Row) -> str:
    warm = run["warm_up"]
    return f"{warm['clips']} clips" + ("" if warm["stable"] else " (not stable)")


def _start(runs: Sequence[Row]) -> Table:
    columns = ("model", "import ms", "open ms", "first clip ms", "peak RSS MB",
               "device MB", "file MB", "GMACs")  # fmt: skip
    table = _table("a new process, and size", columns)
    for run in runs:
        cold = run["cold_start"]
        values = [cold[k] for k in ("import_ms", "open_ms", "first_clip_ms", "peak_rss_mb")]
        cells = [_number(value, 0) for value in [*values, cold["device_memory_mb"]]]
        table.add_row(_names(run), *cells, _number(run["size_mb"], 1), _number(run["gmacs"], 2))
    return table


def _stages(result: dict[str, Any], runs: Sequence[Row]) -> Table:
    names = (*STAGES, "total")
    columns = ("model", *(f"{name} ms" for name in names), "total p99", "windows")
    title = f"one window of a {result['video']} file, stages one after the other, p50"
    table = _table(title, columns)
    for run in runs:
        stages = run["end_to_end"]
        cells = [_number(stages[name]["p50_ms"], 2) for name in names]
        total = stages["total"]
        table.add_row(_names(run), *cells, _number(total["p99_ms"], 2), str(total["n"]))
    return table


def _streams(runs: Sequence[Row]) -> Table:
    columns = ("model", "windows/s", "video s/s", "CPU", "late p50 ms", "late p99",
               "CPU, one", "cameras")  # fmt: skip
    table = _table("streams: a file as fast as it goes; cameras of 30 fps", columns)
    for run in runs:
        stream, one = run["stream"], run["live"]["one_camera"]
        cells = (
            *(_number(stream["windows_per_s"]), _number(stream["video_s_per_s"])),
            *(f"{stream['cpu_share']:.0%}", _number(one["p50_ms"], 0), _number(one["p99_ms"], 0)),
            *(f"{one['cpu_share']:.0%}", str(run["live"]["most_cameras"])),
        )
        table.add_row(_names(run), *cells)
    table.caption = "late: from the newest picture of a window to its result"
    return table


def _accuracy(result: dict[str, Any], runs: Sequence[Row]) -> Table:
    columns = ("model", "right", "95 % interval", "clips", "p50 ms")
    table = _table(f"accuracy on {result['test_set']}, here, one clip of each video", columns)
    for run in runs:
        right = run["measured_accuracy"]
        interval = " to ".join(f"{end:.1%}" for end in right["ci95"])
        p50_ms = _number(run["inference"]["p50_ms"], 2)
        table.add_row(_names(run), f"{right['top1']:.1%}", interval, str(right["clips"]), p50_ms)
    if unreadable := runs[0]["measured_accuracy"]["unreadable"]:
        table.caption = f"{unreadable} videos could not be read"
    return table


def _energy(result: dict[str, Any], runs: Sequence[Row]) -> Table:
    columns = ("model", "power W", "above idle W", "J per clip", "clips/s per W")
    table = _table(f"energy ({SCOPE}), idle {result['energy']['idle_w']} W", columns)
    for run in runs:
        energy = run["energy"] or {}
        names = ("power_w", "above_idle_w", "joules_per_clip", "clips_per_s_per_w")
        table.add_row(_names(run), *(_number(energy.get(name), 3) for name in names))
    table.caption = f"{SCOPE}: {result['energy']['method']}"
    return table
