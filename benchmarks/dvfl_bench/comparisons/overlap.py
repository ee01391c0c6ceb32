"""How well decoding, preprocessing and inference overlap: windows per second of a whole stream.

python -m dvfl_bench.comparisons.overlap MODEL.onnx [VIDEO] [--scale-to 1920x1080]
"""

from __future__ import annotations

import argparse
import itertools
import logging
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import closing
from functools import partial
from pathlib import Path

import numpy as np

from dvfl_bench.comparisons.command import (
    Result,
    add_engine_options,
    comparison_parser,
    run_comparison,
)
from dvfl_bench.device.timing import in_turn, median_ratio
from dvfl_bench.device.videos import size_of, width_and_height, write_scaled
from dvfl_runtime import Recognizer
from dvfl_runtime.artifact import ModelFile
from dvfl_runtime.clips.preprocess import preprocess_frame
from dvfl_runtime.engines import open_engine
from dvfl_runtime.errors import DvflError
from dvfl_runtime.recognizer import DEMO_CLIP
from dvfl_runtime.sources import open_source

log = logging.getLogger(__name__)


class Stopwatch:
    """Windows per second of one model and video: the whole stream, and each part alone.

    Args:
        args: of the command line: the model, and the options of its engine.
        video: a file.
    """

    def __init__(self, args: argparse.Namespace, video: Path) -> None:
        options = {"precision": args.precision, "num_threads": args.threads}
        self._recognizer = Recognizer(args.model, engine=args.engine, **options)
        self._spec, self.info = self._recognizer.spec, self._recognizer.info
        # an engine of its own, so that nothing of the stream is part of the bare inference
        self._engine = open_engine(self.info.engine, ModelFile(args.model), **options)
        shape = (1, self._spec.num_frames, *self._spec.size, 3)
        self._clip = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
        self._video = video

    def inference(self, windows: int) -> float:
        """Run the engine alone, on a clip that is ready."""
        begin_s = time.perf_counter()
        for _ in range(windows):
            self._engine.run(self._clip)
        return windows / (time.perf_counter() - begin_s)

    def decoding(self, windows: int) -> float:
        """Decode alone, and resize as many frames as the windows pick."""
        end_s = self._spec.window_s / 4 * windows
        step_s = self._spec.window_s / self._spec.num_frames
        next_s = 0.0
        begin_s = time.perf_counter()
        with closing(open_source(self._video)) as source:
            for frame in source.frames():
                if frame.time_s >= next_s:
                    preprocess_frame(frame.image, self._spec)
                    next_s += step_s
                if frame.time_s >= end_s:
                    break
        return windows / (time.perf_counter() - begin_s)

    def stream(self, windows: int) -> float:
        """Do all of it, by `Recognizer.stream`, from the first prediction on."""
        predictions = self._recognizer.stream(self._video)
        next(predictions, None)
        begin_s = time.perf_counter()
        count = sum(1 for _ in itertools.islice(predictions, windows))
        elapsed_s = time.perf_counter() - begin_s
        if count < windows:
            raise DvflError(
                f"{self._video} has {count + 1} windows, wanted {windows + 1}; pass --windows"
            )
        return windows / elapsed_s

    def close(self) -> None:
        """Release both copies of the model."""
        self._recognizer.close()
        self._engine.close()


def measure(args: argparse.Namespace, video: Path) -> Result:
    """Measure the three in turn, `args.rounds` times; return medians and ratios, ready for JSON.

    Raises:
        DvflError: if the model or the video cannot be used, or is too short.
    """
    with closing(Stopwatch(args, video)) as watch:
        # the stream first: it is the one that tells of a video that is too short
        parts = {"stream": watch.stream, "inference": watch.inference, "decoding": watch.decoding}
        for part in parts.values():
            part(min(5, args.windows))  # warms up

        def rate(name: str) -> float:
            per_s = parts[name](args.windows)
            log.info("%s: %.2f windows/s", name, per_s)
            return per_s

        rates = in_turn({name: partial(rate, name) for name in parts}, range(args.rounds))
        info = watch.info
    stream, inference, decoding = (
        np.array(rates[name]) for name in ("stream", "inference", "decoding")
    )
    return {
        "what": "windows per second of a file, in turn: whole stream, inference and decoding alone",
        "model": info.name,
        "engine": f"{info.engine} {info.versions[info.engine]}",
        "precision": info.precision,
        "video": video.name,
        "video_size": size_of(video),
        "windows": args.windows,
        "rounds": args.rounds,
        **{f"{name}_per_s": round(statistics.median(per_s), 2) for name, per_s in rates.items()},
        "stream_to_inference": round(median_ratio(stream, inference), 3),
        "stream_to_decoding": round(median_ratio(stream, decoding), 3),
        # each part alone uses all cores, so where both are heavy this shows the gain of overlapping
        "stream_to_one_after_the_other": round(
            median_ratio(stream, 1 / (1 / inference + 1 / decoding)), 3
        ),
    }


def _measure_as_asked(args: argparse.Namespace, folder: Path) -> Result:
    video = args.video
    if args.scale_to is not None:
        video = write_scaled(open_source(video), args.scale_to, folder / f"{video.stem}.mp4")
    return measure(args, video)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    parser = comparison_parser("overlap", __doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("video", type=Path, nargs="?", default=DEMO_CLIP)
    parser.add_argument(
        "--scale-to",
        type=width_and_height,
        help="WxH: measure on a copy of this size, as of a camera",
    )
    add_engine_options(parser)
    parser.add_argument("--windows", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=11)
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        measured = partial(_measure_as_asked, args, Path(folder))
        return run_comparison(args, measured, threads=args.threads)


if __name__ == "__main__":
    sys.exit(main())
