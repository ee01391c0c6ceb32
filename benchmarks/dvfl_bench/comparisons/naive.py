"""A whole file by `Recognizer.stream`, and by the loop that is written first: windows per second.

    python -m dvfl_bench.comparisons.naive --json FILE [--variant nano --size 224]

The loop reads pictures with cv2.VideoCapture, for each window resizes and normalises its frames
again, as float32, and runs the official formulation in onnxruntime, all in one thread of control:
"loop" keeps the pictures of the last window, "loop from scratch" goes back and reads each window
again. All see the same video, windows and weights.
"""

from __future__ import annotations

import argparse
import itertools
import logging
import statistics
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import torch
from numpy.typing import NDArray

from dvfl_bench.comparisons.command import report
from dvfl_bench.comparisons.official import official_form
from dvfl_bench.device.machine import describe_machine
from dvfl_bench.device.videos import Loop, size_of, width_and_height
from dvfl_export.deploy.form import deploy_form
from dvfl_export.onnx_model import onnx_from_model, quiet_exporter
from dvfl_models.network.video_focalnet import build_model, init_weights
from dvfl_runtime import Recognizer
from dvfl_runtime.app.cli import DEMO_CLIP
from dvfl_runtime.artifact import METADATA_KEY, Artifact
from dvfl_runtime.clips.spec import ClipSpec
from dvfl_runtime.draw.encoding import VideoFile, to_yuv

log = logging.getLogger(__name__)

FRAMES = 8
PICTURE = (1280, 720)
ENGINES = ("onnxruntime", "openvino")


class NaivePipeline:
    """The code that people write first.

    Args:
        model: ONNX file of a network that takes (1, T, 3, H, W) float32.
        spec: T, H, W, window_s, mean and std.
    """

    def __init__(self, model: Path, spec: ClipSpec) -> None:
        import onnxruntime

        self._session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
        self._spec = spec

    def run(self, video: Path) -> int:
        """Keeps the pictures of the last window; returns the number of windows."""
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
        """Goes back to the start of each window and reads it again."""
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
        """Frames of a window, and from window to window."""
        length = round(self._spec.window_s * capture.get(cv2.CAP_PROP_FPS))
        return length, max(1, round(length / 4))

    def _recognize(self, pictures: Sequence[NDArray[Any]]) -> int:
        picked = np.linspace(0, len(pictures) - 1, self._spec.num_frames).round().astype(int)
        clip = np.stack([self._prepared(pictures[k]) for k in picked])[None]
        logits = self._session.run(None, {"clip": clip})[0][0]
        scores = np.exp(logits - logits.max())
        return int((scores / scores.sum()).argmax())

    def _prepared(self, picture: NDArray[Any]) -> NDArray[np.float32]:
        height, width = self._spec.size
        resized = cv2.resize(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB), (width, height))
        normal = (resized.astype(np.float32) - self._spec.mean) / self._spec.std
        return np.ascontiguousarray(normal.transpose(2, 0, 1), np.float32)  # to (C, H, W)


def long_video(path: Path, size: tuple[int, int], seconds: float) -> Path:
    """Writes the bundled clip again and again at (width, height) px, for so many seconds."""
    file = VideoFile(path)
    with closing(Loop(DEMO_CLIP)) as loop, closing(file):
        for frame in loop.frames():
            if frame.time_s >= seconds:
                break
            file.size = size
            picture = cv2.resize(frame.image, size, interpolation=cv2.INTER_CUBIC)
            file.add(to_yuv(np.asarray(picture, np.uint8)), frame.time_s)
        file.finish()
    return path


def export_both(variant: str, spec: ClipSpec, folder: Path) -> tuple[Path, Path]:
    """Writes the official formulation, float input, and the artifact; the same weights."""
    torch.manual_seed(0)
    net = build_model(variant, num_classes=5).eval()
    init_weights(net, "xavier")
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
    proto = onnx_from_model(deploy_form(net, spec), spec)
    labels = tuple(f"class {k}" for k in range(5))
    described = Artifact(name=variant, variant=variant, labels=labels, spec=spec)
    entry = proto.metadata_props.add()
    entry.key, entry.value = METADATA_KEY, described.to_json()
    onnx.save(proto, ours)
    return first, ours


def count_windows(recognizer: Recognizer, video: Path) -> int:
    """Recognises a whole file; returns the number of windows."""
    return sum(1 for _ in recognizer.stream(video))


def measure(
    variant: str, size: int, threads: int, rounds: int, picture: tuple[int, int], seconds: float
) -> dict[str, Any]:
    """Runs both over the whole video in turn; returns the JSON-ready result."""
    machine = describe_machine(threads)
    spec = ClipSpec(num_frames=FRAMES, size=(size, size), resize=size, window_s=2.0)
    rates: dict[str, list[float]] = {}
    windows: dict[str, int] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        video = long_video(folder / "long.mp4", picture, seconds)
        first, ours = export_both(variant, spec, folder)
        naive = NaivePipeline(first, spec)
        runs: dict[str, Callable[[], int]] = {
            "loop": partial(naive.run, video),
            "loop from scratch": partial(naive.run_from_scratch, video),
        }
        for engine in ENGINES:
            recognizer = Recognizer(ours, engine=engine, num_threads=threads)
            runs[engine] = partial(count_windows, recognizer, video)
        for _ in range(rounds):
            for which, run in runs.items():
                begin_s = time.perf_counter()
                windows[which] = run()
                rate = windows[which] / (time.perf_counter() - begin_s)
                rates.setdefault(which, []).append(rate)
                log.info("%s: %.2f windows/s", which, rate)
        shown = size_of(video)
    gains = {
        f"{engine} over {loop}": round(
            statistics.median(a / b for a, b in zip(rates[engine], rates[loop], strict=True)), 2
        )
        for engine in ENGINES
        for loop in runs
        if loop not in ENGINES
    }
    return {
        "what": "windows per second of a whole file: Recognizer.stream, and the loop written first",
        "variant": variant,
        "clip": [FRAMES, size, size],
        "video": f"{seconds:g} s of {shown}",
        "rounds": rounds,
        "machine": machine,
        "windows": windows,
        "windows_per_s": {k: round(statistics.median(v), 2) for k, v in rates.items()},
        "gains": gains,
    }


def main(arguments: list[str] | None = None) -> int:
    """Entry point of `python -m dvfl_bench.comparisons.naive`."""
    parser = argparse.ArgumentParser(
        prog="dvfl_bench.comparisons.naive", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--json", type=Path, help="write the result here")
    parser.add_argument("--variant", default="nano")
    parser.add_argument("--size", type=int, default=224, help="px, both sides")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--scale-to", type=width_and_height, default=PICTURE, help="WxH of the video; 1280x720"
    )
    parser.add_argument("--seconds", type=float, default=60.0, help="of video")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args(arguments)
    shape = (args.variant, args.size, args.threads, args.rounds, args.scale_to, args.seconds)
    return 2 if report(lambda: measure(*shape), args.json) is None else 0


if __name__ == "__main__":
    sys.exit(main())
