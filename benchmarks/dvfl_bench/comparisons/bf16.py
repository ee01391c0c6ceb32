"""bfloat16 against float32 in OpenVINO: time in turn, and agreement on clips.

    python -m dvfl_bench.comparisons.bf16 [VIDEOS...] --json FILE [--model FILE]

Two networks: nano with random weights at 8 x 224 x 224, for its time, and a model file of actions
that the renderer knows, by default the bundled one, for accuracy too. Both run as
`Recognizer(engine="openvino", precision=...)` runs them.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from dvfl_bench.comparisons.command import Result, comparison_parser, run_comparison
from dvfl_bench.comparisons.networks import FRAMES, deploy_graph, random_network, square_spec
from dvfl_bench.comparisons.precision import rendered_clips
from dvfl_bench.device.timing import paired_times, ratios, summary
from dvfl_export.sample_clips import cut_clips, video_files
from dvfl_export.verify import Logits, compare_logits, engine_logits
from dvfl_runtime.artifact import Artifact, ModelFile
from dvfl_runtime.clips.spec import Clip
from dvfl_runtime.engines import Engine, open_engine
from dvfl_runtime.engines.candidates import noise_clip
from dvfl_runtime.recognizer import BUNDLED_MODEL

NANO = "nano, random weights"
NANO_SIZE = 224  # px
NANO_CLIPS = 20  # rendered, without labels
MORE = 10  # rounds of the file for each of nano, which takes many times as long
VIEWS = 4  # clips of each video, along time


@dataclass(frozen=True)
class Pair:
    """One file in both precisions.

    Attributes:
        artifact: what the file says of itself.
        fp32: the engine as the file is.
        bf16: the engine in bfloat16.
    """

    artifact: Artifact
    fp32: Engine
    bf16: Engine

    @classmethod
    def open(cls, file: Path, threads: int) -> Pair:
        """Open a file twice.

        Raises:
            DvflError: if it cannot be read, or OpenVINO or the CPU has no bfloat16 for it.
        """
        model = ModelFile(file)
        open_it = partial(open_engine, "openvino", model, device="cpu", num_threads=threads)
        return cls(model.artifact, open_it(), open_it(precision="bf16"))

    def logits(self, clips: Sequence[Clip]) -> tuple[Logits, Logits]:
        """Return the (N, num_classes) logits of N clips in float32 and in bfloat16."""
        return engine_logits(self.fp32, clips), engine_logits(self.bf16, clips)


def measure(file: Path, videos: Sequence[Path], rendered: int, threads: int, rounds: int) -> Result:
    """Compare both precisions of nano and of a model file.

    Args:
        file: the model file.
        videos: files and folders, to compare logits on besides rendered clips.
        rendered: how many clips are rendered for the file.
        threads: of the engine.
        rounds: of nano's times in turn; the file has more.
    """
    pair = Pair.open(file, threads)  # first: it fails at once where there is no bfloat16
    with tempfile.TemporaryDirectory() as folder:
        nano = Path(folder) / "nano.onnx"
        onnx.save(deploy_graph(random_network("nano"), square_spec(FRAMES, NANO_SIZE)), nano)
        pairs = {NANO: Pair.open(nano, threads), file.stem: pair}
    # one network after the other: between runs of nano a small one would find its caches empty
    found = {NANO: _times(pairs[NANO], rounds), file.stem: _times(pair, MORE * rounds)}
    actions = pair.artifact.labels
    found[NANO]["rendered"] = _on_rendered(pairs[NANO], actions, NANO_CLIPS)
    found[file.stem]["rendered"] = _on_rendered(pair, actions, rendered)
    if videos:
        clips = cut_clips(video_files(videos), pair.artifact.spec, views=VIEWS)
        found[file.stem]["videos"] = _agreement(*pair.logits(clips))
    return {
        "what": "bfloat16 against float32 in OpenVINO, batch 1",
        "openvino": pair.fp32.version,
        "networks": found,
    }


def _times(pair: Pair, rounds: int) -> dict[str, Any]:
    """Return the times of both precisions, taken in turn."""
    clip = noise_clip(pair.fp32)
    engines = {"fp32": pair.fp32, "bf16": pair.bf16}
    times = paired_times({name: partial(e.run, clip) for name, e in engines.items()}, rounds)
    return {
        "clip": [pair.artifact.spec.num_frames, *pair.artifact.spec.size],
        **{name: summary(taken) for name, taken in times.items()},
        "bf16_over_fp32": ratios(times["bf16"], times["fp32"]),
    }


def _on_rendered(pair: Pair, actions: Sequence[str], number: int) -> dict[str, Any]:
    """Return the agreement on so many rendered clips, and the accuracies if they have labels."""
    classes = np.arange(number) % len(actions)  # as many clips of each action
    clips = rendered_clips([actions[int(c)] for c in classes], pair.artifact.spec)
    fp32, bf16 = pair.logits(clips)
    found = _agreement(fp32, bf16)
    if tuple(actions) == pair.artifact.labels:
        named = {"fp32": fp32, "bf16": bf16}
        found["accuracy"] = {k: float((v.argmax(1) == classes).mean()) for k, v in named.items()}
    return found


def _agreement(fp32: Logits, bf16: Logits) -> dict[str, Any]:
    largest = float(np.abs(fp32).max())
    return {"clips": len(fp32), "largest_logit": largest, **compare_logits(fp32, bf16)}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    parser = comparison_parser("bf16", __doc__)
    parser.add_argument("videos", type=Path, nargs="*", help="videos or folders of them")
    parser.add_argument("--model", type=Path, default=BUNDLED_MODEL, help="default: the bundled")
    parser.add_argument("--rendered", type=int, default=300, help="clips with labels; default: 300")
    parser.add_argument("--threads", type=int, default=2, help="of the engine; default: 2")
    parser.add_argument("--rounds", type=int, default=40, help="of times in turn; default: 40")
    args = parser.parse_args(argv)
    measured = partial(measure, args.model, args.videos, args.rendered, args.threads, args.rounds)
    return run_comparison(args, measured, threads=args.threads)


if __name__ == "__main__":
    sys.exit(main())
