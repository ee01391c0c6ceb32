"""Draw what `few_labels` has found with several numbers of labelled clips: alone, teacher, student.

python -m dvfl_models.studies.label_curve models/results/rendered/curve.png \
    models/results/rendered/*.json
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dvfl_models.studies.command import run_study
from dvfl_runtime.arguments import Parser
from dvfl_runtime.errors import RecipeError
from dvfl_runtime.files import replacing

NAMES = {"alone": "alone", "teacher": "the teacher"}


def curves(results: Sequence[Mapping[str, Any]]) -> dict[str, list[tuple[int, Mapping[str, Any]]]]:
    """Return for each arm its points, by labelled clips of a class: the entries of the summary.

    Raises:
        RecipeError: if there is no result.
    """
    out: dict[str, list[tuple[int, Mapping[str, Any]]]] = {}
    for result in sorted(results, key=lambda one: int(one["plan"]["labels"])):
        entries = result["summary"]["given"] or result["summary"]["folds"]
        for arm, entry in entries.items():
            out.setdefault(arm, []).append((int(result["plan"]["labels"]), entry))
    if not out:
        raise RecipeError("there is no result to draw")
    return dict(sorted(out.items(), key=lambda item: [*NAMES, item[0]].index(item[0])))


def save_png(results: Sequence[Mapping[str, Any]], path: Path, title: str) -> None:
    """Draw accuracies and differences, with their intervals, over the labels of a class.

    Raises:
        RecipeError: if there is no result.
        OutputError: if the file cannot be written.
    """
    from matplotlib.figure import Figure

    found = curves(results)
    figure = Figure(figsize=(8, 3.4), dpi=100, layout="constrained")
    levels, gains = figure.subplots(1, 2)
    for number, (arm, points) in enumerate(found.items()):
        name, colour = NAMES.get(arm, f"taught, {arm}"), f"C{number}"
        places = [labels * 1.03 ** (number - 1) for labels, _ in points]
        for axes, key, kept in (
            (levels, "accuracy", [entry for _, entry in points]),
            (gains, "difference", [entry.get("over_alone") for _, entry in points]),
        ):
            shown = [(x, entry) for x, entry in zip(places, kept, strict=True) if entry]
            middles = [100 * entry[key] for _, entry in shown]
            ends = [[100 * end for end in entry[f"{key}_ci95"]] for _, entry in shown]
            bars = [
                [middle - low for middle, (low, _) in zip(middles, ends, strict=True)],
                [high - middle for middle, (_, high) in zip(middles, ends, strict=True)],
            ]
            if shown:
                axes.errorbar(
                    [x for x, _ in shown], middles, bars, color=colour, marker="o", label=name
                )
    ticks = sorted({labels for points in found.values() for labels, _ in points})
    for axes, what in ((levels, "top-1, %"), (gains, "points over alone")):
        axes.set_xscale("log")
        axes.set_xticks(ticks, [str(tick) for tick in ticks])
        axes.minorticks_off()
        axes.set(xlabel="labelled clips of each class", ylabel=what)
    gains.axhline(0, color="black", linewidth=0.8)
    levels.legend()
    figure.suptitle(title)
    with replacing(path) as part:
        figure.savefig(part, format="png")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return the exit status."""
    parser = Parser(
        prog="python -m dvfl_models.studies.label_curve",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("out", type=Path, help="PNG file")
    parser.add_argument("results", type=Path, nargs="+", help="of few_labels, by their labels")
    parser.add_argument("--title", default="")
    args = parser.parse_args(argv)

    def study() -> None:
        read = [json.loads(path.read_text(encoding="utf-8")) for path in args.results]
        save_png(read, args.out, args.title)

    return run_study("label_curve", study)


if __name__ == "__main__":
    sys.exit(main())
