"""Whether one network beats another on the same clips, with an interval.

Both are cross-validated by the same folds (`dvfl_models.studies.crossval`). The difference of their
accuracies is taken over the same clips, and its interval from 10,000 bootstrap samples of whole
groups (sequences, scenes), because clips of one group are not independent.

python -m dvfl_models.studies.paired runs/uti_kd runs/uti_teacher_folds \
    --table ut_interaction_differences --row "KD" --json models/results/uti_difference_kd.json
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from dvfl_models.data.video_clips import VideoClips
from dvfl_models.network.checkpoint import model_of, read_checkpoint
from dvfl_models.recipe.labels import labels_of, spec_of
from dvfl_models.recipe.parts import VideosPart
from dvfl_models.recipe.recipe import Recipe, recipe_from
from dvfl_models.studies.result_files import machine
from dvfl_models.training.evaluate import to_batch
from dvfl_runtime.errors import DvflError, RecipeError
from dvfl_runtime.files import replacing

log = logging.getLogger(__name__)

SAMPLES = 10_000

Right = dict[str, tuple[str, bool]]  # clip of a fold -> its group, and whether it was right


@torch.inference_mode()
def right_clips(run: Path) -> Right:
    """Says of each test clip of a finished run whether its last weights are right about it.

    Raises:
        RecipeError: if the folder holds no complete run, or one without a test set of videos.
        CheckpointError: if the weights do not fit.
    """
    try:
        values = json.loads((run / "recipe.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as err:
        raise RecipeError(f"{run} holds no run: {err}") from err
    recipe: Recipe = recipe_from(values, str(run))
    part = recipe.test[0]
    if not isinstance(part, VideosPart):
        raise RecipeError(f"the first test set of {run} is not of kind 'videos'")
    checkpoint = read_checkpoint(run / "final.pth")
    model, spec = model_of(checkpoint), spec_of(checkpoint)
    clips = VideoClips(part, labels_of(checkpoint), spec)
    found: Right = {}
    for index, entry in enumerate(clips.entries):
        clip, class_id = clips[index]
        guess = int(model(to_batch([clip], spec)).argmax())
        found[f"seed {recipe.seed}: {entry.path}"] = entry.group or entry.path, guess == class_id
    return found


def difference(one: Right, other: Right, seed: int = 0) -> dict[str, Any]:
    """Accuracy of `one` minus that of `other`, with a 95 % interval over groups; JSON-ready.

    Raises:
        RecipeError: if they are not of the same clips.
    """
    if one.keys() != other.keys() or not one:
        raise RecipeError("the two were not tested on the same clips; run both with the same folds")
    groups = sorted({group for group, _ in one.values()})
    gains = np.zeros((len(groups), 2))  # sum of differences, clips
    for clip, (group, right) in one.items():
        gains[groups.index(group)] += (int(right) - int(other[clip][1]), 1)
    rng = np.random.default_rng(seed)
    picked: NDArray[np.float64] = gains[rng.integers(len(groups), size=(SAMPLES, len(groups)))]
    sums = picked.sum(1)
    low, high = np.quantile(sums[:, 0] / sums[:, 1], (0.025, 0.975))
    return {
        "difference": round(float(gains[:, 0].sum() / gains[:, 1].sum()), 4),
        "difference_ci95": [round(float(low), 4), round(float(high), 4)],
        "better": sum(right and not other[clip][1] for clip, (_, right) in one.items()),
        "worse": sum(other[clip][1] and not right for clip, (_, right) in one.items()),
        "clips": len(one),
        "groups": len(groups),
    }


def compare(one: Path, other: Path) -> dict[str, Any]:
    """Compares two folders of `dvfl_models.studies.crossval`; JSON-ready.

    Raises:
        RecipeError: if they hold no runs of the same folds.
    """

    def all_of(folder: Path) -> Right:
        runs = sorted(path.parent for path in folder.glob("*/results.json"))
        return {clip: what for run in runs for clip, what in right_clips(run).items()}

    return difference(all_of(one), all_of(other))


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m dvfl_models.studies.paired",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("one", type=Path, help="folder of a cross-validation")
    parser.add_argument("other", type=Path, help="the one to compare with")
    parser.add_argument("--table", default="", help="of models/RESULTS.md that the result is for")
    parser.add_argument("--row", default="", help="what the result is called there")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="paired: %(message)s")
    try:
        result = compare(args.one, args.other)
        result |= {"one": args.one.name, "other": args.other.name, "machine": machine()}
        result |= {"date": datetime.now(timezone.utc).date().isoformat()}
        result |= {"table": args.table, "row": args.row}
        if args.json is not None:
            with replacing(args.json) as part:
                part.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    except DvflError as err:
        log.error("error: %s", err)
        return 2
    low, high = result["difference_ci95"]
    log.info(
        "%+.1f points, %+.1f to %+.1f (95 %%), %d clips better and %d worse of %d",
        *(100 * value for value in (result["difference"], low, high)),
        *(result[key] for key in ("better", "worse", "clips")),
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
