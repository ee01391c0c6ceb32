"""How many clips your own actions need: accuracy by clips per class, beside simple baselines.

For each set, a quarter of the clips is held back by whole groups (persons, sequences, scenes),
several times. A head learns 2, 5, 12 or all of the other clips of each class, as `dvfl-teach fit`
does it, on

- dvfl-teach fit: the better kind of the next two, by what is left out of the clips that it learns;
- network: the features of the model file;
- motion: how what moves moves (`dvfl_runtime.teach.motion`);
- one frame: the features of the same file for the middle frame alone, repeated;
- optical flow: how much moves where and in which direction (Farneback), without a network;
- metadata: width, height, aspect, frames and seconds, without a look at the pictures.

All learn the same clips. Intervals are 95 %, the wider one of drawing groups anew and of Wilson.
For other weights, `--baselines` takes the last two from a result: no model takes part in them.

python -m dvfl_bench.comparisons.own_actions ../shared/data/yoga/index.csv ... \
    --json models/results/own_actions/bundled.json --plot models/results/own_actions/bundled.png
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dvfl_bench.comparisons.command import Result, comparison_parser, run_comparison
from dvfl_bench.plots import COLOURS
from dvfl_runtime.artifact import ModelFile
from dvfl_runtime.clips.accuracy import wilson
from dvfl_runtime.clips.labelled import LabelledVideos, find_labelled
from dvfl_runtime.clips.picking import Times, pick_frames
from dvfl_runtime.clips.preprocess import preprocess_frame
from dvfl_runtime.errors import DvflError
from dvfl_runtime.files import read_text, replacing
from dvfl_runtime.recognizer import BUNDLED_MODEL
from dvfl_runtime.sources import Image, open_source
from dvfl_runtime.teach.features import EngineChoice, FeatureReader, VideoFeatures, read_by_all
from dvfl_runtime.teach.head import Examples, teach_head
from dvfl_runtime.teach.teaching import open_readers

log = logging.getLogger("dvfl_bench.comparisons.own_actions")  # also where it is the program

COUNTS = (2, 5, 12, None)  # clips of each class; None for all that are not held back
TAUGHT = ("network", "motion")  # what dvfl-teach fit chooses from
CHOSEN = "dvfl-teach fit"
OF_NO_MODEL = ("optical flow", "metadata")
METHODS = (CHOSEN, *TAUGHT, "one frame", *OF_NO_MODEL)
HELD_BACK = 0.25
FLOW_PX, FLOW_MOMENTS, FLOW_CELLS, FLOW_BINS = 64, 8, 4, 8
RESAMPLED = 2000  # times, for the intervals


@dataclass(frozen=True, eq=False)
class Looked:
    """What is known of one video besides its features.

    Attributes:
        frame: features of its middle frame.
        flow: where how much moves, and in which direction.
        metadata: logarithms of its size, shape and length.
    """

    frame: NDArray[np.float32]
    flow: NDArray[np.float32]
    metadata: NDArray[np.float32]


def look_at(path: Path, file: ModelFile, reader: FeatureReader) -> Looked:
    """Read a video once for all baselines."""
    sizes: list[tuple[int, int]] = []
    spec = file.artifact.spec

    def keep(image: Image) -> Image:
        sizes.append(image.shape[:2])
        return image

    def pick(times: Times) -> NDArray[np.int64]:
        first = np.linspace(0, max(len(times) - 2, 0), FLOW_MOMENTS).astype(np.int64)
        second = np.minimum(first + 1, len(times) - 1)
        return np.stack([first, second, np.full_like(first, len(times) // 2)])

    source = open_source(path)
    try:
        picked = pick_frames(source, pick, keep)
    finally:
        source.close()
    before, after, middle = picked.numbers
    image = preprocess_frame(picked.kept[int(middle[0])], spec)
    times, (height, width) = picked.times_s, sizes[0]
    facts = [width, height, width / height, len(times), max(times[-1] - times[0], 1e-3)]
    logs = np.log(np.asarray(facts, np.float32))
    pairs = [(picked.kept[int(a)], picked.kept[int(b)]) for a, b in zip(before, after, strict=True)]
    return Looked(
        frame=reader.features_of([np.stack([image] * spec.num_frames)])[0],
        flow=np.concatenate([flow_of(pairs[: len(pairs) // 2]), flow_of(pairs[len(pairs) // 2 :])]),
        metadata=np.concatenate([logs, logs**2]),
    )


def flow_of(pairs: Sequence[tuple[Image, Image]]) -> NDArray[np.float32]:
    """Return how much moves in each cell of the picture and each direction, over all pairs."""
    import cv2

    unknown = np.zeros((FLOW_PX, FLOW_PX, 2), np.float32)
    found = np.zeros((FLOW_CELLS, FLOW_CELLS, FLOW_BINS), np.float32)
    for pair in pairs:
        before, after = (
            cv2.cvtColor(cv2.resize(image, (FLOW_PX, FLOW_PX)), cv2.COLOR_RGB2GRAY)
            for image in pair
        )
        flow = cv2.calcOpticalFlowFarneback(before, after, unknown, 0.5, 3, 9, 3, 5, 1.1, 0)
        length, angle = cv2.cartToPolar(flow[..., 0], flow[..., 1])
        cell = np.arange(FLOW_PX) * FLOW_CELLS // FLOW_PX
        turn = (angle / (2 * np.pi) * FLOW_BINS).astype(int) % FLOW_BINS
        np.add.at(found, (cell[:, None], cell[None, :], turn), length)
    return np.sqrt(found).ravel()


def examples_of(
    found: LabelledVideos, features: Sequence[list[VideoFeatures]], looked: Sequence[Looked]
) -> dict[str, Examples]:
    """Return what each method learns; the baselines have one window for each video."""

    def single(vectors: Sequence[NDArray[np.float32]]) -> Examples:
        return Examples.of(found, [VideoFeatures(v[None], v[None], 0.0) for v in vectors])

    return {
        **{name: Examples.of(found, its) for name, its in zip(TAUGHT, features, strict=True)},
        "one frame": single([one.frame for one in looked]),
        "optical flow": single([one.flow for one in looked]),
        "metadata": single([one.metadata for one in looked]),
    }


def answers(
    examples: Examples, learnt: NDArray[np.int64], tested: NDArray[np.int64]
) -> tuple[NDArray[np.bool_], float]:
    """Return whether the answers about the tested videos are right, and the loss in learning."""
    head, validation = teach_head(examples.only(learnt))
    some = examples.only(tested)
    means = some.video_means(head.logits(some.plain).astype(np.float64))
    return np.asarray(means.argmax(1) == some.class_of), validation.loss


def taught_answers(
    learners: dict[str, Examples], learnt: NDArray[np.int64], tested: NDArray[np.int64]
) -> dict[str, NDArray[np.bool_]]:
    """Return the answers of each method, and of the better kind of features."""
    found = {name: answers(examples, learnt, tested) for name, examples in learners.items()}
    chosen = min(TAUGHT, key=lambda name: found[name][1])
    return {CHOSEN: found[chosen][0], **{name: right for name, (right, _) in found.items()}}


def draw_videos(
    found: LabelledVideos, count: int | None, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the videos to learn, `count` of each class or as many as there are, and to test on."""
    held = found.groups_to_hold_back(HELD_BACK, seed)
    is_held = np.array([video.group in held for video in found.videos])
    order = np.random.default_rng(seed).permutation(np.flatnonzero(~is_held))
    labels = np.array([video.label for video in found.videos])[order]
    parts = [order[labels == label][:count] for label in found.labels]
    return np.sort(np.concatenate(parts)), np.flatnonzero(is_held)


def interval(right: dict[int, list[bool]], groups: NDArray[np.int64]) -> tuple[float, float]:
    """Return a 95 % interval of the accuracy.

    It is the wider one of drawing groups anew, each with all its answers, and of Wilson's over the
    videos, because few groups or none that differs say nothing about others.
    """
    rng, found = np.random.default_rng(0), np.unique(groups[list(right)])
    sums = np.array(
        [
            [sum(sum(r) for v, r in right.items() if groups[v] == g) for g in found],
            [sum(len(r) for v, r in right.items() if groups[v] == g) for g in found],
        ]
    )
    drawn = sums[:, rng.integers(0, len(found), (RESAMPLED, len(found)))].sum(2)
    low, high = np.percentile(drawn[0] / drawn[1], (2.5, 97.5))
    share, videos = sums[0].sum() / sums[1].sum(), len(right)
    least, most = wilson(round(share * videos), videos)
    return min(float(low), least), max(float(high), most)


def measure_set(
    place: Path, readers: list[FeatureReader], file: ModelFile, draws: int, known: Result
) -> Result:
    """Return the accuracy of each method for each number of clips of a set.

    Args:
        place: of the clips.
        readers: of the features of the model and of what moves.
        file: the model.
        draws: of what is held back.
        known: earlier rows of methods that no model takes part in, for the same clips and draws.
    """
    found = find_labelled(place)
    log.info("%s: %d clips of %d classes", place, len(found.videos), len(found.labels))
    each = [read_by_all(readers, video.path) for video in found.videos]
    features = [[its[number] for its in each] for number in range(len(readers))]
    looked = [look_at(video.path, file, readers[0]) for video in found.videos]
    learners = examples_of(found, features, looked)
    for method in known:
        del learners[method]
    names = sorted({video.group for video in found.videos})
    methods = (CHOSEN, *learners)
    rows: dict[str, dict[str, Any]] = {method: {} for method in methods}
    for count in COUNTS:
        right: dict[str, dict[int, list[bool]]] = {method: {} for method in methods}
        for seed in range(draws):
            learnt, tested = draw_videos(found, count, seed)
            for method, hits in taught_answers(learners, learnt, tested).items():
                for video, hit in zip(tested, hits, strict=True):
                    right[method].setdefault(int(video), []).append(bool(hit))
        for method in methods:
            every = [hit for hits in right[method].values() for hit in hits]
            low, high = interval(right[method], learners["network"].group_of)
            rows[method][str(count or "all")] = {
                "clips": len(right[method]),
                "accuracy": round(float(np.mean(every)), 4),
                "ci95": [round(low, 4), round(high, 4)],
                "answers": len(every),
            }
        shown = {method: row[str(count or "all")]["accuracy"] for method, row in rows.items()}
        log.info("%s clips: %s", count or "all", shown)
    return {
        "classes": len(found.labels),
        "clips": len(found.videos),
        "groups": len(names),
        "grouped_by": found.grouped_by,
        "methods": rows | known,
    }


def measure(args: argparse.Namespace) -> Result:
    """Return the results of all sets."""
    file = ModelFile(args.model)
    known = _baselines(args.baselines, args.draws) if args.baselines else {}
    choice = EngineChoice("onnxruntime", "cpu", args.threads)
    sets = {}
    with open_readers(file, file.artifact.spec, choice) as readers:
        for place in args.sets:
            name = place.parent.name if place.is_file() else place.name
            sets[name] = measure_set(place, readers, file, args.draws, known.get(name, {}))
    training = file.artifact.training
    return {
        "model": {
            "name": file.artifact.name,
            "graph_sha256": file.graph_sha256,
            "trained_on": list(training.get("data", [])),
        },
        "draws": args.draws,
        "held_back": HELD_BACK,
        "sets": sets,
    }


def _baselines(path: Path, draws: int) -> dict[str, Result]:
    """Return, for each set of an earlier result, the rows that no model takes part in.

    Raises:
        DvflError: if it cannot be read, or has other draws.
    """
    try:
        found = json.loads(read_text(path))
        if found["draws"] == draws:
            return {
                name: {method: one["methods"][method] for method in OF_NO_MODEL}
                for name, one in found["sets"].items()
            }
        problem = f"it has {found['draws']} draws, wanted {draws}"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as err:
        problem = str(err)
    raise DvflError(f"--baselines {path} is no result of this comparison for these sets: {problem}")


def table_of(result: Result) -> str:
    """Return the results as a table for models/RESULTS.md."""
    counts = [str(count or "all") for count in COUNTS]
    lines = [f"| | | {' | '.join(f'{count} clips' for count in counts)} |", "|---" * 6 + "|"]
    for name, found in result["sets"].items():
        for method, row in found["methods"].items():
            first = f"{name}, {found['classes']} classes" if method == METHODS[0] else ""
            cells = [
                f"{row[c]['accuracy']:.1%} ({row[c]['ci95'][0]:.0%} to {row[c]['ci95'][1]:.0%})"
                for c in counts
            ]
            lines.append(f"| {first} | {method} | {' | '.join(cells)} |")
    return "\n".join(lines)


def draw(result: Result, path: Path) -> None:
    """Draw the accuracy by the number of clips, a panel for each set."""
    from matplotlib.figure import Figure

    names = [str(count or "all") for count in COUNTS]
    sets = result["sets"]
    figure = Figure(figsize=(3.2 * len(sets), 3.8), layout="constrained")
    for axes, (name, found) in zip(
        figure.subplots(1, len(sets), sharey=True, squeeze=False)[0], sets.items(), strict=True
    ):
        rows = dict(found["methods"])
        taken = rows.pop(CHOSEN)
        for colour, (method, row) in zip(COLOURS, rows.items(), strict=False):
            low, high = ([row[n]["ci95"][k] for n in names] for k in (0, 1))
            values = [row[n]["accuracy"] for n in names]
            axes.plot(names, values, "o-", color=colour, label=method)
            axes.fill_between(names, low, high, color=colour, alpha=0.12)
        ring = {"markersize": 11, "fillstyle": "none", "color": "black"}
        chosen = [taken[n]["accuracy"] for n in names]
        axes.plot(names, chosen, "o", label=f"taken by {CHOSEN}", **ring)
        axes.axhline(1 / found["classes"], color="grey", linestyle=":", label="chance")
        axes.set(ylim=(0, 1.02), xlabel="clips of each class", title=f"{name}, {found['classes']}")
        axes.grid(alpha=0.3)
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    with replacing(path) as part:
        figure.savefig(part, format="png", dpi=110)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return the exit status."""
    parser = comparison_parser("own_actions", __doc__ or "")
    parser.add_argument("sets", type=Path, nargs="+", help="folders of classes, or index.csv")
    parser.add_argument(
        "--model", type=Path, default=BUNDLED_MODEL, help="default: the bundled one"
    )
    parser.add_argument("--baselines", type=Path, help="an earlier result of the same clips")
    parser.add_argument("--draws", type=int, default=5, help="of what is held back; default: 5")
    parser.add_argument("--threads", type=int, default=2, help="of the engine; default: 2")
    parser.add_argument("--plot", type=Path, help="draw the accuracy by the number of clips")
    args = parser.parse_args(argv)

    def then(result: Result) -> int:
        log.info(table_of(result))
        if args.plot:
            draw(result, args.plot)
        return 0

    return run_comparison(args, lambda: measure(args), threads=args.threads, then=then)


if __name__ == "__main__":
    sys.exit(main())
