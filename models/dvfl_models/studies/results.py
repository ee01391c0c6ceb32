"""Collect runs in a results file, and results files in the tables of RESULTS.md.

python -m dvfl_models.studies.results collect OUT.json RUN... --table order --row "8 frames"
python -m dvfl_models.studies.results table models/RESULTS.md
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from dvfl_models.studies.command import run_study
from dvfl_models.studies.result_files import accuracy_over_seeds, machine_and_date
from dvfl_runtime.arguments import Parser
from dvfl_runtime.errors import RecipeError
from dvfl_runtime.files import replacing, write_json

_MARKED = re.compile(r"(<!-- table: (\w+) -->\n)(.*?)(<!-- end -->)", re.DOTALL)
_COST = {
    "parameters_million": "parameters, million",
    "gmacs": "GMACs",
    "peak_memory_mb": "peak memory, MB",
    "median_ms": "median ms per clip",
}


def collect(runs: Sequence[Path], table: str, row: str) -> dict[str, Any]:
    """Return the content of a results file for runs of one recipe with different seeds.

    Args:
        runs: folders of complete runs with one test set each.
        table: of RESULTS.md that the result is for.
        row: name of the result there.

    Raises:
        RecipeError: if a run is not complete, or the runs differ in more than the seed.
    """
    reports, recipes = [], []
    for run in runs:
        try:
            reports.append(json.loads((run / "results.json").read_text(encoding="utf-8")))
            recipes.append(json.loads((run / "recipe.json").read_text(encoding="utf-8")))
        except (OSError, ValueError) as err:
            raise RecipeError(f"{run} holds no complete run: {err}") from err
    seeds = [recipe.pop("seed") for recipe in recipes]
    if any(recipe != recipes[0] for recipe in recipes):
        raise RecipeError(f"the runs {[str(run) for run in runs]} differ in more than the seed")
    if len(set(seeds)) < len(seeds):
        raise RecipeError(f"the runs have the same seed: {seeds}")
    tests = [list(report["tests"].items()) for report in reports]
    if any(len(test) != 1 for test in tests):
        raise RecipeError("each run must have exactly one test set")
    found = {seed: test[0][1]["top1"]["value"] for seed, test in zip(seeds, tests, strict=True)}
    name, first = tests[0][0]
    return {
        "table": table,
        "row": row,
        "recipe": recipes[0]["name"],
        "recipe_values": recipes[0],
        "data": name,
        "protocol": "a fixed test set, mean over seeds",
        "steps": reports[0]["steps"],
        "seeds": seeds,
        **accuracy_over_seeds(found, round(mean(found.values()) * first["clips"]), first["clips"]),
        "leaks": reports[0]["leaks"],
        **machine_and_date(),
    }


def fill_tables(text: str, results: Mapping[str, Mapping[str, Any]]) -> str:
    """Return a text whose places `<!-- table: NAME -->` ... `<!-- end -->` are filled.

    Args:
        text: of RESULTS.md.
        results: contents of results files, by file name.
    """

    def filled(match: re.Match[str]) -> str:
        mine = {name: r for name, r in sorted(results.items()) if r.get("table") == match[2]}
        return f"{match[1]}{_table(mine)}{match[4]}"

    return _MARKED.sub(filled, text)


def _table(results: Mapping[str, Mapping[str, Any]]) -> str:
    if not results:
        return "Not yet run.\n"
    if all("rows" in result for result in results.values()):
        return "".join(_grid_table(name, result) for name, result in results.items())
    costs = [(name, result) for name, result in results.items() if "variants" in result]
    if costs:
        return "".join(_cost_table(name, result) for name, result in costs)
    if all("difference" in result for result in results.values()):
        return _difference_table(results)
    lines = ["| | top-1 | 95 % interval | per seed | clips | file |", "|---|---|---|---|---|---|"]
    for name, result in results.items():
        low, high = result["accuracy_ci95"]
        seeds = ", ".join(f"{value:.1%}" for value in result["accuracy_per_seed"].values())
        lines.append(
            f"| {result['row']} | {result['accuracy_mean']:.1%} | {low:.1%} to {high:.1%} "
            f"| {seeds} | {result['clips']} | [{name}](results/{name}) |"
        )
    return "\n".join(lines) + "\n"


def _difference_table(results: Mapping[str, Mapping[str, Any]]) -> str:
    lines = ["| | points | 95 % interval | clips better | worse | of | groups | file |",
             "|---|---|---|---|---|---|---|---|"]  # fmt: skip
    for name, result in results.items():
        low, high = (f"{100 * value:+.1f}" for value in result["difference_ci95"])
        lines.append(
            f"| {result['row']} | {100 * result['difference']:+.1f} | {low} to {high} "
            f"| {result['better']} | {result['worse']} | {result['clips']} | {result['groups']} "
            f"| [{name}](results/{name}) |"
        )
    return "\n".join(lines) + "\n"


def _grid_table(name: str, result: Mapping[str, Any]) -> str:
    against, seeds = result["against"], len(result["seeds"])
    lines = [f"| | top-1 | points over {against} | 95 % interval | clips better | worse |",
             "|---|---|---|---|---|---|"]  # fmt: skip
    for row in result["rows"]:
        low, high = (f"{100 * value:+.1f}" for value in row["difference_ci95"])
        changes = ", ".join(f"{key} {value}" for key, value in row["changes"].items())
        arm = f"{row['arm']} ({changes})" if changes else row["arm"]
        lines.append(
            f"| {arm} | {row['accuracy']:.1%} | {100 * row['difference']:+.1f} | {low} to {high} "
            f"| {row['better']} | {row['worse']} |"
        )
    first = result["rows"][0]
    lines += ["", f"[{name}](results/{name}): {first['clips']} clips of {first['groups']} groups, "
              f"{seeds} {'seed' if seeds == 1 else 'seeds'}; {result['machine']}."]  # fmt: skip
    return "\n".join(lines) + "\n"


def _cost_table(name: str, result: Mapping[str, Any]) -> str:
    variants = list(result["variants"])
    head = f"| | {' | '.join(variants)} | {variants[0]} / {variants[-1]} |"
    lines = [head, "|---" * (len(variants) + 2) + "|"]
    for key, title in _COST.items():
        values = " | ".join(f"{result['variants'][variant][key]:g}" for variant in variants)
        lines.append(f"| {title} | {values} | {result['ratios'][key]:.1f} |")
    lines += ["", f"[{name}](results/{name}); {result['machine']}."]
    return "\n".join(lines) + "\n"


def read_results(folder: Path) -> dict[str, dict[str, Any]]:
    """Return the contents of all results files of a folder, by file name."""
    return {
        path.name: json.loads(path.read_text(encoding="utf-8")) for path in folder.glob("*.json")
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return the exit status."""
    parser = Parser(
        prog="python -m dvfl_models.studies.results",
        description="Results of runs, and their tables.",
    )
    commands = parser.add_subparsers(required=True, dest="command")
    joined = commands.add_parser("collect", help="runs that differ in the seed into one file")
    joined.add_argument("out", type=Path)
    joined.add_argument("runs", type=Path, nargs="+")
    joined.add_argument("--table", required=True)
    joined.add_argument("--row", required=True)
    tables = commands.add_parser("table", help="fill the tables of a Markdown file")
    tables.add_argument("file", type=Path)
    args = parser.parse_args(argv)

    def study() -> None:
        if args.command == "collect":
            write_json(args.out, collect(args.runs, args.table, args.row))
            return
        text = args.file.read_text(encoding="utf-8")
        filled = fill_tables(text, read_results(args.file.parent / "results"))
        with replacing(args.file) as part:
            part.write_text(filled, encoding="utf-8")

    return run_study("results", study)


if __name__ == "__main__":
    sys.exit(main())
