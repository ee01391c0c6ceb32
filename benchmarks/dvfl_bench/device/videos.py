"""Videos to measure with: played for ever, at a camera's pace, or written in another size."""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from dvfl_runtime import Frame, Source
from dvfl_runtime.draw.encoding import VideoWriter, to_yuv
from dvfl_runtime.sources import Grabbed, open_source


class LoopedVideo:
    """A source that plays a video for ever, on a clock that goes on from round to round.

    Attributes:
        rounds: how often the video has ended.
    """

    live = False
    rewindable = False
    duration_s: float | None = None

    def __init__(self, path: Path) -> None:
        self.name = f"loop of {path.name}"
        self.rounds = 0
        self._path = path
        self._closed = False

    def frames(self) -> Iterator[Frame]:
        """Yield the frames of the video again and again until it is closed."""
        # the step between the last frame and the first of the next round is that of the frames
        # before; 0.04 s if the video has one frame
        index, begin_s, last_s, step_s = 0, 0.0, 0.0, 0.04
        while not self._closed:
            with closing(open_source(self._path)) as source:
                for frame in source.frames():
                    if self._closed:
                        return
                    time_s = begin_s + frame.time_s
                    step_s = time_s - last_s or step_s
                    last_s = time_s
                    yield frame.replace(time_s=time_s, index=index)
                    index += 1
            begin_s = last_s + step_s
            self.rounds += 1

    def close(self) -> None:
        """End it at its next frame."""
        self._closed = True


class SimulatedCamera:
    """A `Grabber` for `LiveSource` that plays a video for ever at a camera's pace.

    Each picture is decoded before it is due, as the driver of a camera has it ready, and handed out
    at its time, or later if decoding takes longer.

    Args:
        path: the video.
        fps: pictures per second, whatever the video's own.
        phase: share of the time between two pictures by which this camera starts late.
    """

    def __init__(self, path: Path, fps: float, phase: float = 0.0) -> None:
        self._path, self._step_s, self._phase = path, 1 / fps, phase
        self._loop: LoopedVideo | None = None
        self._frames: Iterator[Frame] = iter(())
        self._due_s = 0.0

    def open(self) -> None:
        """Begin to play."""
        self._loop = LoopedVideo(self._path)
        self._frames = self._loop.frames()
        self._due_s = time.perf_counter() + self._phase * self._step_s

    def read(self) -> Grabbed | None:
        """Return the next picture when it is due."""
        frame = next(self._frames)
        wait_s = self._due_s - time.perf_counter()
        if wait_s > 0:
            time.sleep(wait_s)
        self._due_s += self._step_s
        return Grabbed(partial(getattr, frame, "image"))

    def close(self) -> None:
        """End it."""
        if self._loop is not None:
            self._loop.close()


def write_scaled(
    source: Source, size: tuple[int, int], path: Path, *, seconds: float = math.inf
) -> Path:
    """Write a source as H.264 in another size and close it; return `path`.

    Args:
        source: of the frames.
        size: (width, height) px, both even.
        path: of the file to write.
        seconds: how much of the source is written.
    """
    file = VideoWriter(path)
    with closing(source), closing(file):
        for frame in source.frames():
            if frame.time_s >= seconds:
                break
            picture = cv2.resize(frame.image, size, interpolation=cv2.INTER_CUBIC)
            file.add(to_yuv(np.asarray(picture, np.uint8)), frame.time_s)
        file.finish()
    return path


def size_of(video: Path) -> str:
    """Return the size of a video's first frame, such as "1280x720"."""
    with closing(open_source(video)) as source:
        height, width = next(iter(source.frames())).image.shape[:2]
    return f"{width}x{height}"


def width_and_height(text: str) -> tuple[int, int]:
    """Read "1920x1080", for argparse; both sides even, as H.264 wants them."""
    width, _, height = text.partition("x")
    if not (width.isdigit() and height.isdigit()):
        raise argparse.ArgumentTypeError(f"must be like 1920x1080, got {text!r}")
    size = int(width), int(height)
    if min(size) < 2 or size[0] % 2 or size[1] % 2:
        raise argparse.ArgumentTypeError(f"both sides must be even numbers >= 2, got {text!r}")
    return size
