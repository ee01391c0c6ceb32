"""Pictures in which a person fills a part: a real clip pasted into a drawn scene, and disturbances.

Each disturbance is one that cameras meet: the light, the lens, the encoder, other things that move.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from io import BytesIO
from typing import Any, NamedTuple, TypeAlias

import av
import cv2
import numpy as np
from numpy.typing import NDArray

from dvfl_models.rendered import painting
from dvfl_models.rendered import scene as scenery
from dvfl_runtime.clips.spec import Clip

Rng: TypeAlias = np.random.Generator
Floats: TypeAlias = NDArray[np.float32]

EDGE = 0.05  # of a pasted square's side, over which it blends with the scene
MARGIN = 0.25  # of the picture's size on each side of it, for a camera that moves
FPS = 25
LOW_QUALITY = 42  # x264's crf: 18 looks like the original, 51 is the worst


class Scene(NamedTuple):
    """A scene with people.

    Attributes:
        images: (T, height, width, 3).
        places: left and top of each pasted square, px, where the camera does not move.
    """

    images: Clip
    places: list[tuple[int, int]]


def draw_scene(
    clips: Sequence[Clip],
    side: int,
    picture: tuple[int, int],
    kind: str,
    rng: Rng,
    frames: int,
) -> Scene:
    """Draw a scene with each clip at a random place.

    Args:
        clips: (T, h, w, 3), square; none of them for a scene without people.
        side: of the pasted squares, px.
        picture: (width, height), px.
        kind: one of `DISTURBANCES` or `MOVES`; anything else disturbs nothing.
        rng: draws scene and places.
        frames: T.
    """
    places = _places(len(clips), side, picture, rng)
    still = np.zeros((frames, 2), np.float32)
    moves = MOVES[kind](frames, picture[0], rng) if kind in MOVES else still
    images = _paste(clips, places, side, picture, moves, rng)
    return Scene(DISTURBANCES[kind](images, rng) if kind in DISTURBANCES else images, places)


def _paste(
    clips: Sequence[Clip],
    places: Sequence[tuple[int, int]],
    side: int,
    picture: tuple[int, int],
    moves: Floats,
    rng: Rng,
) -> Clip:
    width, height = picture
    left, top = int(width * MARGIN), int(height * MARGIN)
    scene = scenery.Scene.sample(int(rng.integers(10**6)))
    wide = painting.backdrop(rng, scene, height + 2 * top, width + 2 * left).astype(np.float32)
    ramp = np.minimum(np.arange(side), np.arange(side)[::-1]) / (EDGE * max(side, 1))
    opacity = np.minimum.outer(ramp, ramp).clip(0, 1)[..., None].astype(np.float32)
    images = np.empty((len(moves), height, width, 3), np.uint8)
    if not moves.any():  # nobody sees the margin
        wide = np.ascontiguousarray(wide[top : top + height, left : left + width])
        left = top = 0
    for t, (dx, dy) in enumerate(moves.tolist()):
        canvas = wide.copy()
        for clip, (x, y) in zip(clips, places, strict=True):
            how = cv2.INTER_AREA if side < clip.shape[1] else cv2.INTER_CUBIC
            person = cv2.resize(clip[t], (side, side), interpolation=how).astype(np.float32)
            part = canvas[top + y : top + y + side, left + x : left + x + side]
            part += opacity * (person - part)
        middle = (left + width / 2 - 0.5 + dx, top + height / 2 - 0.5 + dy)
        images[t] = cv2.getRectSubPix(canvas.clip(0, 255), picture, middle).round()
    return images


def _places(count: int, side: int, picture: tuple[int, int], rng: Rng) -> list[tuple[int, int]]:
    """Return the left and top of each square, px; of two, one in each half of the picture."""
    width, height = picture
    part = width // max(count, 1)
    return [
        (
            n * part + int(rng.integers(max(1, part - side + 1))),
            int(rng.integers(height - side + 1)),
        )
        for n in range(count)
    ]


def dark(frames: Clip, rng: Rng) -> Clip:
    """Darken to a fifth, with the noise of a sensor at high gain."""
    return _bytes(frames * 0.2 + rng.normal(0, 5, frames.shape))


def noise(frames: Clip, rng: Rng) -> Clip:
    """Add the noise of a cheap sensor."""
    return _bytes(frames + rng.normal(0, 8, frames.shape))


def flicker(frames: Clip, rng: Rng) -> Clip:
    """Change the brightness from frame to frame, as lamps and automatic exposure do."""
    return _bytes(frames * rng.uniform(0.8, 1.2, (len(frames), 1, 1, 1)))


def shadow(frames: Clip, rng: Rng) -> Clip:
    """Let a soft large shadow, as of a cloud, pass over half of the picture."""
    count, width = len(frames), frames.shape[2]
    edge = np.linspace(-0.2, 0.7, count)[:, None]
    depth = 0.35 / (1 + np.exp((np.arange(width) / width - edge) * 12))
    return _bytes(frames * (1 - depth[:, None, :, None]))


def rain(frames: Clip, rng: Rng) -> Clip:
    """Draw streaks of rain, others in each frame."""
    out = frames.copy()
    height, width = frames.shape[1:3]
    for image in out:
        for x, y in (rng.random((150, 2)) * (width, height)).astype(int).tolist():
            end = (x + height // 90, y + height // 18)
            cv2.line(image, (x, y), end, (190, 195, 200), max(1, height // 360), cv2.LINE_AA)
    return _bytes(frames * 0.5 + out * 0.5)


def tree(frames: Clip, rng: Rng, turn: float = 2.1) -> Clip:
    """Put leaves that sway into an upper corner, in a seventh of the width.

    Args:
        frames: to draw on.
        rng: draws the leaves.
        turn: of a sway, in radians from one frame to the next.
    """
    out = frames.copy()
    count, height, width, _ = frames.shape
    left = width - width // 7 if rng.random() < 0.5 else width // 14
    leaves = rng.normal((left, height * 0.15), (width / 24, height / 12), (60, 2))
    inks = rng.uniform((30, 60, 20), (90, 140, 60), (60, 3))
    phases = rng.uniform(0, 2 * np.pi, 60)
    for t in range(count):
        sway = np.sin(t * turn + phases)[:, None] * (height / 70, height / 200)
        for place, ink in zip((leaves + sway).astype(int).tolist(), inks.tolist(), strict=True):
            cv2.circle(out[t], place, height // 60, ink, -1, cv2.LINE_AA)
    return out


def film(frames: Clip, rng: Rng) -> Clip:
    """Put a television at a wall, whose picture goes by smoothly, as when a camera turns."""
    out = frames.copy()
    count, height, width, _ = frames.shape
    h, w = height // 7, width // 8
    x = 0 if rng.random() < 0.5 else width - w
    y = int(rng.integers(height // 3))
    wide = cv2.resize(rng.uniform(20, 230, (5, 12, 3)).astype(np.float32), (2 * w, h))
    for t in range(count):
        left = round(t * w / max(1, count - 1))
        out[t, y : y + h, x : x + w] = wide[:, left : left + w].clip(0, 255)
    return out


def screen(frames: Clip, rng: Rng) -> Clip:
    """Put a television, whose picture changes all the time, at a wall."""
    out = frames.copy()
    count, height, width, _ = frames.shape
    h, w = height // 7, width // 8
    x = 0 if rng.random() < 0.5 else width - w
    y = int(rng.integers(height // 3))
    for t in range(count):
        shown = rng.uniform(20, 230, (3, 4, 3)).astype(np.float32)
        out[t, y : y + h, x : x + w] = cv2.resize(shown, (w, h)).clip(0, 255)
    return out


def compression(frames: Clip, rng: Rng) -> Clip:
    """Encode and decode at a low bit rate; each picture lasts for a quarter of a second."""
    data = BytesIO()
    with av.open(data, "w", format="mp4") as container:
        stream = container.add_stream("libx264", FPS, options={"crf": str(LOW_QUALITY)})
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "yuv420p"
        stream.thread_count = 1
        for image in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image)))
        container.mux(stream.encode(None))
    data.seek(0)
    with av.open(data, "r") as decoding:
        shown = [frame.to_ndarray(format="rgb24") for frame in decoding.decode(video=0)]
    return np.stack(shown).astype(np.uint8)


def shaken(count: int, width: int, rng: Rng) -> Floats:
    """Return the moves of a camera in an unsteady hand, (T, 2) px."""
    return np.asarray(rng.normal(0, 0.012, (count, 2)) * width, np.float32)


def panned(count: int, width: int, rng: Rng) -> Floats:
    """Return the moves of a camera that turns by a third of the picture, (T, 2) px."""
    turn = np.linspace(-1, 1, count)[:, None] * (0.16, 0.01) * width
    return np.asarray(turn * rng.choice([-1, 1]), np.float32)


DISTURBANCES: dict[str, Callable[[Clip, Rng], Clip]] = {
    "noise": noise,
    "dark": dark,
    "compression": compression,
    "flicker": flicker,
    "shadow": shadow,
    "rain": rain,
    "tree": tree,
    "slow tree": partial(tree, turn=0.6),
    "film": film,
    "screen": screen,
}
MOVES: dict[str, Callable[[int, int, Rng], Floats]] = {"shake": shaken, "pan": panned}


def _bytes(values: NDArray[Any]) -> Clip:
    return np.asarray(np.clip(np.rint(values), 0, 255), np.uint8)
