"""Put together the robustness sheet of a cross-validation.

Each network of `python -m dvfl_models.studies.crossval` sees the group that its training left out:

    python -m dvfl_export.robustness runs/actions5_persons --json FILE --plot FILE.png
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from dvfl_export.evaluation import open_candidate
from dvfl_export.robustness.sheet import measure, report, save_png, table
from dvfl_models.data.opening import open_clips
from dvfl_models.data.video_clips import VideoClips
from dvfl_models.recipe.recipe import recorded_recipe
from dvfl_models.studies.command import run_study
from dvfl_models.studies.result_files import machine_and_date
from dvfl_models.training.confusion import Confusion
from dvfl_runtime.arguments import Parser
from dvfl_runtime.clips.evaluation import Views
from dvfl_runtime.errors import RecipeError
from dvfl_runtime.files import check_places, write_json

log = logging.getLogger(__name__)


def sheet_of(folder: Path) -> tuple[str, dict[str, Confusion]]:
    """Return the name of the test set, and the confusions of all folds added up.

    Raises:
        RecipeError: if the folder holds no folds, or a fold has no test set of videos.
    """
    total: dict[str, Confusion] = {}
    name = ""
    for weights in sorted(folder.glob("*/final.pth")):
        recipe = recorded_recipe(weights.parent / "recipe.json")
        with open_candidate(weights) as candidate:
            for test in recipe.test:
                clips = open_clips(test, recipe)
                if not isinstance(clips, VideoClips):
                    continue
                name = clips.name
                for key, found in measure(candidate, clips, Views()).items():
                    total[key] = total[key] + found if key in total else found
        log.info("%s", weights.parent.name)
    if not total:
        raise RecipeError(
            f"{folder} holds no fold with a final.pth and a test set of videos; give the folder "
            "that dvfl_models.studies.crossval has written"
        )
    return name, total


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return the exit status."""
    parser = Parser(prog="python -m dvfl_export.robustness", description=__doc__)
    parser.add_argument("folder", type=Path, help="of the cross-validation")
    parser.add_argument("--json", type=Path, help="write the rows")
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="draw them")
    args = parser.parse_args(argv)
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")

    def study() -> None:
        check_places([("--json", args.json), ("--plot", args.plot)])
        name, found = sheet_of(args.folder)
        log.info("%s", table(name, found))
        if args.json:
            about = {"data": name, "protocol": "each fold on what its training left out"}
            write_json(args.json, {**about, "rows": report(found), **machine_and_date()})
        if args.plot:
            save_png(found, args.plot, f"{name}, each fold on what its training left out")

    return run_study("robustness", study)


if __name__ == "__main__":
    sys.exit(main())
