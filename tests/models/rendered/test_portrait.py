"""Tests of what is painted on the person of the demo."""

import numpy as np
import pytest

from dvfl_models.rendered import portrait
from dvfl_models.rendered.figures import Person, body_points
from dvfl_models.rendered.painting import Layer, figure_layers
from dvfl_models.rendered.poses import POSE_NAMES, YAW
from dvfl_models.rendered.scene import Scene, View

SIZE = (320, 320)
IRIS = (44, 36, 38)
CREAM = (248, 238, 222)


def seen_from(yaw: float) -> tuple[list[Layer], dict[str, np.ndarray], Person, View]:
    """Return the details on the demo's person who stands still, turned by degrees."""
    scene = portrait.dressed(Scene.sample(1, clean=True))
    pose = np.zeros((1, len(POSE_NAMES)))
    pose[0, YAW] = yaw
    points = body_points(pose, scene.people[0])
    drawn = portrait.details(points, scene.people[0], scene.view, SIZE)
    return drawn, points, scene.people[0], scene.view


def inside(layers: list[Layer], colour: tuple[int, int, int]) -> list[np.ndarray]:
    """Return the outlines of a colour that lie in the picture."""
    shapes = [layer.outline[0] for layer in layers if np.array_equal(layer.colour, colour)]
    return [shape for shape in shapes if shape.min() >= 0]


@pytest.mark.parametrize(("yaw", "eyes"), [(0, 2), (25, 2), (180, 0), (150, 0)])
def test_a_face_is_seen_from_the_front_alone(yaw: float, eyes: int) -> None:
    layers, _, person, _ = seen_from(yaw)
    irises = inside(layers, IRIS)
    assert len(irises) == eyes
    if yaw == 0:
        left, right = sorted((shape.mean(0) for shape in irises), key=lambda place: place[0])
        assert left[1] == pytest.approx(right[1], abs=0.5)
        head_px = 0.7 * SIZE[0] * person.shape["head"]
        assert 0.3 * head_px < right[0] - left[0] < head_px


@pytest.mark.parametrize("yaw", [0, 60, 90, 180])
def test_stripes_stay_on_the_clothes_from_every_side(yaw: float) -> None:
    layers, points, person, view = seen_from(yaw)
    body = [layer.outline[0] for layer in figure_layers(points, person, view, SIZE)]
    low, high = np.vstack(body).min(0) - 0.1, np.vstack(body).max(0) + 0.1
    stripes = inside(layers, CREAM)
    assert len(stripes) >= 8
    for stripe in stripes:
        assert (stripe >= low).all()
        assert (stripe <= high).all()


def test_details_are_painted_over_their_part_and_the_camera_stands_still() -> None:
    layers, points, person, view = seen_from(0)
    iris = next(layer for layer in layers if np.array_equal(layer.colour, IRIS))
    face = [
        layer
        for layer in figure_layers(points, person, view, SIZE)
        if np.array_equal(layer.colour, person.colours["skin"])
    ]
    assert any(0 < iris.nearness[0] - layer.nearness[0] < 0.01 for layer in face)
    assert view.shake == 0


def test_the_room_is_the_same_in_every_size() -> None:
    small, large = portrait.room((80, 80)), portrait.room((320, 320))
    assert small.shape == (80, 80, 3)
    shrunk = large.reshape(80, 4, 80, 4, 3).mean((1, 3))
    assert np.abs(shrunk - small).mean() < 6
