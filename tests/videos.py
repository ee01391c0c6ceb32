"""Small videos for tests, written with PyAV, and the folder of real clips."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from dvfl_runtime.recognizer import DEMO_CLIP

SHARED_CLIPS = Path(__file__).resolve().parents[1].parent / "shared" / "clips"


def shared_clip(name: str) -> Path:
    """Returns the path of a real clip, or skips the test where the clips are not installed."""
    path = SHARED_CLIPS / name
    if not path.is_file():
        pytest.skip(f"needs the real clip {path}")
    return path


def pictures(count: int, height: int = 64, width: int = 96) -> Iterable[NDArray[np.uint8]]:
    """Yields noise with a bright bar that moves right by two pixels per picture."""
    for i in range(count):
        image = np.random.default_rng(i).integers(0, 60, (height, width, 3), np.uint8)
        left = 2 * i % (width - 6)
        image[:, left : left + 6] = 250
        yield image


def write_video(
    path: Path,
    images: Iterable[NDArray[np.uint8]],
    *,
    codec: str = "libx264",
    rate: int = 25,
    ticks: Sequence[int] | None = None,
    time_base: Fraction = Fraction(1, 25),
    pix_fmt: str = "yuv420p",
    options: dict[str, str] | None = None,
) -> Path:
    """Writes a video; `ticks` are its timestamps in `time_base`, 0, 1, 2 ... unless given."""
    front = {"movflags": "faststart"} if path.suffix in (".mp4", ".mov") else {}
    with av.open(str(path), "w", options=front) as container:
        stream = container.add_stream(codec, rate=rate, options={"g": "15", **(options or {})})
        stream.codec_context.time_base = time_base
        stream.pix_fmt = pix_fmt
        for i, image in enumerate(images):
            if i == 0:
                stream.height, stream.width = image.shape[:2]
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts = ticks[i] if ticks else i
            frame.time_base = time_base
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def damage_packets(path: Path, numbers: Iterable[int]) -> Path:
    """Overwrites the content of the given packets of a video with 0xff bytes, in place."""
    with av.open(str(path)) as container:
        packets = [(p.pos, p.size) for p in container.demux(video=0) if p.size]
    data = bytearray(path.read_bytes())
    for number in numbers:
        start, size = packets[number]
        data[start + 4 : start + size] = b"\xff" * (size - 4)
    path.write_bytes(data)
    return path


def beginning_of(path: Path, seconds: float, target: Path) -> Path:
    """Copy the packets of a video up to its first key picture at or after a time."""
    with av.open(str(path)) as source, av.open(str(target), "w") as out:
        stream = source.streams.video[0]
        copied = out.add_stream_from_template(stream)
        for packet in source.demux(stream):
            if packet.pts is None or (
                packet.is_keyframe and packet.pts * packet.time_base >= seconds
            ):
                break
            packet.stream = copied
            out.mux(packet)
    return target


def cut_clips(folder: Path) -> None:
    """Write three clips of two actions, parts of the demo."""
    for label, begins_s in (("bowing", (19, 20, 42)), ("jumping", (11, 12, 34.5))):
        (folder / label).mkdir(parents=True)
        for n, begin_s in enumerate(begins_s):
            cut(folder / label / f"p{n}_1.mp4", begin_s, begin_s + 2)


def cut(path: Path, begin_s: float, end_s: float) -> None:
    """Write a part of the demo."""
    with av.open(str(DEMO_CLIP)) as demo, av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=25, options={"preset": "ultrafast"})
        stream.width = stream.height = 320
        for picture in itertools.takewhile(lambda one: one.time < end_s, demo.decode(video=0)):
            if picture.time >= begin_s:
                out.mux(stream.encode(picture.reformat(format="yuv420p")))
        out.mux(stream.encode())
