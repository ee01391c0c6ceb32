"""Seeded renderer of human figures that perform simple actions.

The people of `rendered.figures`, seen by a perspective camera and painted as capsules and
hulls: for pre-training, tests and the demo clip. The same arguments always give the same pixels:
the order in which random numbers are drawn is part of what a seed means.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from dvfl_models.rendered.figures import BIAS, CAPSULES, JOINTS, RADII, Person, body_points
from dvfl_models.rendered.poses import (
    ACTIONS,
    PITCH,
    Floats,
    Style,
    Timeline,
    facing,
    pose_angles,
    timeline_angles,
)
from dvfl_runtime.errors import ArgumentError

__all__ = ["ACTIONS", "contact_sheet", "render_clip", "render_video"]

Frame: TypeAlias = NDArray[np.uint8]
Size: TypeAlias = tuple[int, int]
Posers: TypeAlias = Sequence[Callable[[Floats], Floats]]  # times (T,) to poses, one per person

_CHUNK = 32  # frames whose outlines are in memory together
_OVERSAMPLING = 2  # pictures are drawn larger, for smooth edges
_STAINS = (  # of the backdrop: how many from top to bottom, with hard or soft edges
    (3, cv2.INTER_NEAREST),
    (8, cv2.INTER_CUBIC),
    (20, cv2.INTER_CUBIC),
    (45, cv2.INTER_NEAREST),
)
_SUBPIXEL_BITS = 4  # of the coordinates that OpenCV draws


class Rendered(NamedTuple):
    """A clip and what is known of it.

    Attributes:
        images: RGB frames (T, H, W, 3).
        joints: (T, 13, 2) places of `figures.JOINTS` of the person who acts, x and y in pixels,
            0 in the middle of the first; NaN if there is nobody. They may be hidden or outside.
    """

    images: Frame
    joints: Floats


class Layer(NamedTuple):
    """A convex shape to paint in each frame; without a colour it is a shadow."""

    nearness: Floats  # (T,)
    outline: Floats  # (T, N, 2)
    colour: Floats | None
    has_edge: bool


@dataclass(frozen=True)
class View:
    """Camera, light and quality of the picture of one clip."""

    zoom: float  # height of a person in heights of the picture
    x: float  # where the middle of a person is, in widths and heights of the picture
    y: float
    distance: float  # of the camera, in body heights
    light_x: float  # where the light comes from
    light_z: float
    pitch: float  # of the camera, degrees downwards
    shadow: float  # opacity, 0 for none
    edge: float  # brightness of the line around each part
    texture: float  # contrast of the backdrop
    shake: float  # of the camera, in heights of the picture
    shutter_s: float
    noise: float
    pan: float  # of the camera, in heights of the picture per second
    gamma: float
    detail: float  # share of the resolution that is left
    jpeg: int  # quality, 0 for no compression

    @classmethod
    def sample(cls, rng: np.random.Generator, *, clean: bool, heading: float) -> View:
        """Draws a view that has room for a person who reaches to a side (heading in radians)."""
        rough = 0.0 if clean else 1.0
        zoom = 0.66 if clean else float(np.clip(rng.normal(0.8, 0.17), 0.35, 1.08))
        top = rng.uniform(max(0.05, 0.3 * zoom - 0.06), min(0.42, max(0.3, 1.22 - zoom)))
        top = 0.24 if clean else top + rng.normal(0, 0.1) * (rng.random() < 0.15)
        return cls(
            zoom=zoom,
            x=0.5 + rough * (rng.normal(0, 0.08) - 0.13 * zoom * math.sin(heading)),
            y=top + 0.5 * zoom,
            distance=rng.uniform(3, 9),
            light_x=rng.uniform(-1, 1),
            pitch=rng.normal(6, 2 + 7 * rough),
            light_z=rng.uniform(-0.8, 0.8),
            shadow=rng.uniform(0.1, 0.5) * (rng.random() < 0.5),
            edge=rng.uniform(0.7, 1),
            texture=0.35 + 0.65 * rough,
            shake=0.0008 if clean else 0.008 * rng.random() ** 3,
            shutter_s=0.02 * rough * (rng.random() < 0.35),
            noise=rough * 7 * rng.random() ** 2,
            pan=rough * rng.normal(0, 0.03) * (rng.random() < 0.15),
            gamma=float(np.exp(rng.normal(0, 0.1 + 0.12 * rough))),
            detail=1.0 if clean or rng.random() < 0.5 else rng.uniform(0.4, 1.0),
            jpeg=int(rng.integers(25, 90) * rough * (rng.random() < 0.35)),
        )


@dataclass(frozen=True)
class Scene:
    """Every random choice of one clip (the backdrop's and the noise's details follow the seed)."""

    seed: tuple[int, int, int]
    people: tuple[Person, ...]
    view: View
    backdrop: Floats  # (3,) RGB, 0 to 255

    @classmethod
    def sample(cls, seed: int, action: str = "idle", *, clean: bool = False) -> Scene:
        """Draws a scene for an action; a clean one keeps the person well in an easy picture."""
        seeds = (seed, ACTIONS.index(action), int(clean))
        rng = np.random.default_rng(seeds)
        backdrop = np.clip(rng.uniform(60, 205) + rng.normal(0, rng.choice([5, 16]), 3), 20, 235)
        odds = (0.07, 0.63, 0.30) if action == "idle" else (0.0, 0.93, 0.07)
        count = 1 if clean else int(rng.choice(3, p=odds))
        people = [Person.sample(rng, backdrop) for _ in range(count)]
        if clean:  # nobody walks, arms wave widely, and all but the bend are seen from the front
            people[0].styles[:, Style.KIND] = (0.1, 0.6, 0.6, 0.5, 0.5)
            people[0].styles[1:4, Style.DIRECTION_KIND] = 0.5
        for k in range(1, count):
            place = (rng.choice([-1, 1]) * rng.uniform(0.3, 0.7), rng.uniform(-1, 0))
            people[k] = replace(people[k], place=place)
        heading = 0.0
        if action == "bend":
            heading = math.radians(facing(action, people[0].styles[ACTIONS.index(action)]))
        view = View.sample(rng, clean=clean, heading=heading)
        return cls(seeds, tuple(people), view, backdrop)


def render_video(
    timeline: Timeline, *, seed: int, fps: float = 25.0, size: Size = (192, 192)
) -> Iterator[Frame]:
    """Renders one person who does one thing after another, in a clean scene.

    Args:
        timeline: actions, each with its seconds; poses blend over 0.3 s at the boundaries.
        seed: chooses the person, the scene and the manner of the actions.
        fps: frame k shows the time k / fps.
        size: height and width in pixels.

    Returns:
        RGB frames (H, W, 3), drawn as they are asked for.

    Raises:
        ArgumentError: if an action is unknown or a number is not positive and finite.
    """
    for action, seconds in timeline:
        _check(action, seconds=seconds, fps=fps, height=size[0], width=size[1])
    scene, total_s = Scene.sample(seed, clean=True), sum(seconds for _, seconds in timeline)
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
) -> Rendered:
    """Renders a clip of one action.

    Args:
        action: one of `ACTIONS`.
        seed: chooses the people, the scene and the manner of the action.
        num_frames: how many frames, at the centres of equal parts of the window.
        window_s: the time that the clip spans, in seconds.
        size: height and width in pixels.
        clean: whether the scene is an easy one: one person, entirely visible, who acts distinctly
            before a calm backdrop, with a steady and sharp camera. Otherwise there may be nobody
            (idle), a second person who is idle, someone cut off by the border, shake, blur, noise
            and compression.

    Raises:
        ArgumentError: if the action is unknown or a number is not positive and finite.
    """
    _check(action, num_frames=num_frames, window_s=window_s, height=size[0], width=size[1])
    scene = Scene.sample(seed, action, clean=clean)
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
) -> Frame:
    """Renders clips of all actions into one picture.

    Args:
        seed: of the first clip of each action; the next ones count up from it.
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
    """Sets the phase of a bend so that the person is bent down in at least two of the frames."""

    def frames_bent(phase: float) -> int:
        pitch = pose_angles("bend", times, np.append(phase, style[1:]))[:, PITCH]
        return min(2, int(np.count_nonzero(pitch > 58)))

    style[Style.PHASE] = max(np.random.default_rng(seed).random(24), key=frames_bent)


def _render(
    scene: Scene, posers: Posers, times: Floats, size: Size
) -> Iterator[tuple[Frame, Floats]]:
    """Pictures and the joints of the first person in them, as in `Rendered`."""
    view, (h, w) = scene.view, (_OVERSAMPLING * size[0], _OVERSAMPLING * size[1])
    rng = np.random.default_rng((*scene.seed, 7))
    still = cv2.resize(_backdrop(rng, scene, *size), (w, h))
    tone = 255 * (np.arange(256) / 255)[:, None] ** view.gamma * (1 + rng.normal(0, 0.04, 3))
    table, starts = _u8(tone)[None], rng.random((2, 2))
    shutter = sorted({0.0, view.shutter_s})  # two moments give the blur of motion
    for first in range(0, len(times), _CHUNK):
        t = times[first : first + _CHUNK]
        waves = np.sin(2 * np.pi * (t[:, None, None] * (0.7, 3.1) + starts)).sum(-1)
        drift = (view.shake * waves + t[:, None] * (view.pan, 0)) * h
        cast = list(zip(scene.people, posers, strict=True))
        moments = [[(body_points(poser(t + lag), p), p) for p, poser in cast] for lag in shutter]
        exposures = [
            [layer for body, p in bodies for layer in _figure(body, p, view, (h, w))]
            for bodies in moments
        ]
        joints = np.full((len(t), len(JOINTS), 2), np.nan)
        for body, _ in moments[0][:1]:
            places = np.stack([body[name] for name in JOINTS], 1)
            drawn_at = _project(places, view, (h, w))[..., :2] + drift[:, None]
            joints = (drawn_at + 0.5) / _OVERSAMPLING - 0.5
        for k, move in enumerate(drift):
            shift = np.column_stack([np.eye(2), move])
            ground = _u8(cv2.warpAffine(still, shift, (w, h), borderMode=cv2.BORDER_REFLECT_101))
            drawn = [_draw(ground, layers, k, move, view) for layers in exposures]
            image = cv2.addWeighted(drawn[0], 0.5, drawn[-1], 0.5, 0)
            small = cv2.resize(image, (size[1], size[0]), interpolation=cv2.INTER_AREA)
            yield _degrade(cv2.LUT(small, table), view, rng), joints[k]


def _figure(points: dict[str, Floats], person: Person, view: View, size: Size) -> list[Layer]:
    """Layers of one person and of the person's shadow."""
    joints = [[part.start for part in CAPSULES], [part.end for part in CAPSULES]]
    places = np.array([[points[name] for name in names] for names in joints])  # (2, L, T, 3)
    radii = RADII * [person.shape[part.thickness] for part in CAPSULES]
    ends = _project(places, view, size)
    fill = _outlines(ends, radii)
    lit = _outlines(ends, radii / 2, (view.light_x * 0.7, -0.6))
    near = ends[..., 3].mean(0) + BIAS[:, None]
    layers = list[Layer]()
    if view.shadow:
        ground = places * (1, 0, 1) + places[..., 1:2] * (view.light_x, 0, view.light_z - 0.2)
        shadows = _outlines(_project(ground, view, size), radii)
        layers += [Layer(near[0] - 9, outline, None, False) for outline in shadows]
    skirt = [*_outlines(ends[:, 3:5], radii[:, 3:5] * 1.3)] if person.shape["skirt"] else []
    trousers, hem, shirt = (person.colours[name] for name in ("trousers", "hem", "shirt"))
    layers += [
        Layer(near[2], np.hstack([fill[2], *skirt]), trousers, True),
        Layer(near[2] + 0.015, np.hstack([fill[1], fill[2]]), hem, True),
        Layer(near[0], np.hstack([fill[0], fill[1]]), shirt, True),
    ]
    for i in np.flatnonzero(radii[0])[3:]:  # long hair and a hat that are absent have no radius
        colour = person.colours[CAPSULES[i].colour]
        light = np.minimum(colour * 1.08 + 6, 255)
        layers += [
            Layer(near[i], fill[i], colour, True),
            Layer(near[i] + 1e-4, lit[i], light, False),
        ]
    return layers


def _project(points: Floats, view: View, size: Size) -> Floats:
    """Projects (..., 3) points to (..., 4): x, y and pixels per body height, nearness."""
    c, s = math.cos(math.radians(view.pitch)), math.sin(math.radians(view.pitch))
    x, y, z = np.moveaxis(points - (0, 0.5, 0), -1, 0)
    near = z * c + y * s
    scale = size[0] * view.zoom / np.maximum(1 - near / view.distance, 0.25)
    column, row = view.x * size[1] + x * scale, view.y * size[0] - (y * c - z * s) * scale
    return np.stack([column, row, scale, near], -1)


def _outlines(ends: Floats, radii: Floats, move: tuple[float, float] = (0, 0)) -> Floats:
    """Outlines (L, T, 14, 2) of capsules with projected ends (2, L, T, 4) and radii (2, L)."""
    (a, b), arc = ends, np.linspace(-np.pi / 2, np.pi / 2, 7)
    angle = np.arctan2(b[..., 1] - a[..., 1], b[..., 0] - a[..., 0])[..., None] + arc
    unit = np.stack([np.cos(angle), np.sin(angle)], -1)
    thick = (ends[..., 2] * radii[..., None])[..., None, None]
    outlines = ends[..., None, :2] + np.stack([move - unit, move + unit]) * thick
    return np.concatenate(list(outlines), -2)


def _draw(ground: Frame, layers: list[Layer], t: int, move: Floats, view: View) -> Frame:
    """Paints layers from the farthest to the nearest; shadows are farther than all bodies."""
    canvas, shadow, width = ground.copy(), view.shadow, max(1, len(ground) // 160)
    for _, outlines, colour, has_edge in sorted(layers, key=lambda layer: float(layer.nearness[t])):
        points = (outlines[t] + move) * 2**_SUBPIXEL_BITS
        outline = cv2.convexHull(points.astype(np.int32))
        if shadow and colour is not None:  # all shadows are painted
            canvas, shadow = _u8(cv2.addWeighted(ground, 1 - shadow, canvas, shadow, 0)), 0.0
        paint = np.zeros(3) if colour is None else colour
        cv2.fillConvexPoly(canvas, outline, paint.tolist(), cv2.LINE_AA, _SUBPIXEL_BITS)
        if has_edge:
            ink = (view.edge * paint).tolist()
            cv2.polylines(canvas, [outline], True, ink, width, cv2.LINE_AA, _SUBPIXEL_BITS)
    return canvas


def _backdrop(rng: np.random.Generator, scene: Scene, h: int, w: int) -> Frame:
    """A wall or a landscape: slopes of brightness, stains, a floor, a few objects."""
    contrast, base, tint = scene.view.texture, scene.backdrop, rng.choice([2, 5, 14])
    down = np.linspace(-18, 18, h)[:, None, None] * rng.normal()
    across = np.linspace(-12, 12, w)[:, None] * rng.normal()
    image = np.asarray(base + down + across, np.float32)
    for cells, interpolation in _STAINS:
        columns = max(2, int(cells * rng.choice([0.4, 1, 1, 3])))
        amplitude = contrast * 11 * rng.random() ** 2
        grid = rng.normal(0, amplitude, (cells, columns, 3)).astype(np.float32)
        stains = grid * tint / 40 + grid[..., :1]
        image += cv2.resize(stains, (w, h), interpolation=interpolation)
    floor = int(h * rng.uniform(0.5, 1.6))
    image[floor:] += (rng.normal(0, 22) + rng.normal(0, tint, 3)) * contrast
    for _ in range(int(rng.integers(0, 7) * (rng.random() < 0.7))):
        x, y, x2, y2, kind = (rng.uniform(-0.1, 1.1, 5) * (w, h, w, h, 4)).astype(int).tolist()
        ink = (base + rng.normal(0, 30) * contrast + rng.normal(0, tint, 3)).tolist()
        if kind < 2:  # a door, a window, a wall
            cv2.rectangle(image, (x, y), (x2, y2), ink, -1 if kind else max(1, h // 40))
        else:  # a crack, a cable or a trunk
            cv2.line(image, (x, y), (x2, y2) if kind == 2 else (x, h), ink, max(1, w // 45))
        if kind > 2:
            for leaf in rng.normal((x, y), w * 0.07, (8, 2)).astype(int):
                cv2.circle(image, leaf.tolist(), int(w * rng.uniform(0.02, 0.1)), ink, -1)
    return _u8(cv2.GaussianBlur(image, (3, 3), 0))


def _degrade(image: NDArray[Any], view: View, rng: np.random.Generator) -> Frame:
    """Takes away detail and adds noise and compression, as the view says."""
    small = cv2.resize(image, None, None, view.detail, view.detail, cv2.INTER_AREA)
    image = cv2.resize(small, image.shape[1::-1])
    if view.noise > 0.5:
        image = _u8(image + rng.normal(0, view.noise, image.shape))
    if view.jpeg:
        data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, view.jpeg])[1]
        image = np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR))
    return _u8(image)


def _u8(image: NDArray[Any]) -> Frame:
    return np.clip(image, 0, 255).astype(np.uint8) if image.dtype != np.uint8 else image
