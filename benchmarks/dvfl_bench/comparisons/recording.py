"""What it costs to keep the last seconds of a camera and to write all of it, without encoding.

python -m dvfl_bench.comparisons.recording [VIDEO] [--seconds 30] [--json FILE]

The video plays at its own pace, as a camera that sends compressed pictures does. By default it is a
copy in 1920x1080 with the noise of a sensor, without which it would take far fewer bits. The time
of the recorder's own thread is told apart from that of its calls in the thread that reads.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

from dvfl_bench.comparisons.command import Result, comparison_parser, run_comparison
from dvfl_bench.device.videos import size_of, width_and_height, write_scaled
from dvfl_runtime.recognizer import DEMO_CLIP
from dvfl_runtime.record.recorder import Recorder
from dvfl_runtime.sources import Frame, Grabbed, LiveSource, Source, open_source
from dvfl_runtime.sources.decoding.container import open_container
from dvfl_runtime.sources.live.stream import StreamGrabber
from dvfl_runtime.sources.packets import PacketObserver, TimedPacket

if TYPE_CHECKING:
    from av.container import InputContainer

PRE_ROLL_S = 3.0
NOISE = 6.0  # standard deviation of the noise, grey levels


class PacedFile(StreamGrabber):
    """Reads a file as if it were a connection to a camera, at the pace of its timestamps.

    Args:
        path: of the video.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(str(path))
        self._begin_s: float | None = None

    def _connect(self) -> InputContainer:
        self._begin_s = None
        return open_container(f"file:{self._url}")

    def read(self) -> Grabbed:
        """Return the next picture when it is due."""
        grabbed = super().read()
        now_s, stamp_s = time.monotonic(), grabbed.stamp_s or 0.0
        if self._begin_s is None:
            self._begin_s = now_s - stamp_s
        time.sleep(max(0.0, self._begin_s + stamp_s - now_s))
        return grabbed


class Metered(LiveSource):
    """A live source that counts the processor time of those who observe its packets.

    Attributes:
        observing_s: processor time in the thread that reads, seconds.
        packets: shown so far.
        size: of all of them, bytes.
    """

    observing_s = 0.0
    packets = 0
    size = 0

    def observe_packets(self, observer: PacketObserver) -> bool:
        """Show each packet, and measure how long its observer takes."""

        def metered(packet: TimedPacket) -> None:
            begin_s = time.thread_time()
            observer(packet)
            self.observing_s += time.thread_time() - begin_s
            self.packets += 1
            self.size += packet.packet.size

        return super().observe_packets(metered)


def measure(video: Path, seconds: float) -> Result:
    """Record a video as if it came from a camera; return the processor time, ready for JSON.

    Args:
        video: longer than `seconds`.
        seconds: how much of it.

    Raises:
        DvflError: if the video cannot be read, or the recording cannot be written.
    """
    with tempfile.TemporaryDirectory() as folder:
        source = Metered(video.stem, PacedFile(video))
        with closing(Recorder(source, pre_roll_s=PRE_ROLL_S)) as recorder, closing(source):
            begin_s = time.monotonic()
            recording = recorder.begin(Path(folder, "all"), 0.0)
            for frame in source.frames():
                if frame.time_s >= seconds:
                    recording.end(frame.time_s)
                    break
            recording.wait()
            elapsed_s = time.monotonic() - begin_s
        if recording.error is not None:
            raise recording.error
        written = sum(path.stat().st_size for path in recording.paths)
    return {
        "what": "processor time of recording all of a source that sends compressed pictures, "
        "in per cent of one core",
        "video": video.name,
        "video_size": size_of(video),
        "seconds": round(elapsed_s, 1),
        "packets": source.packets,
        "mbit_per_s": round(source.size * 8e-6 / elapsed_s, 2),
        "written_bytes": written,
        "thread_percent": round(100 * recorder.cpu_s / elapsed_s, 3),
        "reading_percent": round(100 * source.observing_s / elapsed_s, 3),
    }


def noisy(source: Source, size: tuple[int, int], seconds: float) -> Iterator[Frame]:
    """Yield the first frames of a source in another size, with noise that changes each time.

    Args:
        source: any, closed by the caller.
        size: (width, height), px.
        seconds: how much of it.
    """
    shape = size[1], size[0], 3
    noise = np.random.default_rng(0).normal(0, NOISE, shape).round().astype(np.int8)
    for frame in source.frames():
        if frame.time_s > seconds:
            return
        large = cv2.resize(frame.image, size).astype(np.int16)
        large += np.roll(noise, frame.index * 97, axis=1)
        yield frame.replace(image=np.clip(large, 0, 255).astype(np.uint8))


def _measure_as_asked(args: argparse.Namespace, folder: Path) -> Result:
    video = args.video
    if args.size is not None:
        with closing(open_source(video)) as source:
            copy = noisy(source, args.size, args.seconds + 1)
            video = write_scaled(open_source(copy), args.size, folder / video.name)
    return measure(video, args.seconds)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    parser = comparison_parser("recording", __doc__)
    parser.add_argument("video", type=Path, nargs="?", default=DEMO_CLIP)
    parser.add_argument("--size", type=width_and_height, help="WxH", default=(1920, 1080))
    parser.add_argument("--seconds", type=float, default=30.0)
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        return run_comparison(args, partial(_measure_as_asked, args, Path(folder)), threads=1)


if __name__ == "__main__":
    sys.exit(main())
