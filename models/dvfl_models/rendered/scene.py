"""The random choices of one clip: camera, light, quality of the picture, people and backdrop.

The order in which random numbers are drawn is part of what a seed means.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from dvfl_models.rendered.figures import Person
from dvfl_models.rendered.poses import ACTIONS, Floats, Style, facing


@dataclass(frozen=True)
class View:
    """Camera, light and quality of the picture; lengths are relative, so any size can be drawn."""

    zoom: float  # height of a person in heights of the picture
    x: float  # of the middle of a person at (0, 0), in widths of the picture
    y: float  # the same, in heights
    distance: float  # of the camera, in body heights
    light_x: float  # how far shadows fall to the right, in heights of what casts them
    light_z: float  # the same, towards the camera
    pitch: float  # of the camera, degrees downwards
    shadow: float  # opacity, 0 for none
    edge: float  # brightness of the line around each part
    texture: float  # contrast of the backdrop
    shake: float  # of the camera, in heights of the picture
    shutter_s: float  # 0 for none of the blur of motion
    noise: float  # standard deviation, of 255
    pan: float  # of the camera, in heights of the picture per second
    gamma: float  # exponent of the tone curve
    detail: float  # share of the resolution that is kept
    jpeg: int  # quality, 0 for no compression

    @classmethod
    def sample(cls, rng: np.random.Generator, *, clean: bool, heading: float) -> View:
        """Draw a view with room for the arms of a person who faces `heading`, in radians."""
        rough = 0.0 if clean else 1.0  # switches off whatever makes a picture hard to read
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
    """Every random choice of one clip, except details of backdrop and noise, which `seed` draws."""

    seed: tuple[int, int, int]
    people: tuple[Person, ...]
    view: View
    backdrop: Floats  # (3,) RGB, 0 to 255

    @classmethod
    def sample(cls, seed: int, action: str = "idle", *, clean: bool = False) -> Scene:
        """Draw a scene for an action; a clean one shows one person, whole and easy to see."""
        seeds = (seed, ACTIONS.index(action), int(clean))
        rng = np.random.default_rng(seeds)
        backdrop = np.clip(rng.uniform(60, 205) + rng.normal(0, rng.choice([5, 16]), 3), 20, 235)
        # of nobody, one person, two
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

    def with_room(self, room: float) -> Scene:
        """Return the scene in a picture whose sides are `room` times as long, at a random place."""
        if room == 1:
            return self
        x, y = np.random.default_rng((*self.seed, 8)).random(2) * (1 - 1 / room)
        view, part = self.view, 1 / room
        moved = replace(view, zoom=view.zoom * part, x=x + view.x * part, y=y + view.y * part)
        return replace(self, view=replace(moved, shake=view.shake * part))
