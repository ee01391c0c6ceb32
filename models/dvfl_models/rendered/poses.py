"""The movements of five actions: poses as joint angles over time.

An action is a function of time and of a style vector, which gives the manner of a performance.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from enum import IntEnum
from functools import partial
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float64]
Angles: TypeAlias = dict[str, Floats | float]
Timeline: TypeAlias = Sequence[tuple[str, float]]  # actions and their seconds

ACTIONS: tuple[str, ...] = ("idle", "wave_one_hand", "wave_two_hands", "jumping_jack", "bend")

# The columns of a pose: offsets in body heights, then angles in degrees. An arm is lifted from
# hanging (0) over level (90), sideways (forward 0) or to the front (forward 90); the elbow bends
# in the plane of that lift (fold 0) or across it (fold 90).
_ARM = ("lift", "forward", "elbow", "fold")
LIMBS = (*_ARM, "spread", "hip", "knee")
POSE_NAMES = (
    *("x", "z", "jump", "yaw", "pitch", "roll", "twist", "head_yaw", "head_pitch"),
    *(f"{side}_{name}" for side in "lr" for name in LIMBS),
)
YAW, PITCH = POSE_NAMES.index("yaw"), POSE_NAMES.index("pitch")


class Style(IntEnum):
    """Entries of a style vector: uniform random numbers that give the manner of an action."""

    PHASE = 0
    TEMPO = 1
    WOBBLE = 3
    WOBBLE_PHASE = 4
    KIND = 5
    DIRECTION = 10
    DIRECTION_KIND = 11
    MIRROR = 28
    STANCE = 29


NUM_STYLE = 32
# Each action reads these entries in its own way, the resting arms the next ones.
_MANNER, _DETAIL = slice(5, 10), slice(22, 28)
_ARM_STYLE = {"l": slice(12, 17), "r": slice(17, 22)}

_BLEND_S = 0.3
_BEND_PERIOD_S = (1.6, 4.0)
# Nobody stands still: amplitudes of a slow sway, which shares its style entries with other habits.
_SWAY = {"x": 0.006, "pitch": 1.5, "roll": 1.2, "twist": 2.5, "head_yaw": 4.0, "head_pitch": 3.0}
_SWAY_COLUMNS = np.array([POSE_NAMES.index(name) for name in _SWAY])

_REST_ARMS = np.array(  # odds, then the angles of `_ARM`
    [
        (0.42, 6, 10, 12, 90),  # hanging
        (0.16, 9, 60, 28, 80),  # bent
        (0.09, 42, -10, 95, 180),  # on the hip
        (0.08, 18, -20, 42, 150),  # in the pocket
        (0.06, 32, 70, 98, 82),  # folded
        (0.05, 42, 65, 138, 25),  # at the face
        (0.05, 14, -70, 60, 200),  # at the back
        (0.06, 34, 75, 75, 30),  # talking
        (0.03, 66, 85, 18, 10),  # reaching
    ]
)
_REST_ODDS = np.cumsum(_REST_ARMS[:-1, 0])
_TALKING = 7


def _lerp(weight: float, low: float, high: float) -> float:
    return low + (high - low) * weight


def _smooth_step(value: Floats) -> Floats:
    return np.asarray(np.clip(value, 0, 1) ** 2 * (3 - 2 * np.clip(value, 0, 1)))


def _cycles(t: Floats, style: Floats, fast_s: float, slow_s: float) -> Floats:
    """Return the cycles (T,) since time 0; their period is within limits and wobbles a little."""
    wobble = 0.07 * style[Style.WOBBLE] * np.sin(2.3 * t + 6 * style[Style.WOBBLE_PHASE])
    return np.asarray(style[Style.PHASE] + t / _lerp(style[Style.TEMPO], fast_s, slow_s) + wobble)


def _arm(side: str, *angles: Floats | float) -> Angles:
    return {f"{side}_{name}": angle for name, angle in zip(_ARM, angles, strict=True)}


def _rest_arm(t: Floats, style: Floats, side: str) -> Angles:
    """Return a resting arm, which may move to another resting place and back."""
    first, second, begin, pace, moves = style[_ARM_STYLE[side]]
    first, second = np.searchsorted(_REST_ODDS, (first, second), side="right")
    start, end = _lerp(begin, -1, 3), _lerp(begin, -1, 3) + _lerp(pace, 0.8, 4)
    weight = _smooth_step((t - start) / 0.6) * _smooth_step((end - t) / 0.6) * (moves > 0.5)
    here, there = _REST_ARMS[first, 1:], _REST_ARMS[second, 1:]
    arm = here + weight[:, None] * (there - here)
    gesture = 12 if first == _TALKING else 3
    arm[:, 2] += gesture * np.sin(6.3 * (t * _lerp(pace, 0.2, 1.2) + begin))
    return _arm(side, *arm.T)


def _pose_wave(t: Floats, style: Floats, both: bool = False) -> Angles:
    kind, low_lift, high_lift, low_elbow, high_elbow = style[_MANNER]
    right, forward, fold, lag, *_ = style[_DETAIL]
    hello = kind < 0.22  # the forearm swings; otherwise the whole arm sweeps up over the head
    phase = _cycles(t, style, *((0.5, 1.1) if hello else (0.75, 2.1)))
    pose = Angles()
    for side in "lr":
        s = 0.5 - 0.5 * np.cos(2 * np.pi * (phase + (side == "r") * 0.1 * (lag - 0.5)))
        if hello:
            lift = _lerp(low_lift, 65, 115) + 8 * s
            upright, swing = _lerp(high_lift, 170, 190) - lift, _lerp(low_elbow, 18, 42)
            elbow = upright + swing * (2 * s - 1)
        else:
            lift = _lerp(low_lift, 74, 106) * (1 - s) + _lerp(high_lift, 138, 172) * s
            elbow = _lerp(low_elbow, 2, 24) * (1 - s) + _lerp(high_elbow, 14, 68) * s * s
        waving = _arm(side, lift, _lerp(forward, -8, 26), elbow, _lerp(fold, -20, 25))
        waves = both or (side == "l") == (right < 0.5)
        pose |= waving if waves else _rest_arm(t, style, side)
    return pose


def _pose_jack(t: Floats, style: Floats) -> Angles:
    lag, top, depth, jump, straight = style[_MANNER]
    _, bent, forward, skew, wide, _ = style[_DETAIL]
    angle = 2 * np.pi * _cycles(t, style, 0.7, 1.5)
    s, arms = 0.5 - 0.5 * np.cos(angle), 0.5 - 0.5 * np.cos(angle + 0.6 * (lag - 0.5))
    elbow = _lerp(straight, 5, 24) + _lerp(bent, 0, 45) * arms**3
    crouch, spread = _lerp(depth, 4, 32) * np.cos(angle) ** 2, 2 + _lerp(wide, 13, 26) * s
    pose: Angles = {"jump": _lerp(jump, 0.01, 0.07) * np.sin(angle) ** 2, "pitch": 0.2 * crouch}
    for side, share in {"l": 1.0, "r": _lerp(skew, 0.92, 1.08)}.items():
        lift = 7 + (_lerp(top, 140, 178) * share - 7) * arms
        pose |= _arm(side, lift, _lerp(forward, -6, 24), elbow, 40 * (1 - arms))
        pose |= {f"{side}_spread": spread, f"{side}_hip": crouch / 2, f"{side}_knee": crouch}
    return pose


def _pose_bend(t: Floats, style: Floats) -> Angles:
    rest, hold, depth, squatting, reach = style[_MANNER]
    hands, head, _, _, hips, _ = style[_DETAIL]
    phase = _cycles(t, style, *_BEND_PERIOD_S) % 1.0
    rest, hold = _lerp(rest, 0.02, 0.12), _lerp(hold, 0.03, 0.15)
    move = 0.5 - rest - hold
    s = _smooth_step((phase - rest) / move) - _smooth_step((phase - 0.5 - hold) / move)
    pitch, squat = 3 + _lerp(depth, 80, 122) * s, _lerp(squatting**1.5, 0, 65) * s
    pose: Angles = {"pitch": pitch, "head_pitch": _lerp(head, -25, 20) * s}
    goal: tuple[Floats | float, ...] = (pitch * _lerp(reach, 0.8, 1.15), 90.0, 17.0, 60.0)
    for side in "lr":
        both = hands < 0.75
        weight = s if both or (hands < 0.87) == (side == "l") else 0.4 * s
        resting = _rest_arm(t * 0, style, side)
        for (name, start), end in zip(resting.items(), goal, strict=True):
            pose[name] = start * (1 - weight) + end * weight
        pose[f"{side}_hip"] = _lerp(hips, 4, 15) * s + 0.6 * squat
        pose[f"{side}_knee"] = squat + 9 * s
    return pose


def _pose_idle(t: Floats, style: Floats) -> Angles:
    kind, sway, stoop, look_to, look_around = style[_MANNER]
    _, nod, knee, *_ = style[_DETAIL]
    shift = np.sin(6.28 * (t * _lerp(style[Style.TEMPO], 0.08, 0.3) + style[Style.PHASE]))
    look = np.sin(1.6 * t + 6.28 * style[Style.WOBBLE])
    pose = _rest_arm(t, style, "l") | _rest_arm(t, style, "r")
    pose |= {
        "roll": 3.0 * sway * shift,
        "x": 0.02 * sway * shift,
        "pitch": 22 * stoop**3,
        "head_yaw": 45 * (look_to - 0.5) + 40 * look_around * look,
        "head_pitch": 35 * nod**3,
        "l_knee": 8 * knee * np.maximum(shift, 0),
    }
    return pose if kind < 0.55 else pose | _steps(t, style)


def _steps(t: Floats, style: Floats) -> Angles:
    """Return the steps of a turn on the spot or of a walk on an arc."""
    on_spot, period_s = style[Style.KIND] < 0.65, _lerp(style[Style.TEMPO], 0.9, 1.5)
    *_, stride, turning, middle = style[_DETAIL]
    amount, turn = _lerp(stride, 12, 30), (6 if on_spot else 1.5) * (turning - 0.5) + 1e-3
    start, speed = math.radians(facing("idle", style)), 2 * math.sin(amount / 57.3) / period_s
    heading, radius = start + turn * (t - 2 * middle), 0.0 if on_spot else speed / turn
    pose: Angles = {
        "yaw": np.degrees(heading - start),
        "x": radius * (math.cos(start) - np.cos(heading)),
        "z": radius * (np.sin(heading) - math.sin(start)),
    }
    step = 2 * np.pi * (t / period_s + style[Style.PHASE])
    for side, sign in (("l", 1.0), ("r", -1.0)):
        swing, lift = sign * np.sin(step) * amount, np.maximum(sign * np.cos(step + 0.3), 0)
        pose |= {f"{side}_hip": swing, f"{side}_knee": 6 + amount * 1.7 * lift}
        if style[_ARM_STYLE[side]][0] < 0.8:  # other arms stay where they rest
            pose |= _arm(side, 3 - 0.9 * swing, 80.0, 15 - 0.4 * swing, 20.0)
    return pose


_POSERS: dict[str, Callable[[Floats, Floats], Angles]] = {
    "idle": _pose_idle,
    "wave_one_hand": _pose_wave,
    "wave_two_hands": partial(_pose_wave, both=True),
    "jumping_jack": _pose_jack,
    "bend": _pose_bend,
}


def facing(action: str, style: Floats) -> float:
    """Return the body's direction in degrees: 0 to the camera, 90 to the image's right edge."""
    direction, kind = style[Style.DIRECTION], style[Style.DIRECTION_KIND]
    if action == "bend":  # seen from the front, a bend would hide itself
        side = 90 + 45 * (direction - 0.5) if kind < 0.85 else 180 * direction
        return float(side if style[Style.MIRROR] < 0.5 else -side)
    if action == "idle" and kind > 0.4:
        return float(360 * direction - 180)
    return float(70 * (2 * direction - 1) ** 3 + (180 if kind < 0.06 else 0))


def pose_angles(action: str, times: Floats, style: Floats) -> Floats:
    """Return the poses of one action.

    Args:
        action: one of `ACTIONS`.
        times: (T,) seconds.
        style: (NUM_STYLE,) numbers in [0, 1); `Style` names the entries.

    Returns:
        (T, len(POSE_NAMES)) offsets in body heights and angles in degrees.
    """
    pose = np.zeros((len(times), len(POSE_NAMES)))
    stance = 5 * style[Style.STANCE]
    values: Angles = {"l_spread": stance, "r_spread": stance}
    for name, value in (values | _POSERS[action](times, style)).items():
        pose[:, POSE_NAMES.index(name)] = value
    pose[:, YAW] += facing(action, style)
    rate, phase = 0.2 + 0.5 * style[_SWAY_COLUMNS * 3], style[_SWAY_COLUMNS * 3 + 5]
    sway = np.sin(2 * np.pi * (rate * times[:, None] + phase))
    pose[:, _SWAY_COLUMNS] += tuple(_SWAY.values()) * sway
    return pose


def timeline_angles(timeline: Timeline, times: Floats, styles: Floats) -> Floats:
    """Return the poses (T, len(POSE_NAMES)) of actions that blend into each other.

    Args:
        timeline: actions in turn, each with its seconds.
        times: (T,) seconds since the beginning of the timeline.
        styles: (len(ACTIONS), NUM_STYLE) the person's manner of each action.
    """
    begin, poses = 0.0, np.zeros((len(times), len(POSE_NAMES)))
    for action, seconds in timeline:
        style = styles[ACTIONS.index(action)].copy()
        if action != "idle":
            style[Style.PHASE] = 0.0
        if action == "bend":  # whole cycles, so that it begins and ends upright
            fast_s, slow_s = _BEND_PERIOD_S
            cycles = max(1, round(seconds / _lerp(style[Style.TEMPO], fast_s, slow_s)))
            style[Style.TEMPO] = (seconds / cycles - fast_s) / (slow_s - fast_s)
            style[Style.WOBBLE] = 0.0
        weight = _smooth_step((times - begin) / _BLEND_S + 0.5)[:, None] if begin else 1.0
        poses += (pose_angles(action, times - begin, style) - poses) * weight
        begin += seconds
    return poses
