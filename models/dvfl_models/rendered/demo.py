"""The clip that is bundled with the runtime: one drawn person who shows all five actions.

The figure and its movements are those of the clips of training; what makes it pleasant to look at
(`portrait`) is the demo's alone.

python -m dvfl_models.rendered.demo OUT.mp4
"""

from __future__ import annotations

import argparse
import itertools
import logging
import os
from collections.abc import Iterator, Sequence
from typing import Final

import cv2
import numpy as np

from dvfl_models.rendered import painting, portrait
from dvfl_models.rendered.figures import body_points
from dvfl_models.rendered.poses import timeline_angles
from dvfl_models.rendered.scene import Scene
from dvfl_runtime.arguments import natural
from dvfl_runtime.errors import ArgumentError
from dvfl_runtime.files import replacing
from dvfl_runtime.sources import Image

DEMO_TIMELINE: Final = (
    ("idle", 3.5),
    ("wave_one_hand", 4.0),
    ("idle", 3.5),
    ("jumping_jack", 4.0),
    ("idle", 3.5),
    ("bend", 4.5),
    ("idle", 3.5),
    ("wave_two_hands", 4.0),
    ("idle", 3.5),
    ("jumping_jack", 3.5),
    ("idle", 3.5),
    ("bend", 4.0),
)
DEMO_SEED: Final = 1160  # faces the camera
FPS: Final = 25
_SIZE = (320, 320)
_OVERSAMPLING = 3  # pictures are drawn larger, for smooth edges
# 250 kB with the default seed. The clip is part of the wheel and has to stay below 300 kB.
_X264 = {"crf": "31", "preset": "veryslow", "g": "250"}

log = logging.getLogger(__name__)


def demo_frames(seed: int = DEMO_SEED) -> Iterator[Image]:
    """Yield the RGB frames (H, W, 3) of the clip before compression; frame k is at k / FPS."""
    total_s = sum(seconds for _, seconds in DEMO_TIMELINE)
    return (demo_frame(k / FPS, seed) for k in range(round(total_s * FPS)))


def demo_frame(time_s: float, seed: int = DEMO_SEED) -> Image:
    """Return what the clip shows at a time, before compression: RGB (H, W, 3)."""
    scene = portrait.dressed(Scene.sample(seed, clean=True))
    (person,), view = scene.people, scene.view
    large = (_OVERSAMPLING * _SIZE[0], _OVERSAMPLING * _SIZE[1])
    poses = timeline_angles(DEMO_TIMELINE, np.array([time_s]), person.styles)
    body = body_points(poses, person)
    layers = painting.figure_layers(body, person, view, large, arc=portrait.ARC)
    layers += portrait.details(body, person, view, large)
    image = painting.paint_layers(portrait.room(large), layers, 0, np.zeros(2), view)
    return painting.to_uint8(cv2.resize(image, _SIZE[::-1], interpolation=cv2.INTER_AREA))


def demo_label(time_s: float) -> str:
    """Return the action that the clip shows at a time in seconds.

    Raises:
        ArgumentError: if the clip has no frame at that time.
    """
    ends = itertools.accumulate(seconds for _, seconds in DEMO_TIMELINE)
    if time_s >= 0:
        for (action, _), end in zip(DEMO_TIMELINE, ends, strict=True):
            if time_s < end:
                return action
    total_s = sum(seconds for _, seconds in DEMO_TIMELINE)
    raise ArgumentError(f"time_s must be >= 0 and < {total_s}, got {time_s}")


def write_demo(path: str | os.PathLike[str], *, seed: int = DEMO_SEED) -> int:
    """Write the clip as an H.264 file; return its size in bytes.

    Raises:
        OutputError: if the folder is missing or not writable, or the disk is full.
    """
    import av

    height, width = _SIZE
    with replacing(path) as part:
        with av.open(str(part), "w", options={"movflags": "faststart"}) as container:
            stream = container.add_stream("libx264", rate=FPS, options=_X264)
            stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
            for image in demo_frames(seed):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
            container.mux(stream.encode())
        return part.stat().st_size


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog="python -m dvfl_models.rendered.demo", description="Render the bundled demo clip."
    )
    parser.add_argument("out", metavar="OUT.mp4", help="where to write the clip")
    parser.add_argument(
        "--seed",
        type=natural,
        default=DEMO_SEED,
        help="the manner of the actions (default %(default)s)",
    )
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    size = write_demo(args.out, seed=args.seed)
    total_s = sum(seconds for _, seconds in DEMO_TIMELINE)
    log.info("%s: %.1f s, %d kB", args.out, total_s, round(size / 1000))


if __name__ == "__main__":
    main()
