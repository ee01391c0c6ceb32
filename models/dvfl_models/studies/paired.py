"""The difference of two networks' accuracies on the same clips, with an interval.

Both are cross-validated by the same folds (`dvfl_models.studies.crossval`). The interval comes from
10,000 bootstrap samples of whole groups (sequences, scenes), because clips of one group are not
independent.

python -m dvfl_models.studies.paired runs/uti_kd runs/uti_teacher_folds \
    --table ut_interaction_differences --row "KD" --json models/results/uti_difference_kd.json
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from dvfl_models.data.clips import to_batch
from dvfl_models.data.video_clips import VideoClips
from dvfl_models.network.checkpoint import model_of, read_checkpoint
from dvfl_models.recipe.labels import labels_of, spec_of
from dvfl_models.recipe.recipe import Recipe, recipe_from
from dvfl_models.recipe.tables import VideosTable
from dvfl_models.studies.command import add_row_options, run_study
from dvfl_models.studies.result_files import machine_and_date
from dvfl_runtime.arguments import Parser
from dvfl_runtime.errors import RecipeError
from dvfl_runtime.files import write_json

log = logging.getLogger(__name__)

SAMPLES = 10_000


class Outcome(NamedTuple):
    """The outcome of one clip.

    Attributes:
        group: of clips that are not independent of this one.
        right: whether the predicted class is the true one.
    """

    group: str
    right: bool


Outcomes = dict[str, Outcome]  # by seed and path of the clip


@torch.inference_mode()
def outcomes_of_run(run: Path) -> Outcomes:
    """Run the last weights of a finished run on each of its test clips.

    Raises:
        RecipeError: if the folder holds no complete run, or one without a test set of videos.
        CheckpointError: if the weights do not fit.
    """
    try:
        values = json.loads((run / "recipe.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as err:
        raise RecipeError(f"{run} holds no run: {err}") from err
    recipe: Recipe = recipe_from(values, str(run))
    table = recipe.test[0]
    if not isinstance(table, VideosTable):
        raise RecipeError(f"the first test set of {run} is not of kind 'videos'")
    checkpoint = read_checkpoint(run / "final.pth")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model, spec = model_of(checkpoint).to(device), spec_of(checkpoint)
    clips = VideoClips(table, labels_of(checkpoint), spec)
    found: Outcomes = {}
    for index, entry in enumerate(clips.entries):
        clip, class_id = clips[index]
        predicted = int(model(to_batch([clip], spec).to(device)).argmax())
        outcome = Outcome(entry.group or entry.path, predicted == class_id)
        found[f"seed {recipe.seed}: {entry.path}"] = outcome
    return found


def difference(one: Outcomes, other: Outcomes, seed: int = 0) -> dict[str, Any]:
    """Return the accuracy of `one` minus that of `other`, with a 95 % interval over groups.

    Raises:
        RecipeError: if they are not of the same clips.
    """
    if one.keys() != other.keys() or not one:
        raise RecipeError("the two were not tested on the same clips; run both with the same folds")
    pairs = [(group, right, other[clip][1]) for clip, (group, right) in one.items()]
    groups = sorted({group for group, _, _ in pairs})
    gains = np.zeros((len(groups), 2))  # per group: sum of the clips' differences, number of clips
    for group, right, other_right in pairs:
        gains[groups.index(group)] += (int(right) - int(other_right), 1)
    rng = np.random.default_rng(seed)
    # (groups, 2) -> (SAMPLES, groups, 2): each sample draws groups with replacement
    picked: NDArray[np.float64] = gains[rng.integers(len(groups), size=(SAMPLES, len(groups)))]
    sums = picked.sum(1)
    low, high = np.quantile(sums[:, 0] / sums[:, 1], (0.025, 0.975))
    return {
        "difference": round(float(gains[:, 0].sum() / gains[:, 1].sum()), 4),
        "difference_ci95": [round(float(low), 4), round(float(high), 4)],
        "better": sum(right and not other_right for _, right, other_right in pairs),
        "worse": sum(other_right and not right for _, right, other_right in pairs),
        "clips": len(pairs),
        "groups": len(groups),
    }


def compare(one: Path, other: Path) -> dict[str, Any]:
    """Compare two folders of `dvfl_models.studies.crossval`.

    Raises:
        RecipeError: if they hold no runs of the same folds.
    """

    def outcomes(folder: Path) -> Outcomes:
        runs = sorted(path.parent for path in folder.glob("*/results.json"))
        return {clip: outcome for run in runs for clip, outcome in outcomes_of_run(run).items()}

    return difference(outcomes(one), outcomes(other))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return the exit status."""
    parser = Parser(
        prog="python -m dvfl_models.studies.paired",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("one", type=Path, help="folder of a cross-validation")
    parser.add_argument("other", type=Path, help="the one to compare with")
    add_row_options(parser)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args(argv)

    def study() -> None:
        found = compare(args.one, args.other)
        found |= {"one": args.one.name, "other": args.other.name, **machine_and_date()}
        found |= {"table": args.table, "row": args.row}
        if args.json is not None:
            write_json(args.json, found)
        log.info(
            "%+.1f points, %+.1f to %+.1f (95 %%), %d clips better and %d worse of %d",
            *(100 * value for value in (found["difference"], *found["difference_ci95"])),
            *(found[key] for key in ("better", "worse", "clips")),
        )

    return run_study("paired", study)


if __name__ == "__main__":
    sys.exit(main())
