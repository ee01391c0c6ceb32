"""What the runtime's libraries are there for, with one set of their versions, as JSON.

Run by tests/test_floors.py in environments of their own, so it needs nothing but the runtime.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from importlib import metadata
from itertools import islice
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from dvfl_runtime import Recognizer
from dvfl_runtime.app.cli import main
from dvfl_runtime.recognizer import BUNDLED_MODEL
from dvfl_runtime.sources import open_source

DEMO = BUNDLED_MODEL.with_name("demo.mp4")
LIBRARIES = ("numpy", "av", "opencv-python-headless", "onnxruntime", "openvino")
BT709, BT601 = 1, 5  # libav's numbers of the matrices
BARS = ((255, 0, 0), (0, 255, 0), (0, 0, 255), (200, 200, 40))


def numbered(count: int) -> Iterator[NDArray[np.uint8]]:
    for k in range(count):
        yield np.full((64, 96, 3), 8 * k, np.uint8)


def write(path: Path, frames: Iterator[av.VideoFrame], width: int, height: int) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"qp": "0", "bf": "2"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv444p"
        for frame in frames:
            stream.codec_context.colorspace = frame.colorspace
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def decoded(folder: Path) -> list[Any]:
    """What each of 30 numbered pictures shows, and when."""
    path = folder / "numbered.mp4"
    write(path, (av.VideoFrame.from_ndarray(image) for image in numbered(30)), 96, 64)
    frames = list(open_source(str(path)).frames())
    return [[round(float(f.image.mean()) / 8), round(f.time_s, 3)] for f in frames]


def colours(folder: Path, matrix: int) -> list[list[int]]:
    """Bars written with a colour matrix, as they are read: (R, G, B) of each."""
    kr, kb = (0.2126, 0.0722) if matrix == BT709 else (0.299, 0.114)
    rgb = np.asarray(BARS, float) / 255
    luma = rgb @ (kr, 1 - kr - kb, kb)
    planes = np.stack(
        [
            16 + 219 * luma,
            128 + 224 * (rgb[:, 2] - luma) / (2 - 2 * kb),
            128 + 224 * (rgb[:, 0] - luma) / (2 - 2 * kr),
        ]
    )  # (3, 4)
    picture = planes.round().astype(np.uint8).repeat(32, 1)[:, None].repeat(96, 1)  # (3, 96, 128)
    frame = av.VideoFrame.from_ndarray(picture, format="yuv444p")
    frame.colorspace = matrix
    path = folder / f"bars{matrix}.mp4"
    write(path, iter([frame]), 128, 96)
    (read,) = open_source(str(path)).frames()
    return [[int(v) for v in read.image[48, 16 + 32 * k]] for k in range(len(BARS))]


def recognised(engine: str) -> dict[str, Any]:
    with Recognizer(engine=engine) as recognizer:
        found = [[p.label, *map(float, p.scores)] for p in islice(recognizer.stream(DEMO), 40)]
        return {"engine": recognizer.info.engine, "predictions": found}


def run(folder: Path) -> dict[str, Any]:
    overlay = folder / "overlay.mp4"
    status = main([str(DEMO), "--overlay", str(overlay), "-o", str(folder / "rows.txt")])
    return {
        "python": sys.version.split()[0],
        "versions": {name: metadata.version(name) for name in LIBRARIES},
        "decoded": decoded(folder),
        "colours": {str(matrix): colours(folder, matrix) for matrix in (BT601, BT709)},
        "recognised": [recognised(engine) for engine in ("onnxruntime", "openvino")],
        "command": status,
        "overlay": sum(1 for _ in open_source(str(overlay)).frames()),
    }


if __name__ == "__main__":
    answers = run(Path(sys.argv[1]))
    (Path(sys.argv[1]) / "answers.json").write_text(json.dumps(answers))
