"""Memory is bounded by the window, not by the video."""

import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from dvfl_runtime.recognizer import BUNDLED_MODEL

RECOGNISE = """
import resource, sys
from dvfl_runtime import Recognizer
import numpy as np
with Recognizer(sys.argv[1]) as r:
    r.predict(np.zeros((r.spec.num_frames, 240, 320, 3), np.uint8))
    next(r.stream(sys.argv[2]))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    windows = sum(1 for _ in r.stream(sys.argv[2], hop_s=2.0))
    segments = sum(1 for _ in r.segments(sys.argv[2], hop_s=2.0))
    r.classify(sys.argv[2])
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(windows, segments, (after - before) / 1024)
"""


def write_long_video(path: Path, *, minutes: float) -> None:
    """A 320 x 240 video at 25 fps, a few distinct pictures over and over."""
    pictures = np.random.default_rng(0).integers(0, 255, (8, 240, 320, 3)).astype(np.uint8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = 320, 240, "yuv420p"
        frames = [
            av.VideoFrame.from_ndarray(np.repeat(p[::8, ::8], 8, 0).repeat(8, 1)) for p in pictures
        ]
        for index in range(int(minutes * 60 * 25)):
            frame = frames[index // 50 % len(frames)]
            frame.pts, frame.time_base = index, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


@pytest.mark.parametrize(
    "minutes", [pytest.param(1, id="1 min"), pytest.param(30, id="30 min", marks=pytest.mark.slow)]
)
def test_a_long_video_within_200_mb_above_the_model(tmp_path: Path, minutes: int) -> None:
    write_long_video(tmp_path / "long.mp4", minutes=minutes)
    command = [sys.executable, "-c", RECOGNISE, str(BUNDLED_MODEL), str(tmp_path / "long.mp4")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    windows, segments, megabytes = done.stdout.split()
    assert int(windows) >= minutes * 30 - 1
    assert int(segments) >= 1
    assert float(megabytes) < 200
