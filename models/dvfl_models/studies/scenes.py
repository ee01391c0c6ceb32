r"""Group videos by scene: those that one camera took at one place.

python -m dvfl_models.studies.scenes ../shared/data/surveillance_fight/index.csv \
    --out models/results/surveillance_fight_clusters.csv

A video's median frame is its backdrop. Videos whose backdrops are alike, directly or by way of
other videos, are one cluster (single linkage: its errors join two scenes rather than divide one).
Clusters are dealt out to folds of about equal numbers of each class.
"""

from __future__ import annotations

import csv
import io
import logging
import sys
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from dvfl_models.data.decoding import decode
from dvfl_models.studies.command import run_study
from dvfl_runtime.arguments import Parser, natural
from dvfl_runtime.errors import RecipeError
from dvfl_runtime.files import check_places, read_text, replacing

log = logging.getLogger(__name__)

# Two videos are of one scene if their backdrops correlate by this much. In surveillance_fight most
# pairs are below 0.3 and those of one scene above 0.7; 0.5 to 0.6 has the fewest, 31 of 28,680.
LIKE = 0.5
_SIDE = 32  # px of a backdrop


def backdrop(path: str) -> NDArray[np.float64]:
    """Return the median frame of a video, small and without slopes of brightness.

    Returns:
        (32 * 32,) of mean 0 and norm 1, so that the product of two is their correlation.

    Raises:
        SourceError: if the video cannot be decoded.
    """
    images, _ = decode(path, 128, antialias=True)
    picks = np.linspace(0, len(images) - 1, min(len(images), 25)).astype(int)
    median = np.median(images[picks], axis=0).astype(np.uint8)
    small = cv2.resize(median, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA).astype(np.float64)
    local = small - cv2.GaussianBlur(small, (0, 0), _SIDE / 6)  # edges, whatever the light
    flat = local.ravel() - local.mean()
    return np.asarray(flat / max(float(np.linalg.norm(flat)), 1e-9))


def cluster(backdrops: Sequence[NDArray[np.float64]], like: float = LIKE) -> list[int]:
    """Return the number of the cluster of each backdrop, from 0 in order of appearance."""
    stacked = np.stack(backdrops)
    alike = stacked @ stacked.T >= like
    numbers = [-1] * len(stacked)
    for first in range(len(stacked)):
        if numbers[first] >= 0:
            continue
        number, todo = max(numbers) + 1, [first]
        while todo:
            here = todo.pop()
            if numbers[here] < 0:
                numbers[here] = number
                todo += np.flatnonzero(alike[here]).tolist()
    return numbers


def deal(clusters: Sequence[int], labels: Sequence[str], folds: int) -> list[int]:
    """Return the fold of each video.

    A cluster goes as a whole, the largest first, to the fold with the fewest of its classes.
    """
    members = defaultdict(list)
    for index, number in enumerate(clusters):
        members[number].append(index)
    counts = [Counter[str]() for _ in range(folds)]
    out = [0] * len(clusters)
    for number in sorted(members, key=lambda n: (-len(members[n]), n)):
        own = Counter(labels[index] for index in members[number])

        def burden(fold: int, own: Counter[str] = own) -> tuple[int, int, int]:
            largest = max(counts[fold][label] + own[label] for label in own)
            return largest, sum(counts[fold].values()), fold

        fold = min(range(folds), key=burden)
        counts[fold] += own
        for index in members[number]:
            out[index] = fold
    return out


def write_clusters(index: Path, out: Path, folds: int) -> None:
    """Write a CSV with columns file, label, cluster and fold.

    Raises:
        DvflError: if the index or a video cannot be read, or the file cannot be written.
    """
    try:
        table = csv.DictReader(io.StringIO(read_text(index)))
        rows = [(row["file"], row["label"]) for row in table]
    except (OSError, KeyError, ValueError) as err:
        raise RecipeError(f"{index} is not a CSV with columns file and label") from err
    clusters = cluster([backdrop(str(index.parent / name)) for name, _ in rows])
    dealt = deal(clusters, [label for _, label in rows], folds)
    with replacing(out) as part, part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["file", "label", "cluster", "fold"])
        for (name, label), number, fold in zip(rows, clusters, dealt, strict=True):
            writer.writerow([name, label, number, fold])
    sizes = Counter(clusters)
    log.info(
        "%d videos, %d clusters, the largest of %d", len(rows), len(sizes), max(sizes.values())
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return the exit status."""
    parser = Parser(
        prog="python -m dvfl_models.studies.scenes", description="Group videos by scene."
    )
    parser.add_argument("index", type=Path, help="CSV with columns file and label")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--folds", type=natural, default=5)
    args = parser.parse_args(argv)

    def study() -> None:
        check_places([("--out", args.out)], [("the index", args.index)])
        write_clusters(args.index, args.out, args.folds)

    return run_study("scenes", study)


if __name__ == "__main__":
    sys.exit(main())
