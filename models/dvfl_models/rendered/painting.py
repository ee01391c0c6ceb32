"""Pictures from bodies: outlines of their parts in perspective, painted over a backdrop.

Parts are capsules and hulls, painted from the farthest to the nearest by OpenCV.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from dvfl_models.rendered.figures import BIAS, CAPSULES, RADII, Person
from dvfl_models.rendered.poses import Floats
from dvfl_models.rendered.scene import Scene, View
from dvfl_runtime.sources import Image

Size: TypeAlias = tuple[int, int]  # height and width in pixels

_STAINS = (  # of the backdrop: how many from top to bottom, with hard or soft edges
    (3, cv2.INTER_NEAREST),
    (8, cv2.INTER_CUBIC),
    (20, cv2.INTER_CUBIC),
    (45, cv2.INTER_NEAREST),
)
_SUBPIXEL_BITS = 4  # of the coordinates that OpenCV draws


class Layer(NamedTuple):
    """A convex shape to paint in each frame; without a colour it is a shadow."""

    nearness: Floats  # (T,)
    outline: Floats  # (T, N, 2)
    colour: Floats | None
    has_edge: bool


def figure_layers(
    points: dict[str, Floats], person: Person, view: View, size: Size, *, arc: int = 7
) -> list[Layer]:
    """Return the layers of one person and of the person's shadow, in no order.

    Args:
        points: (T, 3) places by name of the joint, as `body_points` returns them.
        person: whose body it is.
        view: the camera and the light.
        size: of the picture.
        arc: points of the half circle at each end of a part.
    """
    joints = [[part.start for part in CAPSULES], [part.end for part in CAPSULES]]
    places = np.array([[points[name] for name in names] for names in joints])  # (2, L, T, 3)
    radii = RADII * [person.shape[part.thickness] for part in CAPSULES]  # (2, L)
    ends = project(places, view, size)  # (2, L, T, 3) -> (2, L, T, 4)
    fill = outlines(ends, radii, arc=arc)
    towards_light = (view.light_x * 0.7, -0.6)
    lit = outlines(ends, radii / 2, towards_light, arc=arc)
    near = ends[..., 3].mean(0) + BIAS[:, None]  # (L, T)
    layers = list[Layer]()
    if view.shadow:
        # along the light down to the ground
        ground = places * (1, 0, 1) + places[..., 1:2] * (view.light_x, 0, view.light_z - 0.2)
        shadows = outlines(project(ground, view, size), radii, arc=arc)
        layers += [Layer(near[0] - 9, outline, None, False) for outline in shadows]
    skirt = [*outlines(ends[:, 3:5], radii[:, 3:5] * 1.3)] if person.shape["skirt"] else []
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


def project(points: Floats, view: View, size: Size) -> Floats:
    """Project points (..., 3) to (..., 4): x, y, pixels per body height, nearness."""
    c, s = math.cos(math.radians(view.pitch)), math.sin(math.radians(view.pitch))
    x, y, z = np.moveaxis(points - (0, 0.5, 0), -1, 0)
    near = z * c + y * s
    # nothing is nearer than a quarter of the camera's distance: it would fill the picture
    scale = size[0] * view.zoom / np.maximum(1 - near / view.distance, 0.25)
    column, row = view.x * size[1] + x * scale, view.y * size[0] - (y * c - z * s) * scale
    return np.stack([column, row, scale, near], -1)


def outlines(
    ends: Floats, radii: Floats, move: tuple[float, float] = (0, 0), *, arc: int = 7
) -> Floats:
    """Return the outlines (L, T, 2 * arc, 2) of capsules from their projected ends and radii.

    Args:
        ends: (2, L, T, 4), as `project` returns them.
        radii: (2, L) in body heights.
        move: of the outlines, x and y in radii.
        arc: points of the half circle at each end.
    """
    (a, b), turns = ends, np.linspace(-np.pi / 2, np.pi / 2, arc)
    angle = np.arctan2(b[..., 1] - a[..., 1], b[..., 0] - a[..., 0])[..., None] + turns
    unit = np.stack([np.cos(angle), np.sin(angle)], -1)
    # (L, T, arc, 2): half a circle at each end
    thick = (ends[..., 2] * radii[..., None])[..., None, None]
    halves = ends[..., None, :2] + np.stack([move - unit, move + unit]) * thick
    return np.concatenate(list(halves), -2)  # (2, L, T, arc, 2) -> (L, T, 2 * arc, 2)


def paint_layers(ground: Image, layers: list[Layer], t: int, move: Floats, view: View) -> Image:
    """Paint frame `t` of the layers over a ground, from the farthest to the nearest.

    Shadows are farther than all bodies: they are blended with the ground once all are painted.
    """
    canvas, shadow, width = ground.copy(), view.shadow, max(1, len(ground) // 160)
    for _, shapes, colour, has_edge in sorted(layers, key=lambda layer: float(layer.nearness[t])):
        points = (shapes[t] + move) * 2**_SUBPIXEL_BITS
        outline = cv2.convexHull(points.astype(np.int32))
        if shadow and colour is not None:  # all shadows are painted
            canvas, shadow = to_uint8(cv2.addWeighted(ground, 1 - shadow, canvas, shadow, 0)), 0.0
        paint = np.zeros(3) if colour is None else colour
        cv2.fillConvexPoly(canvas, outline, paint.tolist(), cv2.LINE_AA, _SUBPIXEL_BITS)
        if has_edge:
            ink = (view.edge * paint).tolist()
            cv2.polylines(canvas, [outline], True, ink, width, cv2.LINE_AA, _SUBPIXEL_BITS)
    return canvas


def backdrop(rng: np.random.Generator, scene: Scene, h: int, w: int) -> Image:
    """Paint a wall or a landscape: slopes of brightness, stains, a floor, a few objects."""
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
    return to_uint8(cv2.GaussianBlur(image, (3, 3), 0))


def degrade(image: NDArray[Any], view: View, rng: np.random.Generator) -> Image:
    """Take away detail and add noise and compression, as the view has them."""
    small = cv2.resize(image, None, None, view.detail, view.detail, cv2.INTER_AREA)
    image = cv2.resize(small, image.shape[1::-1])
    if view.noise > 0.5:
        image = to_uint8(image + rng.normal(0, view.noise, image.shape))
    if view.jpeg:
        data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, view.jpeg])[1]
        image = np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR))
    return to_uint8(image)


def to_uint8(image: NDArray[Any]) -> Image:
    """Return an image clipped to 0 to 255, as bytes."""
    return np.clip(image, 0, 255).astype(np.uint8) if image.dtype != np.uint8 else image
