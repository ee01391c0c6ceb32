r"""What a focus is worth on real sets: features with and without it, the same head, the same clips.

    python -m dvfl_bench.comparisons.focus_sets ../shared/data/ut_interaction sequence --json FILE
    python -m dvfl_bench.comparisons.focus_sets ../shared/data/surveillance_fight cluster \
        --index models/results/surveillance_fight_clusters.csv --json FILE

The network stays as it is: what its head reads is taken for a clip of each whole video, and of its
mirror image for training. A linear head is fitted in closed form on all groups but one, in turn.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import logging
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from dvfl_bench.comparisons.command import Result, comparison_parser, run_comparison
from dvfl_models.studies.paired import Outcome, difference
from dvfl_runtime.artifact import ModelFile
from dvfl_runtime.clips.evaluation import Views, sample_video
from dvfl_runtime.clips.spec import Clip, ClipSpec, Focus
from dvfl_runtime.errors import ArtifactError, SourceError
from dvfl_runtime.files import read_text
from dvfl_runtime.recognizer import BUNDLED_MODEL
from dvfl_runtime.sources import open_source

log = logging.getLogger(__name__)

Floats: TypeAlias = NDArray[np.float64]

WAYS: tuple[Focus, ...] = ("frame", "motion")
RIDGE = 1.0  # beside a mean square of 1 of each feature; not tuned


class Features:
    """What the head of a model file reads, in onnxruntime.

    Args:
        model: the file.
        threads: of onnxruntime.

    Raises:
        ArtifactError: if the file does not end in a linear head.
    """

    def __init__(self, model: Path, threads: int) -> None:
        self.spec: ClipSpec = ModelFile(model).artifact.spec
        graph = onnx.load(model)
        weights = {tensor.name for tensor in graph.graph.initializer}
        heads = [
            node.input[0]
            for node in graph.graph.node
            if node.op_type in ("MatMul", "Gemm") and node.input[1] in weights
        ]
        if not heads:
            raise ArtifactError(f"{model} does not end in a linear head whose weights are numbers")
        graph.graph.output.append(onnx.helper.make_tensor_value_info(heads[-1], 1, None))
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self._name = heads[-1]
        self._session = onnxruntime.InferenceSession(graph.SerializeToString(), options)

    def __call__(self, clip: Clip) -> Floats:
        """Return the features of a preprocessed clip, (C,)."""
        (found,) = self._session.run([self._name], {"clip": clip[None]})
        return np.asarray(found[0], np.float64).ravel()


def read_rows(index: Path, group: str) -> list[tuple[str, str, str]]:
    """Return file, label and group of each clip of a list.

    Raises:
        SourceError: if the list cannot be read or lacks a column.
    """
    try:
        rows = list(csv.DictReader(io.StringIO(read_text(index))))
        return [(row["file"], row["label"], row[group]) for row in rows]
    except (OSError, KeyError, ValueError) as err:
        raise SourceError(f"{index} is not a CSV with columns file, label and {group}") from err


def features_of(network: Features, videos: Sequence[Path], focus: Focus) -> Floats:
    """Return the features of whole videos and of their mirror images, (2, N, C)."""
    spec = dataclasses.replace(network.spec, focus=focus)
    both: list[list[Floats]] = [[], []]
    for video in videos:
        with closing(open_source(str(video))) as source:
            (clip,), _ = sample_video(source, spec, Views())
        both[0].append(network(clip))
        both[1].append(network(np.ascontiguousarray(clip[:, :, ::-1])))
    return np.asarray(both)


def answers(features: Floats, classes: NDArray[np.int64], groups: Sequence[str]) -> NDArray[Any]:
    """Return the class that a linear head names for each clip, which is fitted without its group.

    Ridge regression onto one column for each class, balanced by their numbers of clips.

    Args:
        features: (2, N, C) of clips and their mirror images.
        classes: (N,).
        groups: (N,) of clips that are not independent.
    """
    of_group = np.asarray(groups)
    named = np.empty_like(classes)
    for group in sorted(set(groups)):
        seen = of_group != group
        x = features[:, seen].reshape(-1, features.shape[2])
        wanted = np.tile(classes[seen], 2)
        mean, deviation = x.mean(0), x.std(0) + 1e-6
        weights = 1 / np.bincount(wanted, minlength=classes.max() + 1)[wanted]
        x = np.hstack([(x - mean) / deviation, np.ones((len(x), 1))])
        y = 2 * np.eye(classes.max() + 1)[wanted] - 1
        penalty = RIDGE * np.eye(x.shape[1])
        weighted = x * (weights / weights.sum())[:, None]
        head = np.linalg.solve(weighted.T @ x + penalty, weighted.T @ y)
        test = (features[0, ~seen] - mean) / deviation
        named[~seen] = np.hstack([test, np.ones((len(test), 1))]).dot(head).argmax(1)
    return named


def measure(model: Path, root: Path, index: Path, group: str, threads: int) -> Result:
    """Compare both ways on a set; return the result, ready for JSON.

    Args:
        model: the model file.
        root: the folder of the videos.
        index: the list of the clips.
        group: its column that tells which clips are not independent.
        threads: of the engine.
    """
    rows = read_rows(index, group)
    files, labels, groups = (list(column) for column in zip(*rows, strict=True))
    names = sorted(set(labels))
    classes = np.array([names.index(label) for label in labels])
    network = Features(model, threads)
    outcomes: dict[str, dict[str, Outcome]] = {}
    for focus in WAYS:
        features = features_of(network, [root / file for file in files], focus)
        right = answers(features, classes, groups) == classes
        outcomes[focus] = {
            file: Outcome(where, bool(is_right))
            for file, where, is_right in zip(files, groups, right, strict=True)
        }
        log.info("%s, %s: %.1f %%", root.name, focus, 100 * right.mean())
    accuracy = {
        focus: round(float(np.mean([outcome.right for outcome in found.values()])), 4)
        for focus, found in outcomes.items()
    }
    return {
        "what": "accuracy of a linear head on features of a network that stays as it is",
        "model": model.name,
        "data": root.name,
        "group": group,
        "chance": round(float(np.bincount(classes).max() / len(classes)), 4),
        "accuracy": accuracy,
        "motion_minus_frame": difference(outcomes["motion"], outcomes["frame"]),
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    parser = comparison_parser("focus_sets", __doc__)
    parser.add_argument("root", type=Path, help="folder of the videos")
    parser.add_argument("group", help="column of the list: clips of one group are not independent")
    parser.add_argument("--index", type=Path, help="the list; by default index.csv of the folder")
    parser.add_argument(
        "--model", type=Path, default=BUNDLED_MODEL, help="default: the bundled one"
    )
    parser.add_argument("--threads", type=int, default=1, help="of the engine; default: 1")
    args = parser.parse_args(argv)
    index = args.index or args.root / "index.csv"
    shape = (args.model, args.root, index, args.group, args.threads)
    return run_comparison(args, lambda: measure(*shape), threads=args.threads)


if __name__ == "__main__":
    sys.exit(main())
