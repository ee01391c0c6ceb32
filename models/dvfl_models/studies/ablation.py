"""What each part of a distillation is worth: a student alone, and with one part changed at a time.

Arms of the grid, around the recipe's own values:
  alone         without the teacher
  recipe        as the recipe says
  kl, kl_z ...  another loss in the place of the recipe's, with a usual alpha and temperature
  temperature   that logits are divided by
  alpha         weight of the teacher's logits against that of the labels
  beta          weight of the teacher's modulators
Each arm is trained with each seed. A row has its accuracy and its difference to the arm `alone` on
the same clips, with a 95 % interval over groups (sources, scenes): arms whose intervals hold zero
are not told apart from it. Look at many arms, and one in twenty excludes zero by chance: confirm
the best one with seeds or folds that have chosen nothing.

Rows are in ablation.json as soon as they are known, and drawn in ablation.png. Ended by whatever,
the same command goes on where it was.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from dvfl_models.data.loader import default_workers
from dvfl_models.recipe.recipe import Recipe, read_recipe
from dvfl_models.recipe.tables import DistillTable, VideosTable
from dvfl_models.studies.command import run_study
from dvfl_models.studies.crossval import cross_validate
from dvfl_models.studies.folds import Folds
from dvfl_models.studies.paired import Outcome, Outcomes, difference, outcomes_of_run
from dvfl_models.studies.result_files import machine_and_date
from dvfl_models.training.launch import TrainOptions
from dvfl_models.training.trainer import Trainer
from dvfl_runtime.arguments import SIGNALLED, Parser, natural
from dvfl_runtime.errors import RecipeError
from dvfl_runtime.files import replacing, write_json

log = logging.getLogger(__name__)

NAME = "ablation"
EPILOG = """\
examples:
  python -m dvfl_models.studies.ablation ucf101_student --list
        show the arms and their settings, and train nothing
  python -m dvfl_models.studies.ablation ucf101_student --set model.imagenet=focalnet_tiny_srf.pth
        all of them, in runs/ucf101_student_ablation; the teacher has to be there
  python -m dvfl_models.studies.ablation ucf101_student --parts loss --seeds 0 1 2
        the losses alone, with three seeds: an interval that includes the luck of the start
  python -m dvfl_models.studies.ablation uti_student --set-name ut_interaction --group sequence
        every arm by leave-one-sequence-out, for sets that are too small for a test set;
        --set distill.teacher=runs/uti_teacher_sequences/{fold}/final.pth has a teacher for each
  --set distill.cache_mb=2000
        keep the teacher's logits of clips that arms with the same seed share
"""
# loss -> alpha and temperature: kl as in DVFL-Net's script, kl_z and dist as in their papers, where
# the teacher's loss weighs nine times as much as that of the labels, and as much
LOSSES = {"kl": (0.2, 10.0), "kl_z": (0.9, 2.0), "dist": (0.5, 1.0)}
VALUES: Mapping[str, Sequence[float]] = {
    "temperature": (1, 2, 4, 10, 20),
    "alpha": (0.1, 0.2, 0.3, 0.5, 0.9),
    "beta": (0, 0.3, 1, 3),
}
PARTS = ("loss", *VALUES)


@dataclasses.dataclass(frozen=True)
class Arm:
    """A row of the grid.

    Attributes:
        name: of the row, and of its folder.
        changes: of the recipe's `distill` table.
    """

    name: str
    changes: Mapping[str, Any]

    def recipe(self, recipe: Recipe, seed: int) -> Recipe:
        """Return the recipe of a run; it is tested at its end alone."""
        assert recipe.distill is not None
        changed = {**recipe.distill.model_dump(), **self.changes}
        if changed["beta"]:
            changed["cache_mb"] = 0  # which holds logits, not modulators
        distill = DistillTable.model_validate(changed)
        changes = {"distill": distill, "seed": seed, "test_every": 10**9}
        return recipe.model_copy(update=changes)


def grid(distill: DistillTable, parts: Sequence[str] = PARTS) -> list[Arm]:
    """Return the arms around a recipe's values: the student alone, the recipe, and the parts.

    Args:
        distill: table of the recipe.
        parts: of PARTS, which are changed one at a time.
    """
    arms = [Arm("alone", {"alpha": 0, "beta": 0}), Arm("recipe", {})]
    for part in parts:
        if part == "loss":
            arms += [
                Arm(loss, {"loss": loss, "alpha": alpha, "temperature": temperature})
                for loss, (alpha, temperature) in LOSSES.items()
                if loss != distill.loss
            ]
        else:
            own = getattr(distill, part)
            arms += [Arm(f"{part}_{v:g}", {part: v}) for v in VALUES[part] if v != own]
    return arms


@dataclasses.dataclass(frozen=True)
class Study:
    """A grid and how its arms are trained.

    Attributes:
        recipe: of the student.
        folder: of the results, and of a folder for each arm with its runs.
        seeds: of the runs of an arm.
        folds: groups that are left out in turn; None trains on the recipe's own split.
        file: gets the rows; by default ablation.json in the folder.
        table: of models/RESULTS.md that the rows are for.
    """

    recipe: Recipe
    folder: Path
    seeds: Sequence[int] = (0,)
    folds: Folds | None = None
    file: Path | None = None
    table: str = ""

    def run(self, arms: Sequence[Arm], *, workers: int | None = None) -> list[dict[str, Any]]:
        """Train what is not trained yet, and return the rows; each is written as it comes.

        Args:
            arms: the first is the one that the others are compared with.
            workers: processes that read clips; by default as many as there are cores.

        Raises:
            DvflError: if the folder holds another grid, or as `Trainer` does.
        """
        self._check_folder()
        readers = default_workers() if workers is None else workers
        rows: list[dict[str, Any]] = []
        alone: Outcomes = {}
        for arm in arms:
            found = self._outcomes(arm, readers)
            alone = alone or found
            rows.append(_row(arm, found, alone))
            log.info("%s", in_words(rows[-1]))
            write_json(self._file, {**self._about(), "rows": rows, **machine_and_date()})
            save_png(rows, self.folder / "ablation.png", self.recipe.name)
        return rows

    @property
    def _file(self) -> Path:
        return self.file or self.folder / "ablation.json"

    def _about(self) -> dict[str, Any]:
        """Return what all rows have in common, ready for JSON."""
        folds = dataclasses.asdict(self.folds) if self.folds else None
        values = json.loads(self.recipe.model_dump_json())
        return {"recipe": self.recipe.name, "recipe_values": values, "folds": folds,
                "seeds": list(self.seeds), "against": "alone", "table": self.table}  # fmt: skip

    def _check_folder(self) -> None:
        if not self._file.exists():
            return
        before = json.loads(self._file.read_text(encoding="utf-8"))
        mine = self._about()
        for key in ("recipe_values", "folds"):
            if before.get(key) != mine[key]:
                raise RecipeError(
                    f"{self.folder} holds a grid of other settings ({key} differ); choose another "
                    f"--out folder"
                )

    def _outcomes(self, arm: Arm, workers: int) -> Outcomes:
        """Train an arm and return the outcomes of its test clips, of all seeds."""
        where, found = self.folder / arm.name, {}
        if self.folds is None:
            for seed in self.seeds:
                self._train(arm, seed, where / f"seed{seed}", workers)
            runs = [where / f"seed{seed}" for seed in self.seeds]
        else:
            recipe = arm.recipe(self.recipe, 0)
            cross_validate(recipe, self.folds, self.seeds, where, workers=workers)
            groups = self.folds.groups(self.recipe)
            runs = [where / self.folds.folder(g, seed) for seed in self.seeds for g in groups]
        for run in runs:
            found.update(_kept_outcomes(run))
        return found

    def _train(self, arm: Arm, seed: int, run: Path, workers: int) -> None:
        if (run / "final.pth").exists():
            return
        log.info("%s, seed %d: training in %s", arm.name, seed, run)
        options = TrainOptions(resume=(run / "last.pth").exists())
        trainer = Trainer(arm.recipe(self.recipe, seed), run, options)
        trainer.run(workers=workers, progress=sys.stderr.isatty())


def _kept_outcomes(run: Path) -> Outcomes:
    """Return the outcomes of a finished run; they are computed once."""
    file = run / "outcomes.json"
    if file.exists():
        kept = json.loads(file.read_text(encoding="utf-8"))
        return {clip: Outcome(*outcome) for clip, outcome in kept.items()}
    found = outcomes_of_run(run)
    write_json(file, found)
    return found


def _row(arm: Arm, found: Outcomes, alone: Outcomes) -> dict[str, Any]:
    right = sum(outcome.right for outcome in found.values())
    row = {"arm": arm.name, "changes": dict(arm.changes), "accuracy": round(right / len(found), 4)}
    return {**row, **difference(found, alone)}


def in_words(row: Mapping[str, Any]) -> str:
    """Return a row as a line of the printed table."""
    points, low, high = (100 * x for x in (row["difference"], *row["difference_ci95"]))
    line = f"{row['arm']:16} {row['accuracy']:6.1%} of {row['clips']} clips"
    if row["arm"] == "alone":
        return line
    clear = "" if low <= 0 <= high else "  *"
    return f"{line}  {points:+5.1f} points ({low:+.1f} to {high:+.1f}, 95 %){clear}"


def save_png(rows: Sequence[Mapping[str, Any]], path: Path, title: str) -> None:
    """Draw the differences to the student alone with their intervals.

    Raises:
        OutputError: if the file cannot be written.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 1.2 + 0.32 * len(rows)), dpi=110, layout="constrained")
    axes = figure.subplots()
    for place, row in enumerate(rows):
        low, high = (100 * x for x in row["difference_ci95"])
        clear = not low <= 0 <= high
        axes.plot([low, high], [place, place], color="tab:blue" if clear else "grey")
        axes.plot(100 * row["difference"], place, "o", color="tab:blue" if clear else "grey")
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_yticks(range(len(rows)), [f"{r['arm']}  {r['accuracy']:.1%}" for r in rows])
    axes.invert_yaxis()
    axes.set_xlabel("points better than the student alone, 95 % interval over groups")
    axes.set_title(title, fontsize=10)
    with replacing(path) as part:
        figure.savefig(part)


def _parser() -> Parser:
    out = Parser(
        prog="python -m dvfl_models.studies.ablation",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    out.add_argument("recipe", help="of a student: with a distill table")
    out.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="change a recipe's value"
    )
    out.add_argument(
        "--parts", nargs="+", choices=PARTS, default=PARTS, help="what to change (default: all)"
    )
    out.add_argument("--seeds", type=natural, nargs="+", default=[0], help="of each arm's runs")
    out.add_argument("--set-name", help="with --group: the `videos` table that is divided")
    out.add_argument("--group", help="leave out one value of this column at a time")
    out.add_argument("--folds", type=natural, default=0, help="parts to deal the groups out to")
    out.add_argument("--out", type=Path, help="default: runs/<recipe's name>_ablation")
    out.add_argument("--json", type=Path, help="file of the rows (default: in that folder)")
    out.add_argument("--table", default="", help="of models/RESULTS.md that the rows are for")
    out.add_argument("--workers", type=natural, help="processes that read clips")
    out.add_argument("--list", action="store_true", help="print the arms, and train nothing")
    return out


def _study(args: argparse.Namespace) -> Callable[[], None]:
    def study() -> None:
        recipe = read_recipe(args.recipe, args.set)
        if recipe.distill is None or not recipe.distill.teaches:
            raise RecipeError(f"recipe {recipe.name} has no teacher; give that of a student")
        if bool(args.set_name) != bool(args.group):
            raise RecipeError("--set-name and --group go together")
        arms = grid(recipe.distill, args.parts)
        if args.list:
            for arm in arms:
                changes = " ".join(f"distill.{key}={value}" for key, value in arm.changes.items())
                log.info("%-16s %s", arm.name, changes)
            log.info(
                "%d arms, seeds %s; the teacher is %s",
                len(arms),
                args.seeds,
                recipe.distill.teacher,
            )
            return
        folds = Folds(args.set_name, args.group, args.folds) if args.group else None
        if folds is None and not (recipe.test and isinstance(recipe.test[0], VideosTable)):
            raise RecipeError(f"recipe {recipe.name} has no test set of videos to compare arms on")
        folder = args.out or Path("runs") / f"{recipe.name}_ablation"
        grid_of_arms = Study(recipe, folder, args.seeds, folds, args.json, args.table)
        for row in grid_of_arms.run(arms, workers=args.workers):  # once more, all together
            log.info("%s", in_words(row))
        log.info("wrote %s and %s", args.json or folder / "ablation.json", folder / "ablation.png")

    return study


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return the exit status."""
    args = _parser().parse_args(argv)
    try:
        return run_study(NAME, _study(args))
    except KeyboardInterrupt as err:
        log.error("stopped; run it again to go on: what is done is kept")
        return SIGNALLED + getattr(err, "number", signal.SIGINT)


if __name__ == "__main__":
    sys.exit(main())
