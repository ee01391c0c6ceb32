r"""A rule for what is unknown, added to a model file, which then holds features that it knows.

    python -m dvfl_export.confidence.familiar model.onnx -o knowing.onnx \
        --known ../shared/data/weizmann4/index.csv --rendered 400

What is further away from all known clips than they are, but for 2 % of their windows, from those of
other persons and places loses its logits, so that it is "unknown". `dvfl-teach fit` does the same
for what it learns. Give what the model has been trained on, what is idle too.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np

from dvfl_export.sample_clips import Video, cut_clips, rendered_videos
from dvfl_models.rendered.synthetic import ACTIONS, render_video
from dvfl_runtime.arguments import Parser, natural
from dvfl_runtime.artifact import ConfidenceCalibration, ModelFile
from dvfl_runtime.clips.labelled import LabelledVideo, LabelledVideos, find_labelled
from dvfl_runtime.clips.spec import Clip, ClipSpec
from dvfl_runtime.console.terminal import StandardOutput
from dvfl_runtime.errors import ArtifactError, DvflError
from dvfl_runtime.files import check_places, replacing
from dvfl_runtime.results import RESTING
from dvfl_runtime.teach.confidence import EVEN, nearest_left_out, references_of
from dvfl_runtime.teach.familiarity import Familiarity
from dvfl_runtime.teach.features import EngineChoice, FeatureReader, VideoFeatures, open_features
from dvfl_runtime.teach.graph import with_familiarity
from dvfl_runtime.teach.head import Examples

KEPT = 0.98  # share of windows of actions; 0.95 would cut between actions in a row
SIZE = (192, 192)  # px, of clean scenes
SCENES = 10  # rendered clips that are left out together
LARGEST_DIFFERENCE = 1e-2  # of logits


def add_familiarity(file: ModelFile, known: Sequence[Path], rendered: int, output: Path) -> float:
    """Write a model file that knows what it has been shown, and return the least cosine.

    Args:
        file: the model.
        known: labelled videos of what it has been trained on: folders per class, or indexes.
        rendered: clips of drawn people that it knows, too.
        output: the .onnx file.

    Raises:
        RecipeError: if there are no videos.
        ArtifactError: if the head is not one linear layer, or the new file computes something else.
        OutputError: if the file cannot be written.
    """
    choice, spec = EngineChoice(), file.artifact.spec
    clips = cut_clips(_drawn(rendered, spec), spec) if rendered else []
    with replacing(output) as part, open_features(file, spec, choice) as reader:
        examples, real = _known(reader, known, clips)
        nearest = nearest_left_out(examples)
        acts = np.array([label not in RESTING for label in examples.labels])
        counted = acts[examples.class_of[examples.video]] & (real if real.any() else ~real)
        least = float(np.quantile(nearest[counted], 1 - KEPT))
        familiarity = Familiarity(references_of(examples.plain), least)
        before = file.artifact.confidence_calibration or ConfidenceCalibration()
        about = {
            "rule": "cosine to the nearest features that are known",
            "least": round(least, 4),
            "known_windows": len(examples.plain),
            "kept": round(float((nearest[counted] >= least).mean()), 4),
        }
        calibration = replace(
            before,
            min_margin=max(before.min_margin, EVEN),
            report={**before.report, "familiar": about},
        )
        described = replace(file.artifact, confidence_calibration=calibration)
        part.write_bytes(with_familiarity(file, familiarity, described))
        _check(file, ModelFile(part), familiarity, reader)
    return least


def _drawn(count: int, spec: ClipSpec) -> list[Video]:
    """Return videos of drawn people, each second one in a clean scene."""
    videos = rendered_videos(spec, count=count, seed=0)
    fps = 2 * spec.num_frames / spec.window_s
    for number in range(0, count, 2):
        action = ACTIONS[number // 2 % len(ACTIONS)]
        frames = render_video([(action, spec.window_s + 1 / fps)], seed=number, fps=fps, size=SIZE)
        videos[number] = np.stack([*frames])
    return videos


def _known(
    reader: FeatureReader, places: Sequence[Path], clips: Sequence[Clip]
) -> tuple[Examples, np.ndarray[tuple[int], np.dtype[np.bool_]]]:
    """Return the windows of all known clips, and which of them are of real videos."""
    videos: list[LabelledVideo] = []
    features: list[VideoFeatures] = []
    for place in places:
        for video in find_labelled(place).videos:
            videos.append(replace(video, group=f"{place} {video.group}"))
            features.append(reader.read(video.path))
    for number, vector in enumerate(reader.features_of(list(clips)) if clips else ()):
        group = f"rendered {number // SCENES}"
        label = ACTIONS[(number if number % 2 else number // 2) % len(ACTIONS)]
        videos.append(LabelledVideo(Path(), label, group))
        features.append(VideoFeatures(vector[None], vector[None], 0.0))
    if not videos:
        raise DvflError("nothing is known; give --known CLIPS, or --rendered N")
    labels = tuple(sorted({video.label for video in videos}))
    examples = Examples.of(LabelledVideos(labels, tuple(videos), ""), features)
    real = np.array([video.path != Path() for video in videos])[examples.video]
    return examples, real


def _check(old: ModelFile, new: ModelFile, familiarity: Familiarity, reader: FeatureReader) -> None:
    """Raise ArtifactError unless the new file's logits are those of the old one, or less."""
    shape = (old.artifact.spec.num_frames, *old.artifact.spec.size, 3)
    noise = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    clips = [*cut_clips(rendered_videos(old.artifact.spec, count=4), old.artifact.spec), noise]
    shares = familiarity.share(reader.features_of(clips))
    found = []
    for file in (old, new):
        with closing(EngineChoice().open(file)) as engine:
            found.append(np.concatenate([engine.run(clip[None]) for clip in clips]))
    difference = float(np.abs(found[1] - shares * found[0]).max())
    if difference > LARGEST_DIFFERENCE:
        raise ArtifactError(f"the new file's logits differ by {difference:.2g} from what they are")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return the exit status."""
    parser = Parser(
        prog="python -m dvfl_export.confidence.familiar",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", type=Path, metavar="FILE.onnx")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FILE.onnx")
    parser.add_argument("--known", type=Path, nargs="+", default=[], metavar="CLIPS")
    parser.add_argument("--rendered", type=natural, default=0, help="clips of drawn people")
    args = parser.parse_args(argv)
    try:
        check_places([("-o", args.output)], [("the model", args.model)])
        least = add_familiarity(ModelFile(args.model), args.known, args.rendered, args.output)
    except DvflError as err:
        return parser.fail(err)
    StandardOutput().write(
        f"wrote {args.output}: unknown is what is further than a cosine of {least:.3f} from all\n"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
