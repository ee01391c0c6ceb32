"""What a clip of training costs to read, now and in another version of the code: ms on one core.

    git worktree add BEFORE c62f37f
    python -m dvfl_bench.comparisons.loader --before BEFORE --json FILE [VIDEO ...]

The videos are drawn and written first: one like those of UCF101, H.264 with few keyframes, and
1080p. An item is a clip of 8 x 224 x 224 px with crops of 40 to 100 %, flips, colours and mixing,
read by a process of each version in turn. Nothing decoded is kept at this size. "first" is a video
that was not read before; "later" is any other reading of it.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from numpy.typing import NDArray

from dvfl_bench.comparisons import loader_item
from dvfl_bench.comparisons.command import Result, comparison_parser, run_comparison

log = logging.getLogger("dvfl_bench.loader")

SIZE = 224
WHOLE, WINDOW = (3600.0, 3600.0), (1.2, 6.0)  # window_s of UCF101's recipes, and by default
ITEMS = 8  # of a video in a round
OURS = Path(__file__).resolve().parents[3]
PACKAGES = ("", "models", "export", "benchmarks")  # folders on the path
NOISE = 2.0  # of a sensor, standard deviation in grey levels


@dataclass(frozen=True)
class VideoFormat:
    """The form in which a video is written.

    Attributes:
        codec: FFmpeg's name of the encoder.
        size: (width, height), px.
        frames: how many.
        fps: frames per second.
        options: of the encoder.
        bit_rate: bits per second; 0 for the encoder's own choice.
    """

    codec: str
    size: tuple[int, int]
    frames: int
    fps: int
    options: dict[str, str] = field(default_factory=dict)
    bit_rate: int = 0


FORMATS = {
    "ucf101-like.avi": VideoFormat("mpeg4", (320, 240), 164, 25, {"g": "12"}, 400_000),
    "few-keyframes.mp4": VideoFormat("libx264", (320, 240), 250, 25, {"g": "250"}),
    "1080p.mp4": VideoFormat("libx264", (1920, 1080), 300, 30, {"g": "60"}),
}
LONG = VideoFormat("mpeg4", (320, 240), 3000, 25, {"g": "12"}, 400_000)  # two minutes


def scene(size: tuple[int, int], frames: int) -> Iterator[NDArray[np.uint8]]:
    """Yield pictures of a camera that pans over a textured wall while a figure walks and waves."""
    width, height = size
    rng = np.random.default_rng(0)
    wall_size = (width * 5 // 4, height * 5 // 4)
    wall = np.full((wall_size[1], wall_size[0], 3), 120, np.float32)
    for cell_px, contrast in ((64, 60), (16, 30), (4, 12)):  # finer is fainter, as in photographs
        cells = (wall_size[1] // cell_px + 2, wall_size[0] // cell_px + 2, 3)
        grid = rng.normal(0, contrast, cells).astype(np.float32)
        wall += cv2.resize(grid, wall_size, interpolation=cv2.INTER_CUBIC)
    noise = [rng.normal(0, NOISE, (height, width, 1)).astype(np.int16) for _ in range(8)]
    tall = height // 5
    for n in range(frames):
        left = int((wall_size[0] - width) * (0.5 + 0.45 * np.sin(n / 60)))
        top = int((wall_size[1] - height) * (0.5 + 0.4 * np.sin(n / 45)))
        image = wall[top : top + height, left : left + width].clip(0, 255).astype(np.uint8)
        x, y = int(width * (0.2 + 0.6 * (n % 300) / 300)), height // 2
        cv2.ellipse(image, (x, y), (tall // 2, tall), 0, 0, 360, (200, 80, 60), -1)
        for limb in range(4):
            shoulder = (x, y + (tall // 2 if limb > 1 else -tall // 2))
            angle = 0.8 * np.sin(n / 5 + limb) + limb
            hand = (int(x + tall * np.sin(angle)), int(shoulder[1] + tall * np.cos(angle)))
            cv2.line(image, shoulder, hand, (60, 60, 180), max(2, height // 40))
        grain = np.roll(noise[n % 8], 37 * n % width, axis=1)
        yield np.clip(image + grain, 0, 255).astype(np.uint8)


def write(form: VideoFormat, path: Path) -> Path:
    """Write a video and return its path."""
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(form.codec, form.fps, options=form.options)
        stream.width, stream.height = form.size
        stream.pix_fmt = "yuv420p"
        if form.bit_rate:
            stream.bit_rate = form.bit_rate
        for image in scene(form.size, form.frames):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    return path


class Version:
    """A process that reads clips with one version of the code.

    Args:
        tree: root of a working tree.
    """

    def __init__(self, tree: Path) -> None:
        path = os.pathsep.join(str(tree / package) for package in PACKAGES)
        self._process = subprocess.Popen(
            [sys.executable, loader_item.__file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": path},
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._requests, self._answers = self._process.stdin, self._process.stdout

    def read(self, path: Path, window_s: Sequence[float], items: int, size: int) -> dict[str, Any]:
        """Return the cost of items; see `loader_item`."""
        asked = {"path": str(path), "window_s": list(window_s), "items": items, "size": size}
        self._requests.write(json.dumps(asked) + "\n")
        self._requests.flush()
        found: dict[str, Any] = json.loads(self._answers.readline())
        return found

    def close(self) -> None:
        """End the process."""
        self._requests.close()
        self._answers.close()
        self._process.wait()


@contextmanager
def versions(trees: dict[str, Path]) -> Iterator[dict[str, Version]]:
    """Start a process for each version, and end them all."""
    started = {name: Version(tree) for name, tree in trees.items()}
    try:
        yield started
    finally:
        for version in started.values():
            version.close()


def measure(args: argparse.Namespace, formats: dict[str, VideoFormat], long: VideoFormat) -> Result:
    """Write the videos, read them in turn; return the result."""
    trees = {"after": OURS} if args.before is None else {"before": args.before, "after": OURS}
    with tempfile.TemporaryDirectory() as folder:
        paths = [write(form, Path(folder) / name) for name, form in formats.items()]
        rows = []
        with versions(trees) as started:
            for version in started.values():  # warms up: imports and files
                version.read(paths[0], WHOLE, 2, SIZE)
            for path in [*paths, *args.videos]:
                for window_s in (WHOLE, WINDOW):
                    costs: dict[str, list[dict[str, Any]]] = {name: [] for name in started}
                    for _ in range(args.rounds):
                        for name, version in started.items():
                            costs[name].append(version.read(path, window_s, ITEMS, SIZE))
                    rows.append(_row(path, window_s, costs))
                    log.info("%s", json.dumps(rows[-1]))
        memory: dict[str, dict[str, int | None]] = {}
        path = write(long, Path(folder) / "long.avi")
        for size in (64, SIZE):
            for name, tree in trees.items():
                with versions({name: tree}) as alone:
                    growth_mb = alone[name].read(path, WHOLE, 2, size)["growth_mb"]
                memory.setdefault(f"{size}px", {})[name] = growth_mb and round(growth_mb)
    return {
        "what": "processor time of a training clip of 8 x 224 x 224 px, ms on one core",
        "items": ITEMS,
        "rounds": args.rounds,
        "rows": rows,
        "memory_growth_mb": memory,
        "long_video": f"{long.frames} frames of {long.size[0]} x {long.size[1]} px",
    }


def _row(
    path: Path, window_s: Sequence[float], costs: dict[str, list[dict[str, Any]]]
) -> dict[str, Any]:
    """Return the medians of one video, and by how much the item before takes longer."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        packets = [packet for packet in container.demux(stream) if packet.size]
        size = f"{stream.codec_context.width}x{stream.codec_context.height}"
        codec = stream.codec_context.name
    row: dict[str, Any] = {"video": path.name, "codec": codec, "size": size}
    row |= {"frames": len(packets), "keyframes": sum(packet.is_keyframe for packet in packets)}
    row |= {"bytes": path.stat().st_size, "window_s": list(window_s)}
    medians = {
        name: {key: statistics.median(cost[key] for cost in found) for key in found[0]}
        for name, found in costs.items()
    }
    for name, found in medians.items():
        kept = {key: round(value, 2) for key, value in found.items() if key.endswith("_ms")}
        row[name] = kept
    if "before" in medians:
        before, after = medians["before"], medians["after"]
        row["times_first"] = round(before["first_ms"] / after["first_ms"], 2)
        row["times_later"] = round(before["later_ms"] / after["later_ms"], 2)
        # augmentation and mixing, which the item before includes, on a CPU
        with_device_ms = after["later_ms"] + after["device_ms"]
        row["times_with_device"] = round(before["later_ms"] / with_device_ms, 2)
    return row


def main(
    argv: Sequence[str] | None = None,
    formats: dict[str, VideoFormat] = FORMATS,
    long: VideoFormat = LONG,
) -> int:
    """Run the command line and return its exit status."""
    parser = comparison_parser("loader", __doc__)
    parser.add_argument("videos", nargs="*", type=Path, metavar="VIDEO", help="further videos")
    parser.add_argument("--before", type=Path, help="working tree of another version")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args(argv)
    return run_comparison(args, partial(measure, args, formats, long), threads=1)


if __name__ == "__main__":
    sys.exit(main())
