"""The person of the demo: a face, hands, clothes and a room that people want to look at.

Training draws no such details: they are painted over a body of `figures` for the demo alone.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final, NamedTuple, TypeAlias

import cv2
import numpy as np

from dvfl_models.rendered.figures import BIAS, CAPSULES, RADII, Person
from dvfl_models.rendered.painting import Layer, Size, outlines, project, to_uint8
from dvfl_models.rendered.poses import Floats
from dvfl_models.rendered.scene import Scene, View
from dvfl_runtime.sources import Image

Rgb: TypeAlias = tuple[int, int, int]

_NOWHERE: Final = -1e4  # px, outside of any picture
ARC: Final = 25  # points of half a circle: smooth at the size of the demo

_INK: Final = (44, 36, 38)
_SKIN: Final = (229, 180, 146)
_HAIR: Final = (74, 44, 30)
_CREAM: Final = (248, 238, 222)
_RED: Final = (204, 74, 62)
_DENIM: Final = (50, 78, 128)
_WHITE: Final = (244, 244, 242)
_COLOURS: Final[dict[str, Rgb]] = {
    "shirt": _RED,
    **dict.fromkeys(("hem", "trousers", "shin"), _DENIM),
    **dict.fromkeys(("skin", "forearm", "hand"), _SKIN),
    "shoes": (62, 64, 74),
    "hair": _HAIR,
}
_SHAPE: Final = {"head": 0.072, "long_hair": 0.072, "hat": 0.0, "skirt": 0.0}
_FINGERS: Final = ((58, 0.047), (19, 0.08), (2, 0.085), (-15, 0.078))  # degrees, body heights
_WALL: Final = (203, 214, 206)
# What stands in the room: corners, in sizes of the picture.
_FLAT: Final = (
    ((190, 158, 124), (0, 0.83), (1, 0.83), (1, 1), (0, 1)),  # floor
    *(((178, 146, 112), (0, y), (1, y), (1, y + 0.005), (0, y + 0.005)) for y in (0.87, 0.93)),
    ((232, 232, 224), (0, 0.805), (1, 0.805), (1, 0.83), (0, 0.83)),  # skirting board
    ((240, 240, 234), (0.05, 0.1), (0.29, 0.1), (0.29, 0.44), (0.05, 0.44)),  # window
    *(
        ((184, 210, 226), (x, y), (x + 0.095, y), (x + 0.095, y + 0.145), (x, y + 0.145))
        for x in (0.065, 0.18)
        for y in (0.115, 0.28)
    ),
    ((224, 224, 216), (0.035, 0.44), (0.305, 0.44), (0.305, 0.46), (0.035, 0.46)),  # sill
    ((150, 120, 94), (0.76, 0.16), (0.93, 0.16), (0.93, 0.38), (0.76, 0.38)),  # picture
    ((236, 230, 216), (0.772, 0.172), (0.918, 0.172), (0.918, 0.368), (0.772, 0.368)),
    ((150, 176, 160), (0.785, 0.34), (0.83, 0.25), (0.875, 0.34)),
    ((126, 156, 142), (0.83, 0.34), (0.87, 0.28), (0.905, 0.34)),
    ((184, 116, 84), (0.85, 0.76), (0.95, 0.76), (0.935, 0.87), (0.865, 0.87)),  # pot
)
# The same of ellipses: middle, width and height, degrees.
_ROUND: Final = (
    ((228, 186, 110), (0.885, 0.215), (0.03, 0.03), 0),  # sun
    ((150, 172, 176), (0.5, 0.925), (0.62, 0.1), 0),  # rug
    ((172, 190, 192), (0.5, 0.925), (0.53, 0.075), 0),
    *(
        (colour, (0.9 + x, 0.7 + y), (0.035, 0.15), degrees)
        for colour, x, y, degrees in (
            ((104, 142, 104), -0.045, 0.0, -35),
            ((96, 134, 98), 0.045, 0.0, 35),
            ((118, 156, 112), -0.02, -0.03, -12),
            ((110, 150, 108), 0.02, -0.03, 12),
        )
    ),
)


class Part(NamedTuple):
    """What is seen of a body part that details are painted on."""

    outline: Floats  # (T, N, 2)
    nearness: Floats  # (T,)


class Band(NamedTuple):
    """A stripe across a part, between two shares of the way from its start to its end."""

    start: str
    end: str
    shares: tuple[float, float]
    colour: Rgb


class Spot(NamedTuple):
    """An ellipse on the face: its middle to the right, up and ahead; half its width and height.

    All are in sizes of the head.
    """

    middle: tuple[float, float, float]
    radii: tuple[float, float]
    colour: Rgb


def _bands() -> tuple[Band, ...]:
    bands = [Band("chest", "waist", (at, at + 0.12), _CREAM) for at in np.arange(0.1, 1.3, 0.24)]
    bands += [
        Band(f"{side}_{start}", f"{side}_{end}", shares, colour)
        for side in "lr"
        for start, end, shares, colour in (
            ("shoulder", "elbow", (0.25, 0.45), _CREAM),
            ("shoulder", "elbow", (0.7, 0.9), _CREAM),
            ("knee", "ankle", (0.84, 1.4), (96, 128, 180)),  # turn-ups
            ("ankle", "toe", (0.1, 0.25), _WHITE),  # laces
            ("ankle", "toe", (0.4, 0.55), _WHITE),
            ("ankle", "toe", (0.85, 2.0), _WHITE),  # a cap of rubber
        )
    ]
    watch = Band("l_elbow", "l_wrist", (0.8, 0.97), (38, 40, 48))
    return (*bands, watch)


def _face() -> tuple[Spot, ...]:
    both: list[Spot] = []
    for sign in (-1, 1):
        x = 0.28 * sign
        both += [
            Spot((0.44 * sign, -0.36, 0.74), (0.15, 0.1), (234, 150, 128)),  # cheek
            Spot((x, 0.0, 0.88), (0.16, 0.18), (252, 250, 246)),
            Spot((x, -0.01, 0.92), (0.1, 0.14), _INK),
            Spot((x + 0.03, 0.05, 0.94), (0.035, 0.045), (255, 255, 255)),
            Spot((x, 0.28, 0.86), (0.18, 0.045), _HAIR),
        ]
    return (
        *both,
        Spot((0.0, -0.2, 1.0), (0.07, 0.11), (208, 148, 114)),  # nose
        Spot((0.0, -0.52, 0.86), (0.26, 0.13), (164, 56, 56)),  # mouth
        Spot((0.0, -0.43, 0.86), (0.3, 0.11), _SKIN),  # covers its upper half: a smile
    )


_BANDS: Final = _bands()
_FACE: Final = _face()


def dressed(scene: Scene) -> Scene:
    """Return the scene with the demo's person in it, seen by a still camera."""
    person = scene.people[0]
    colours = {name: np.array(colour, float) for name, colour in _COLOURS.items()}
    person = replace(person, shape=person.shape | _SHAPE, colours=person.colours | colours)
    view = replace(
        scene.view, zoom=0.7, y=0.58, shake=0.0, shadow=0.2, light_x=0.25, light_z=-0.1, edge=0.8
    )
    return replace(scene, people=(person,), view=view)


def details(points: dict[str, Floats], person: Person, view: View, size: Size) -> list[Layer]:
    """Return the layers of face, hands and clothes, to be painted with those of `figure_layers`.

    Args:
        points: (T, 3) places by name of the joint, as `body_points` returns them.
        person: whose body it is.
        view: the camera.
        size: of the picture.
    """
    parts = _parts(points, person, view, size)
    layers = [_band(band, points, parts[f"{band.start} {band.end}"], view, size) for band in _BANDS]
    for side in "lr":
        layers += _fingers(side, points, person, view, size)
    return [*layers, *_head(points, parts["chin brow"], view, size)]


def _parts(points: dict[str, Floats], person: Person, view: View, size: Size) -> dict[str, Part]:
    """Return the body parts by the names of their two joints, and the trunk."""
    names = [[part.start for part in CAPSULES], [part.end for part in CAPSULES]]
    ends = project(np.array([[points[name] for name in row] for row in names]), view, size)
    drawn = outlines(ends, RADII * [person.shape[part.thickness] for part in CAPSULES], arc=ARC)
    near = ends[..., 3].mean(0) + BIAS[:, None]
    parts = {f"{part.start} {part.end}": Part(drawn[i], near[i]) for i, part in enumerate(CAPSULES)}
    return parts | {"chest waist": Part(np.hstack([drawn[0], drawn[1]]), near[0])}


def _band(band: Band, points: dict[str, Floats], part: Part, view: View, size: Size) -> Layer:
    """Return a band as it is seen from the side, cut to the outline of its part."""
    start, end = (project(points[name], view, size)[:, :2] for name in (band.start, band.end))
    along = end - start
    length = np.maximum(np.linalg.norm(along, axis=1, keepdims=True), 1e-6)
    across = np.stack([-along[:, 1], along[:, 0]], 1) / length * size[0]
    first, last = (start + share * along for share in band.shares)
    corners = np.stack([first - across, first + across, last + across, last - across], 1)
    return _painted_on(part, corners, band.colour)


def _painted_on(part: Part, shapes: Floats, colour: Rgb) -> Layer:
    """Return convex shapes (T, N, 2) as a layer on a part, cut to its outline."""
    cut = [_intersection(*pair) for pair in zip(shapes, part.outline, strict=True)]
    most = max(map(len, cut))
    cut = [np.vstack([shape, np.repeat(shape[-1:], most - len(shape), 0)]) for shape in cut]
    return Layer(part.nearness + 2e-4, np.array(cut, float), np.array(colour, float), False)


def _intersection(a: Floats, b: Floats) -> Floats:
    """Return the corners (N, 2) of what two convex shapes share; far outside if that is nothing."""
    one, other = (np.asarray(cv2.convexHull(shape.astype(np.float32))) for shape in (a, b))
    shared = cv2.intersectConvexConvex(one, other)[1]
    return np.full((1, 2), _NOWHERE) if shared is None else np.asarray(shared, float).reshape(-1, 2)


def _fingers(
    side: str, points: dict[str, Floats], person: Person, view: View, size: Size
) -> list[Layer]:
    """Return four fingers and a thumb, spread beyond the palm of a hand."""
    wrist, hand = points[f"{side}_wrist"], points[f"{side}_hand"]
    along = (hand - wrist) / np.linalg.norm(hand - wrist, axis=1, keepdims=True)
    # the thumb is at the side of the other hand
    inward = points["r_shoulder"] - points["l_shoulder"]
    inward = inward * (1 if side == "l" else -1)
    inward = inward - (inward * along).sum(1, keepdims=True) * along
    inward = inward / np.maximum(np.linalg.norm(inward, axis=1, keepdims=True), 1e-6)
    palm, layers = wrist + 0.35 * (hand - wrist), list[Layer]()
    for angle, reach in _FINGERS:
        turn = np.radians(angle)
        tip = palm + reach * (np.cos(turn) * along + np.sin(turn) * inward)
        ends = project(np.stack([palm, tip])[:, None], view, size)  # (2, 1, T, 4)
        near = ends[..., 3].mean((0, 1)) + 0.011
        for radius, shade, nearer in ((0.012, 0.75, 0.0), (0.009, 1.0, 1e-3)):  # an edge, the skin
            outline = outlines(ends, np.full((2, 1), radius), arc=ARC)[0]
            layers.append(Layer(near + nearer, outline, shade * person.colours["hand"], False))
    return layers


def _head(points: dict[str, Floats], face: Part, view: View, size: Size) -> list[Layer]:
    """Return the features of the face, unless the head looks away."""
    brim, crown = (points[name] - points["head"] for name in ("brim", "crown"))
    # `figures` has the brim at 0.4 up and 1.0 ahead, the crown at 0.35 up and -0.12 ahead
    up = (crown * 1.0 + brim * 0.12) / (0.35 * 1.0 + 0.4 * 0.12)
    ahead = brim - 0.4 * up
    right = np.cross(up, ahead) / np.linalg.norm(up, axis=1, keepdims=True)
    axes, layers = np.stack([right, up, ahead]), list[Layer]()
    circle = np.linspace(0, 2 * np.pi, 16, endpoint=False)
    for spot in _FACE:
        x, y, z = spot.middle
        # on a plane that faces as the middle of the ellipse does
        shares = (
            x + spot.radii[0] * np.cos(circle),
            y + spot.radii[1] * np.sin(circle),
            z - 0.5 * (spot.radii[0] * x * np.cos(circle)),
        )
        # (3, T, 3) axes, (3, 16) shares of them -> (T, 16, 3)
        places = points["head"][:, None] + np.einsum("atk,an->tnk", axes, np.array(shares))
        shapes = project(places, view, size)[..., :2]
        outward = x * right + z * ahead
        seen = outward[:, 2] > 0.3 * np.linalg.norm(outward, axis=1)
        layers.append(
            _painted_on(face, np.where(seen[:, None, None], shapes, _NOWHERE), spot.colour)
        )
    return layers


def room(size: Size) -> Image:
    """Paint a wall with a window, a picture and a plant above a wooden floor."""
    height, width = size
    image = np.tile(to_uint8(np.array(_WALL)), (height, width, 1))
    for colour, *corners in _FLAT:
        points = np.array(corners) * (width, height) * 16
        cv2.fillConvexPoly(image, points.astype(np.int32), colour, cv2.LINE_AA, 4)
    for colour, (x, y), (wide, high), degrees in _ROUND:
        box = ((x * width, y * height), (wide * width, high * height), float(degrees))
        cv2.ellipse(image, box, colour, -1, cv2.LINE_AA)
    light = np.linspace(1.05, 0.95, width)[:, None] * np.linspace(1.02, 0.96, height)[:, None, None]
    return to_uint8(image * light)
