"""Where the action is: the parts of the picture that clips are cut from, found by what moves.

It needs no detector and no weights. `python -m dvfl_bench.comparisons.focus` measures it beside
other methods, and under the disturbances that cameras meet.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from typing import TypeAlias

import numpy as np

from dvfl_runtime.clips.finder import WHOLE_PICTURE, Track
from dvfl_runtime.clips.motion import Body, Box, Floats, Grey, Motion, Moves, find_motion
from dvfl_runtime.results import Region

Size: TypeAlias = tuple[int, int]  # (width, height), px

MARGIN = 0.7  # of the box, so that a body is in the picture of which only an arm moves
LEAST_SIDE = 0.2  # of the picture's shorter side
HABIT_S = 30.0  # after so long most of the motion at a place is a habit, as of leaves in wind
HOLD_S = 10.0  # how long the place of somebody who stands still is remembered
KEPT_FACTOR = 2.0  # how much more the motion at a remembered place counts than that elsewhere
SHRINK_FROM, SHRINK_TO = 0.5, 0.7  # a region shrinks if it could be this small, and to this at once
SAME = 0.2  # bodies whose regions share more of the smaller one are parts of one
OWNED = 0.2  # of a body: a remembered region that holds less of it is not its own
STEADY = 0.1  # of the longer side: a camera that moves by more turns away from what it has shown
COVERED = 0.6  # a remembered region that others cover by more shows nobody of its own


@dataclass(frozen=True)
class Seen:
    """Something that moved.

    Attributes:
        track_id: its number.
        region: where it was in the last picture.
        moved_s: the end of the window in which it did, seconds.
    """

    track_id: int
    region: Region
    moved_s: float


@dataclass(frozen=True)
class FocusMemory:
    """What moved in the windows before.

    Attributes:
        seen: each thing that is remembered.
        last_id: the highest `track_id` so far.
        habit: (h, w) in which part of the last minute each pixel of the small pictures has moved;
            `None` if that is not known.
        end_s: the end of the newest window, seconds.
        moves: of the camera in that window.
    """

    seen: tuple[Seen, ...] = ()
    last_id: int = 0
    habit: Floats | None = field(default=None, compare=False)
    end_s: float = field(default=0.0, compare=False)
    moves: Moves = field(default_factory=dict, compare=False, repr=False)


def find_region(
    pictures: Sequence[Grey],
    aspect: float,
    *,
    end_s: float = 0.0,
    memory: FocusMemory | None = None,
) -> tuple[Track, FocusMemory]:
    """Return the part of the picture in which most moves, as `find_regions` does with `most=1`.

    It has no number, and is the whole picture if `find_regions` has none.
    """
    found, memory = find_regions(pictures, aspect, most=1, end_s=end_s, memory=memory)
    return replace(found[0], track_id=None) if found else WHOLE_PICTURE, memory


def find_regions(
    pictures: Sequence[Grey],
    aspect: float,
    *,
    most: int,
    end_s: float = 0.0,
    memory: FocusMemory | None = None,
) -> tuple[list[Track], FocusMemory]:
    """Return the parts of the picture in which bodies move apart from each other.

    A region stays where it is while its body is in it. Who stands still keeps it for `HOLD_S`: it
    is shown beside others that move, and remembered where nothing does. Then the whole picture is
    shown, as in training, whose clips remember nothing: how somebody stands looks like an action. A
    region goes along with a camera that shakes or turns. See `find_motion` for what moves.

    Args:
        pictures: T of them, as `small_grey` returns them.
        aspect: of the model's input, width over height.
        most: regions at most; those in which most moves come first.
        end_s: the end of the window on the source's clock, seconds.
        memory: of the window before.

    Returns:
        The regions, none if the whole picture moves or nothing does; and what to remember for the
        next window.
    """
    memory = memory or FocusMemory()
    if len({picture.shape for picture in pictures}) > 1:  # the source changed its size
        return [], FocusMemory(last_id=memory.last_id)
    height, width = pictures[0].shape
    size = width, height
    known = {s.track_id: s for s in memory.seen if 0 <= end_s - s.moved_s <= HOLD_S}
    boxes = {track_id: _in_px(seen.region, size) for track_id, seen in known.items()}
    passed_s = end_s - memory.end_s
    is_known = memory.habit is not None and memory.habit.shape == (height, width) and passed_s >= 0
    habit = memory.habit if is_known else None
    motion = find_motion(pictures, list(boxes.values()), KEPT_FACTOR, habit, memory.moves)
    if motion.lost:
        return [], FocusMemory(last_id=memory.last_id, moves=motion.moves)
    bodies = motion.bodies if most == 1 else _joined(motion.bodies, aspect, size)
    owners = _owners(bodies[:most], boxes)
    new_ids = count(memory.last_id + 1)
    moved: list[Seen] = []
    for n, body in enumerate(bodies[:most]):
        track_id = owners[n] if n in owners else next(new_ids)
        box = _around(body.box, boxes.get(track_id), aspect, size)
        moved.append(Seen(track_id, _relative(_placed(box, size), size), end_s))
    still = sorted(
        (seen for track_id, seen in known.items() if track_id not in owners.values()),
        key=lambda seen: -seen.moved_s,
    )
    if motion.shifts is not None and np.ptp(motion.shifts, axis=0).max() > STEADY * max(size):
        still = []  # the camera has turned away from where they were
    seen = (*moved, *still)[:most]
    shown = [s for s in seen if s in moved or not _is_covered(s, moved)] if moved else []
    habit = _habit(habit, motion, passed_s)
    memory = FocusMemory(seen, next(new_ids) - 1, habit, end_s, motion.moves)
    return [_along(s, motion.shifts, size) for s in shown], memory


def _habit(habit: Floats | None, motion: Motion, passed_s: float) -> Floats | None:
    """Return what is a habit after a window; that is not known once the camera moves.

    Args:
        habit: before the window.
        motion: in the window.
        passed_s: since the window before, seconds.
    """
    if motion.shifts is not None:
        return None
    moving = motion.moving.astype(np.float32)
    if habit is None:
        return np.zeros_like(moving)
    return np.asarray(moving + (habit - moving) * np.exp(-passed_s / HABIT_S), np.float32)


def _joined(bodies: Sequence[Body], aspect: float, size: Size) -> list[Body]:
    """Return bodies without those that are parts of others: two hands are one person."""
    waiting = list(reversed(bodies))
    apart: list[Body] = []
    while waiting:
        body = waiting.pop()
        region = _around(body.box, None, aspect, size)
        for n, other in enumerate(apart):
            if _shared(region, _around(other.box, None, aspect, size)) > SAME:
                box = _spanned(body.box, other.box)
                waiting.append(Body(box, body.score + other.score))  # it may reach others now
                del apart[n]
                break
        else:
            apart.append(body)
    return sorted(apart, key=lambda body: -body.score)


def _owners(bodies: Sequence[Body], known: Mapping[int, Box]) -> dict[int, int]:
    """Return the `track_id` of each body that a remembered region shows, by its place in bodies."""
    likeness = {}
    for n, body in enumerate(bodies):
        for track_id, region in known.items():
            shared, own = _overlap(body.box, region), _area(body.box)
            if shared >= OWNED * own:
                likeness[n, track_id] = shared / (own + _area(region) - shared)
    owners: dict[int, int] = {}
    for n, track_id in sorted(likeness, key=lambda pair: -likeness[pair]):
        if n not in owners and track_id not in owners.values():
            owners[n] = track_id
    return owners


def _is_covered(seen: Seen, others: Sequence[Seen]) -> bool:
    """Return whether a remembered region shows nobody who is not in others."""
    own = _in_px(seen.region, (1, 1))
    return any(_shared(own, _in_px(other.region, (1, 1))) > COVERED for other in others)


def _spanned(a: Box, b: Box) -> Box:
    return min(a[0], b[0]), min(a[1], b[1]), max(a[2], b[2]), max(a[3], b[3])


def _overlap(a: Box, b: Box) -> float:
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    return max(width, 0.0) * max(height, 0.0)


def _area(box: Box) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


def _shared(a: Box, b: Box) -> float:
    """Return the part of the smaller box that lies in the other one."""
    return _overlap(a, b) / min(_area(a), _area(b))


def _around(box: Box, kept: Box | None, aspect: float, size: Size) -> Box:
    """Return the region for a body: of the model's aspect, with a margin, and calm.

    A remembered region stays if the body is within it and not much too small for it.
    """
    left, top, right, bottom = box
    short_px = min(size)
    height = max(bottom - top, (right - left) / aspect) * (1 + MARGIN)
    height = max(height, LEAST_SIDE * short_px, LEAST_SIDE * short_px / aspect)
    if kept is not None:
        tall = max(kept[3] - kept[1], (kept[2] - kept[0]) / aspect)
        within = left >= kept[0] and top >= kept[1] and right <= kept[2] and bottom <= kept[3]
        if within and SHRINK_FROM * tall <= height <= tall:
            return kept
        height = max(height, SHRINK_TO * tall)
    x, y = (left + right) / 2, (top + bottom) / 2
    half_width, half_height = height * aspect / 2, height / 2
    return x - half_width, y - half_height, x + half_width, y + half_height


def _along(seen: Seen, shifts: Floats | None, size: Size) -> Track:
    """Return a region with its places in pictures of a camera that moves."""
    if shifts is None:
        return Track(seen.track_id, seen.region)
    left, top, right, bottom = _in_px(seen.region, size)
    path = tuple(
        _relative(_placed((left + x, top + y, right + x, bottom + y), size), size)
        for x, y in shifts.tolist()
    )
    return Track(seen.track_id, path[len(path) // 2], path)


def _placed(box: Box, size: Size) -> Box:
    """Move a box into the picture, and cut what is larger."""
    left, right = _fitted(box[0], box[2], size[0])
    top, bottom = _fitted(box[1], box[3], size[1])
    return left, top, right, bottom


def _fitted(low: float, high: float, length: int) -> tuple[float, float]:
    """Move and cut a part of an axis so that it is within a length."""
    side = min(high - low, length)
    begin = min(max((low + high - side) / 2, 0.0), length - side)
    return begin, begin + side


def _relative(box: Box, size: Size) -> Region:
    left, top, right, bottom = (round(v / side, 4) for v, side in zip(box, size * 2, strict=True))
    return left, top, round(min(right, 1.0) - left, 4), round(min(bottom, 1.0) - top, 4)


def _in_px(region: Region, size: Size) -> Box:
    left, top, width, height = region
    return left * size[0], top * size[1], (left + width) * size[0], (top + height) * size[1]
