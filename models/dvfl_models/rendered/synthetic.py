"""A seeded renderer of human figures that perform simple actions.

For pre-training, tests and the demo clip. The same arguments always give the same pixels: the order
in which random numbers are drawn is part of what a seed means.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NamedTuple, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from dvfl_models.rendered import painting
from dvfl_models.rendered.figures import JOINTS, body_points
from dvfl_models.rendered.painting import Size
from dvfl_models.rendered.poses import (
    ACTIONS,
    PITCH,
    Floats,
    Style,
    Timeline,
    pose_angles,
    timeline_angles,
)
from dvfl_models.rendered.scene import Scene
from dvfl_runtime.errors import ArgumentError
from dvfl_runtime.sources import Image

__all__ = ["ACTIONS", "contact_sheet", "render_clip", "render_video"]

Posers: TypeAlias = Sequence[Callable[[Floats], Floats]]  # times (T,) to poses, one per person

_CHUNK = 32  # frames whose outlines are in memory together
_OVERSAMPLING = 2  # pictures are drawn larger, for smooth edges


class Rendered(NamedTuple):
    """A clip and the joints that it shows.

    Attributes:
        images: RGB frames (T, H, W, 3).
        joints: (T, 13, 2) places of `figures.JOINTS` of the person who acts, x and y in pixels from
            the middle of the first one; NaN if there is nobody. They may be hidden or outside.
    """

    images: NDArray[np.uint8]
    joints: Floats


def render_video(
    timeline: Timeline,
    *,
    seed: int,
    fps: float = 25.0,
    size: Size = (192, 192),
    room: float = 1.0,
) -> Iterator[Image]:
    """Render one person who does one thing after another, in a clean scene.

    Args:
        timeline: actions, each with its seconds; poses blend over 0.3 s at the boundaries.
        seed: chooses the person, the scene and the manner of the actions.
        fps: frame k shows the time k / fps.
        size: height and width in pixels.
        room: as in `render_clip`.

    Returns:
        RGB frames (H, W, 3), each drawn when it is asked for.

    Raises:
        ArgumentError: if an action is unknown or a number is not positive and finite.
    """
    for action, seconds in timeline:
        _check(action, seconds=seconds, fps=fps, height=size[0], width=size[1])
    scene = Scene.sample(seed, clean=True).with_room(room)
    total_s = sum(seconds for _, seconds in timeline)
    poser = partial(timeline_angles, tuple(timeline), styles=scene.people[0].styles)
    times = np.arange(round(total_s * fps)) / fps
    return (image for image, _ in _render(scene, [poser], times, size))


def render_clip(
    action: str,
    *,
    seed: int,
    num_frames: int = 8,
    window_s: float = 2.0,
    size: Size = (64, 64),
    clean: bool = False,
    room: float = 1.0,
) -> Rendered:
    """Render a clip of one action.

    Args:
        action: one of `ACTIONS`.
        seed: chooses the people, the scene and the manner of the action.
        num_frames: how many frames, at the centres of equal parts of the window.
        window_s: the time that the clip spans, in seconds.
        size: height and width in pixels.
        clean: draw an easy scene: one person, entirely visible, who acts distinctly in front of a
            calm backdrop, seen by a steady and sharp camera. Otherwise there may be nobody (idle),
            a second person who is idle, somebody cut off by the border, shake, blur, noise and
            compression.
        room: sides of the picture, in those of one that the people fill; with more than 1 they are
            so much smaller and anywhere in it.

    Raises:
        ArgumentError: if the action is unknown or a number is not positive and finite.
    """
    _check(action, num_frames=num_frames, window_s=window_s, height=size[0], width=size[1])
    scene = Scene.sample(seed, action, clean=clean).with_room(room)
    times = (np.arange(num_frames) + 0.5) * window_s / num_frames
    if action == "bend":
        _begin_bent(scene.people[0].styles[ACTIONS.index(action)], times, seed)
    posers = [
        partial(pose_angles, name, style=person.styles[ACTIONS.index(name)])
        for name, person in zip((action, "idle"), scene.people, strict=False)
    ]
    images, joints = zip(*_render(scene, posers, times, size), strict=True)
    return Rendered(np.stack(images), np.stack(joints))


def contact_sheet(
    *, seed: int = 0, columns: int = 8, rows_per_action: int = 1, size: Size = (96, 96)
) -> Image:
    """Render clips of all actions into one picture.

    Args:
        seed: of the first clip of each action; those of the next clips count up from it.
        columns: frames per clip.
        rows_per_action: clips of each action.
        size: height and width of a frame in pixels.

    Returns:
        An RGB picture (H, W, 3): a clip per row, the name of its action at the left.
    """
    _check("idle", columns=columns, rows_per_action=rows_per_action, height=size[0], width=size[1])
    rows = []
    for action in ACTIONS:
        label = np.full((size[0], 110, 3), 255, np.uint8)
        cv2.putText(label, action, (3, size[0] // 2), cv2.FONT_HERSHEY_SIMPLEX, 0.38, (0, 0, 0))
        for k in range(seed, seed + rows_per_action):
            clip = render_clip(action, seed=k, num_frames=columns, size=size).images
            rows.append(np.hstack([label, *clip]))
    return np.vstack(rows)


def _check(action: str, **positive: float) -> None:
    if action not in ACTIONS:
        raise ArgumentError(f"unknown action {action!r}; use one of {', '.join(ACTIONS)}")
    for name, value in positive.items():
        if not 0 < value < math.inf:
            raise ArgumentError(f"{name} is {value}; use a positive finite number")


def _begin_bent(style: Floats, times: Floats, seed: int) -> None:
    """Set the phase of a bend so that the person is bent down in two of the frames, if possible."""

    def frames_bent(phase: float) -> int:
        pitch = pose_angles("bend", times, np.append(phase, style[1:]))[:, PITCH]
        return min(2, int(np.count_nonzero(pitch > 58)))

    style[Style.PHASE] = max(np.random.default_rng(seed).random(24), key=frames_bent)


def _render(
    scene: Scene, posers: Posers, times: Floats, size: Size
) -> Iterator[tuple[Image, Floats]]:
    """Yield pictures and the joints of the first person in them, as in `Rendered`."""
    view, large = scene.view, (_OVERSAMPLING * size[0], _OVERSAMPLING * size[1])
    height, width = large
    rng = np.random.default_rng((*scene.seed, 7))
    still = cv2.resize(painting.backdrop(rng, scene, *size), (width, height))
    tone = 255 * (np.arange(256) / 255)[:, None] ** view.gamma * (1 + rng.normal(0, 0.04, 3))
    table, starts = painting.to_uint8(tone)[None], rng.random((2, 2))
    shutter = sorted({0.0, view.shutter_s})  # two moments give the blur of motion
    people = list(zip(scene.people, posers, strict=True))
    for first in range(0, len(times), _CHUNK):
        t = times[first : first + _CHUNK]
        waves = np.sin(2 * np.pi * (t[:, None, None] * (0.7, 3.1) + starts)).sum(-1)
        drift = (view.shake * waves + t[:, None] * (view.pan, 0)) * height  # (T, 2) px
        moments = [
            [(body_points(poser(t + lag), person), person) for person, poser in people]
            for lag in shutter
        ]
        exposures = [
            [layer for body, p in bodies for layer in painting.figure_layers(body, p, view, large)]
            for bodies in moments
        ]
        joints = np.full((len(t), len(JOINTS), 2), np.nan)
        for body, _ in moments[0][:1]:
            places = np.stack([body[name] for name in JOINTS], 1)
            drawn_at = painting.project(places, view, large)[..., :2] + drift[:, None]
            # from pixels of the large picture to those of the small one, middle to middle
            joints = (drawn_at + 0.5) / _OVERSAMPLING - 0.5
        for k, move in enumerate(drift):
            shift = np.column_stack([np.eye(2), move])
            moved = cv2.warpAffine(still, shift, large[::-1], borderMode=cv2.BORDER_REFLECT_101)
            ground = painting.to_uint8(moved)
            drawn = [painting.paint_layers(ground, layers, k, move, view) for layers in exposures]
            image = cv2.addWeighted(drawn[0], 0.5, drawn[-1], 0.5, 0)
            small = cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA)
            yield painting.degrade(cv2.LUT(small, table), view, rng), joints[k]
