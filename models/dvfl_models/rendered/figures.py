"""People: proportions, clothes and body parts, and the places of the joints in a pose."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from dvfl_models.rendered.poses import ACTIONS, LIMBS, NUM_STYLE, POSE_NAMES, Floats

_SKIN = ((241, 206, 181), (224, 178, 145), (198, 144, 108), (150, 100, 70), (96, 62, 44))
_HAIR = ((28, 22, 20), (52, 36, 26), (96, 66, 40), (170, 134, 82), (130, 126, 122), (120, 56, 30))
_PROPORTIONS = {  # limits in body heights; wide, loose and leg are factors
    "thigh": (0.235, 0.26),
    "torso": (0.27, 0.31),
    "head": (0.055, 0.07),
    "wide": (0.9, 1.15),
    "arm": (0.15, 0.18),
    "hips": (0.045, 0.06),
    "loose": (1.0, 1.5),
    "leg": (0.9, 1.25),
}
_HEAD_POINTS = {  # up and ahead of the head's centre, in sizes of the head
    "skull": (0.0, -0.15),
    "crown": (0.35, -0.12),
    "chin": (-0.62, 0.3),
    "brow": (0.1, 0.3),
    "nape": (-1.2, -0.5),
    "brim": (0.4, 1.0),
}


class Capsule(NamedTuple):
    """A body part: a thick line between two joints; radii and bias in 1/1000 body heights."""

    start: str
    end: str
    start_radius: int
    end_radius: int
    bias: int  # towards the camera, in the order of painting
    colour: str
    thickness: str  # the entry of `Person.shape` that scales the radii


def _both_sides(part: Capsule) -> tuple[Capsule, Capsule]:
    left = part._replace(start=f"l_{part.start}", end=f"l_{part.end}")
    right = part._replace(start=f"r_{part.start}", end=f"r_{part.end}")
    return left, right


# The first five are the torso and the thighs; shirt, hem and trousers are painted between them.
CAPSULES = (
    Capsule("l_shoulder", "r_shoulder", 44, 44, -20, "shirt", "build"),
    Capsule("l_waist", "r_waist", 58, 58, -20, "shirt", "build"),
    Capsule("l_hip", "r_hip", 64, 64, -30, "hem", "build"),
    *_both_sides(Capsule("hip", "knee", 56, 41, -40, "trousers", "leg")),
    *_both_sides(Capsule("knee", "ankle", 38, 27, -30, "shin", "leg")),
    *_both_sides(Capsule("ankle", "toe", 25, 18, -20, "shoes", "build")),
    *_both_sides(Capsule("shoulder", "elbow", 33, 28, 0, "shirt", "sleeve")),
    Capsule("chest", "head", 27, 26, -30, "skin", "build"),
    *_both_sides(Capsule("elbow", "wrist", 27, 19, 10, "forearm", "cuff")),
    *_both_sides(Capsule("wrist", "hand", 18, 19, 10, "hand", "build")),
    Capsule("skull", "crown", 860, 800, 0, "hair", "head"),
    Capsule("chin", "brow", 560, 680, 0, "skin", "head"),
    Capsule("crown", "nape", 820, 750, -30, "hair", "long_hair"),
    Capsule("crown", "brim", 900, 450, 10, "hat", "hat"),
)
# The joints that training finds: the head, then the left and the right one of each pair.
_PAIRED = ("shoulder", "elbow", "hand", "hip", "knee", "ankle")
JOINTS = ("head", *(f"{side}_{name}" for name in _PAIRED for side in "lr"))
RADII = np.array([(part.start_radius, part.end_radius) for part in CAPSULES]).T / 1000  # (2, L)
BIAS = np.array([part.bias for part in CAPSULES]) / 1000


@dataclass(frozen=True)
class Person:
    """One person: figure, clothes and habits."""

    shape: dict[str, float]  # lengths in body heights, and factors of the thickness of parts
    colours: dict[str, Floats]  # RGB of each part, 0 to 255
    styles: Floats  # (len(ACTIONS), NUM_STYLE) the manner of each action
    place: tuple[float, float] = (0.0, 0.0)  # right and front of the centre, in body heights

    @classmethod
    def sample(cls, rng: np.random.Generator, backdrop: Floats) -> Person:
        """Draw a person; the clothes may nearly match the colour of the backdrop."""

        def cloth() -> Floats:
            kind, tint = rng.random(), rng.normal(0, 1, 3) * rng.choice([4.0, 14.0, 40.0])
            grey = rng.uniform(12, 75) if kind < 0.5 else rng.uniform(30, 230)
            return backdrop + rng.normal(0, 22, 3) if kind < 0.12 else grey + tint

        shape = {name: rng.uniform(*limits) for name, limits in _PROPORTIONS.items()}
        short, bare, skirt, hair, hat = rng.random(5) < (0.3, 0.2, 0.1, 0.28, 0.15)
        build = float(np.clip(rng.normal(1.08, 0.13), 0.8, 1.5))
        shape |= {
            "shoulders": 0.082 * shape["wide"] * build**0.5,
            "build": build,
            "leg": build * shape["leg"],
            "sleeve": build * shape["loose"],
            "cuff": build * (1.0 if short else shape["loose"]),
            "hat": hat * shape["head"],
            "long_hair": hair * shape["head"],
            "skirt": skirt,
        }
        colours = {name: cloth() for name in ("shirt", "trousers", "shoes", "hat", "glove")}
        colours["skin"] = np.array(_SKIN[rng.integers(len(_SKIN))]) * rng.uniform(0.85, 1.08)
        colours["hair"] = np.array(_HAIR[rng.integers(len(_HAIR))]) * rng.uniform(0.8, 1.2)
        colours["forearm"] = colours["skin" if short else "shirt"]
        colours["hem"] = colours["trousers" if rng.random() < 0.45 else "shirt"]
        colours["shin"] = colours["skin" if bare or skirt else "trousers"]
        colours["hand"] = colours["skin" if rng.random() < 0.95 else "glove"]
        colours = {name: np.clip(colour, 8, 248) for name, colour in colours.items()}
        return cls(shape, colours, rng.random((len(ACTIONS), NUM_STYLE)))


def body_points(pose: Floats, person: Person) -> dict[str, Floats]:
    """Return the places of the joints, by forward kinematics.

    Args:
        pose: (T, len(POSE_NAMES)) as `pose_angles` returns it.
        person: with the lengths of the limbs.

    Returns:
        Places (T, 3) by name of the joint, in body heights: right, up, towards the camera.
    """
    p, shape = dict(zip(POSE_NAMES, pose.T, strict=True)), person.shape
    root = _turn(1, p["yaw"])
    low = root @ _turn(0, 0.7 * p["pitch"]) @ _turn(2, -0.6 * p["roll"])
    high = root @ _turn(1, p["twist"]) @ _turn(0, p["pitch"] * 1.08) @ _turn(2, -p["roll"])
    head = high @ _turn(1, p["head_yaw"]) @ _turn(0, p["head_pitch"])
    out = {"waist": _along(low, 0, 0.42 * shape["torso"], 0)}
    out["chest"] = out["waist"] + _along(high, 0, 0.58 * shape["torso"], 0)
    neck = out["chest"] + _along(high, 0, 0.035, 0.01)
    out["head"] = neck + _along(head, 0, shape["head"] + 0.012, 0.012)
    for name, (up, ahead) in _HEAD_POINTS.items():
        out[name] = out["head"] + _along(head, 0, up * shape["head"], ahead * shape["head"])
    for side, sign in (("l", 1.0), ("r", -1.0)):
        angles = [np.radians(p[f"{side}_{name}"]) for name in LIMBS]
        shoulder = out["chest"] + _along(high, sign * shape["shoulders"], -0.025, 0)
        waist = out["waist"] + _along(low, sign * 0.03 * shape["build"] * shape["loose"], 0, 0)
        hip = _along(low, sign * shape["hips"], -0.01, 0)
        limbs = {"shoulder": shoulder, "waist": waist, "hip": hip}
        limbs |= _arm_points(shoulder, high, angles[:4], sign, shape["arm"])
        limbs |= _leg_points(hip, root, angles[4:], sign, shape["thigh"])
        out |= {f"{side}_{name}": place for name, place in limbs.items()}
    lowest = np.minimum(out["l_ankle"][:, 1], out["r_ankle"][:, 1])
    right, front = person.place
    # the lower ankle stands 0.04 above the ground unless the person jumps
    move = np.stack([p["x"] + right, 0.04 + p["jump"] - lowest, p["z"] + front], 1)
    return {name: place + move for name, place in out.items()}


def _turn(axis: int, degrees: Floats) -> Floats:
    """Return rotations (T, 3, 3) about one axis."""
    i, j, angle = (axis + 1) % 3, (axis + 2) % 3, np.radians(degrees)
    out = np.tile(np.eye(3), (len(angle), 1, 1))
    out[:, i, i] = out[:, j, j] = np.cos(angle)
    out[:, j, i], out[:, i, j] = np.sin(angle), -np.sin(angle)
    return out


def _along(axes: Floats, x: Floats | float, y: Floats | float, z: Floats | float) -> Floats:
    """Return the offset (T, 3) of a place that is given along the axes of a rotated part."""
    return np.asarray(axes[..., 0].T * x + axes[..., 1].T * y + axes[..., 2].T * z).T


def _arm_points(
    shoulder: Floats, trunk: Floats, angles: list[Floats], sign: float, length: float
) -> dict[str, Floats]:
    lift, forward, bend, fold = angles
    cos_f, sin_f = np.cos(forward), np.sin(forward)
    upper = np.array((sign * np.sin(lift) * cos_f, -np.cos(lift), np.sin(lift) * sin_f))
    onward = np.array((sign * np.cos(lift) * cos_f, np.sin(lift), np.cos(lift) * sin_f))
    across = np.array((-sign * sin_f, 0 * forward, cos_f))
    fore = np.cos(bend) * upper + np.sin(bend) * (np.cos(fold) * onward + np.sin(fold) * across)
    elbow = shoulder + _along(trunk, *(length * upper))
    wrist = elbow + _along(trunk, *(0.85 * length * fore))
    return {"elbow": elbow, "wrist": wrist, "hand": wrist + _along(trunk, *(0.055 * fore))}


def _leg_points(
    hip: Floats, root: Floats, angles: list[Floats], sign: float, length: float
) -> dict[str, Floats]:
    spread, swing, bend = angles

    def below(above: Floats, angle: Floats) -> Floats:
        ahead = (-np.cos(spread) * np.cos(angle), np.cos(spread) * np.sin(angle))
        return above + _along(root, *(length * np.array((sign * np.sin(spread), *ahead))))

    knee = below(hip, swing)
    ankle = below(knee, swing - bend)
    return {"knee": knee, "ankle": ankle, "toe": ankle + _along(root, sign * 0.02, -0.02, 0.075)}
