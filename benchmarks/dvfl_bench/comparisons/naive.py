"""A whole file by `Recognizer.stream`, and by the loop that people write first: windows per second.

    python -m dvfl_bench.comparisons.naive --json FILE [--variant nano --size 224]

The loop reads frames with cv2.VideoCapture, resizes and normalises the frames of each window again,
as float32, and runs the official formulation in onnxruntime, one step after the other. "loop" keeps
the frames of the last window; "loop from scratch" goes back and reads each window again. All see
the same video, windows and weights.
"""

from __future__ import annotations

import itertools
import logging
import statistics
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import torch
from numpy.typing import NDArray

from dvfl_bench.comparisons.command import (
    Result,
    add_network_options,
    comparison_parser,
    run_comparison,
)
from dvfl_bench.comparisons.networks import FRAMES, deploy_graph, random_network, square_spec
from dvfl_bench.comparisons.official import official_form
from dvfl_bench.device.timing import in_turn, median_ratio
from dvfl_bench.device.videos import LoopedVideo, size_of, width_and_height, write_scaled
from dvfl_export.onnx_model import quiet_exporter
from dvfl_models import VARIANTS
from dvfl_runtime import Recognizer
from dvfl_runtime.clips.spec import ClipSpec
from dvfl_runtime.recognizer import DEMO_CLIP

log = logging.getLogger(__name__)

PICTURE = (1280, 720)
LOOPS = ("loop", "loop from scratch")
ENGINES = ("onnxruntime", "openvino")


class NaivePipeline:
    """Recognise a video file with the code that people write first.

    Args:
        model: ONNX file of a network that takes (1, T, 3, H, W) float32.
        spec: T, H, W, window_s, mean and std.
    """

    def __init__(self, model: Path, spec: ClipSpec) -> None:
        import onnxruntime

        self._session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
        self._spec = spec

    def run(self, video: Path) -> int:
        """Keep the frames of the last window; return the number of windows."""
        windows = 0
        capture = cv2.VideoCapture(str(video))
        length, hop = self._frames(capture)
        pictures: deque[NDArray[Any]] = deque(maxlen=length)
        for count in itertools.count(1):
            read, picture = capture.read()
            if not read:
                break
            pictures.append(picture)
            if len(pictures) == length and (count - length) % hop == 0:
                self._recognize(pictures)
                windows += 1
        capture.release()
        return windows

    def run_from_scratch(self, video: Path) -> int:
        """Go back to the start of each window and read it again; return the number of windows."""
        capture = cv2.VideoCapture(str(video))
        length, hop = self._frames(capture)
        total = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
        starts = range(0, total - length + 1, hop)
        for start in starts:
            capture.set(cv2.CAP_PROP_POS_FRAMES, start)
            self._recognize([capture.read()[1] for _ in range(length)])
        capture.release()
        return len(starts)

    def _frames(self, capture: cv2.VideoCapture) -> tuple[int, int]:
        """Return the number of frames in a window, and from one window to the next."""
        length = round(self._spec.window_s * capture.get(cv2.CAP_PROP_FPS))
        return length, max(1, round(length / 4))  # the default hop of streams

    def _recognize(self, pictures: Sequence[NDArray[Any]]) -> int:
        picked = np.linspace(0, len(pictures) - 1, self._spec.num_frames).round().astype(int)
        # T x (C, H, W) -> (1, T, C, H, W)
        clip = np.stack([self._prepared(pictures[k]) for k in picked])[None]
        logits = self._session.run(None, {"clip": clip})[0][0]
        scores = np.exp(logits - logits.max())
        return int((scores / scores.sum()).argmax())

    def _prepared(self, picture: NDArray[Any]) -> NDArray[np.float32]:
        height, width = self._spec.size
        resized = cv2.resize(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB), (width, height))
        normal = (resized.astype(np.float32) - self._spec.mean) / self._spec.std
        # (H, W, C) -> (C, H, W)
        return np.ascontiguousarray(normal.transpose(2, 0, 1), np.float32)


def export_both(variant: str, spec: ClipSpec, folder: Path) -> tuple[Path, Path]:
    """Write the official formulation with float input, and the artifact; the same weights."""
    net = random_network(variant, num_classes=5)
    official = official_form(net.config, net.state_dict(), spec).network
    clip = torch.zeros(1, spec.num_frames, 3, *spec.size)
    first, ours = folder / "official.onnx", folder / "ours.onnx"
    with quiet_exporter():
        torch.onnx.export(
            *(official, (clip,), first),
            input_names=["clip"],
            dynamo=True,
            external_data=False,
            verbose=False,
        )
    onnx.save(deploy_graph(net, spec), ours)
    return first, ours


def count_windows(recognizer: Recognizer, video: Path) -> int:
    """Recognise a whole file; return the number of windows."""
    return sum(1 for _ in recognizer.stream(video))


def windows_and_rate(name: str, recognize: Callable[[], int]) -> tuple[int, float]:
    """Recognise a whole file; return the number of windows, and windows per second."""
    begin_s = time.perf_counter()
    windows = recognize()
    rate = windows / (time.perf_counter() - begin_s)
    log.info("%s: %.2f windows/s", name, rate)
    return windows, rate


def measure(
    variant: str, size: int, threads: int, rounds: int, picture: tuple[int, int], seconds: float
) -> Result:
    """Run the loops and both engines over the whole video in turn; return the result.

    Args:
        variant: of the network.
        size: of its clips, px.
        threads: of the engines.
        rounds: how often each runs.
        picture: (width, height) of the video, px.
        seconds: of video.
    """
    spec = square_spec(FRAMES, size)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        looped = LoopedVideo(DEMO_CLIP)
        video = write_scaled(looped, picture, folder / "long.mp4", seconds=seconds)
        first, ours = export_both(variant, spec, folder)
        naive = NaivePipeline(first, spec)
        loops = (naive.run, naive.run_from_scratch)
        runs = {name: partial(loop, video) for name, loop in zip(LOOPS, loops, strict=True)}
        for engine in ENGINES:
            recognizer = Recognizer(ours, engine=engine, num_threads=threads)
            runs[engine] = partial(count_windows, recognizer, video)
        works = {name: partial(windows_and_rate, name, run) for name, run in runs.items()}
        taken = in_turn(works, range(rounds))
        shown = size_of(video)
    windows = {name: given[-1][0] for name, given in taken.items()}
    rates = {name: [rate for _, rate in given] for name, given in taken.items()}
    gains = {
        f"{engine} over {loop}": round(median_ratio(rates[engine], rates[loop]), 2)
        for engine in ENGINES
        for loop in LOOPS
    }
    return {
        "what": "windows per second of a whole file: Recognizer.stream, and the loop written first",
        "variant": variant,
        "clip": [FRAMES, size, size],
        "video": f"{seconds:g} s of {shown}",
        "rounds": rounds,
        "windows": windows,
        "windows_per_s": {k: round(statistics.median(v), 2) for k, v in rates.items()},
        "gains": gains,
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    parser = comparison_parser("naive", __doc__)
    add_network_options(parser, VARIANTS)
    parser.add_argument(
        "--scale-to", type=width_and_height, default=PICTURE, help="WxH of the video; 1280x720"
    )
    parser.add_argument("--seconds", type=float, default=60.0, help="of video")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args(argv)
    shape = (args.variant, args.size, args.threads, args.rounds, args.scale_to, args.seconds)
    return run_comparison(args, lambda: measure(*shape), threads=args.threads)


if __name__ == "__main__":
    sys.exit(main())
