"""What moves in the small grey pictures of a window: bodies, and the camera itself."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from dvfl_runtime.clips.resizing import resize, to_grey
from dvfl_runtime.errors.packages import MEDIA, needed
from dvfl_runtime.sources.frame import Image

Grey: TypeAlias = NDArray[np.uint8]  # (h, w), small
Floats: TypeAlias = NDArray[np.float32]
Bools: TypeAlias = NDArray[np.bool_]
Box: TypeAlias = tuple[float, float, float, float]  # left, top, right, bottom; px of the picture
Moves: TypeAlias = dict[tuple[bytes, bytes], Floats | None]  # (x, y) px from a picture to the next

SMALL_PX = 160  # the longer side of the pictures that are compared
BLUR_PX = 0.7  # takes noise away, and leaves an arm that is one pixel thick
BLUR = np.array([2, 53, 146, 53, 2]) / 256  # of that deviation
LIGHT_PART = 0.33  # of the longer side: light that changes over as much is no motion
LIGHT_STEPS = 150  # of its ratio to the usual light
COARSE = 5  # px of the small picture on a side of those that the light is taken from
DARK = 8.0  # grey levels added to both sides of a ratio of brightness
LEAST_CHANGE = 6.0  # grey levels; codecs and sensors change less where nothing moves
NOISE_FACTOR = 5.0  # how far above the noise of the window something has to change, in deviations
MOVING_CAMERA = 5.0  # if half of the picture changes by more grey levels, the camera moves
MOST_CHANGED = 0.6  # of the picture; beyond it nothing stands out
GAP_PX = 4  # what is at most twice as far apart is one body
LEAST_PIXELS = 6
MOST_BODIES = 24  # those that move least are left out
TAIL = 0.02  # of the pixels on each side, which the box leaves out

CELLS, MOVING_CELLS = 4, 0.65  # on a side; in more of them something moves if the camera does
WIDE = 0.5  # of the width or height: corners that agree on a shift span as much, and half the other
MOST_CORNERS, LEAST_CORNERS = 60, 6  # whose shifts between two pictures are measured
CORNER_QUALITY = 0.01  # of the best corner
CORNERS_APART = 7  # px
AGREEING = 0.7  # px
FLOW = {"winSize": (15, 15), "maxLevel": 3}
LEAST_SHIFT = 0.5  # px in a window; less is no motion of the camera
BETTER = 0.75  # shifts that leave more of the difference between pictures are none
CLIPPED = 16.0  # grey levels: greater differences are bodies and say nothing about the camera
EDGE_PART = 0.35  # of the contrast at an edge, which shifts by parts of a pixel leave

# A person uncovers what is behind, so most pixels rest most of the time, and moves to and fro less
# than once in two pictures. Screens do not rest, and leaves go to and fro all the time.
RESTING = 0.5  # a pixel rests while it differs by less than this part of the least change
RESTLESS = 0.3  # a body whose pixels rest for a smaller part of the window counts less
TURNS = 3.5  # ... and so does one whose pixels run through their range more often
UNLIKE_POWER, LEAST_LIKE = 8, 0.05  # by this power of how far it is beyond, and this at most
SCREEN_REST, SCREEN_FILL = 0.26, 0.88  # what rests less and fills more of its box is a screen
HABIT_POWER, LEAST_UNUSUAL = 2, 0.02  # how motion counts where something has always moved


class Body(NamedTuple):
    """Something that moves.

    Attributes:
        box: around nearly all of its pixels, as they are in the last picture.
        score: how much of it moves, and how much it is like a person.
    """

    box: Box
    score: float


class Motion(NamedTuple):
    """What moves in a window.

    Attributes:
        bodies: apart from each other, the one with the highest score first.
        shifts: (T, 2) px by which each picture shows all things further right and further down
            than the last one does; `None` if the camera stands still.
        lost: whether the whole picture changes, so that no body can be found.
        moving: (h, w) which pixels move.
        moves: of the camera, as far as they were looked for; `None` for those that are not clear.
    """

    bodies: list[Body]
    shifts: Floats | None
    lost: bool
    moving: Bools
    moves: Moves


def small_grey(image: Image) -> Grey:
    """Return a picture in which motion is found: (h, w, 3) RGB -> (h', w') grey, blurred."""
    with needed("finding what moves", *MEDIA):
        import cv2
    grey = to_grey(image)
    height, width = grey.shape
    scale = min(1.0, SMALL_PX / max(height, width))
    w, h = max(1, round(width * scale)), max(1, round(height * scale))
    # area means by two take a tenth of the time of those by a factor that is no whole number
    while min(grey.shape[0] / h, grey.shape[1] / w) >= 4:
        height, width = (side // 2 for side in grey.shape)
        grey = resize(grey[: 2 * height, : 2 * width], (width, height), antialias=True)
    if min(grey.shape[0] / h, grey.shape[1] / w) > 2:
        grey = resize(grey, (2 * w, 2 * h))
    grey = resize(grey, (w, h), antialias=True)
    # what GaussianBlur does, to the bit, but in this thread
    return np.asarray(cv2.sepFilter2D(grey, -1, BLUR, BLUR), np.uint8)


def find_motion(
    pictures: Sequence[Grey],
    liked: Sequence[Box] = (),
    liking: float = 1.0,
    habit: Floats | None = None,
    moves: Moves | None = None,
) -> Motion:
    """Return the bodies that move during a window.

    A pixel moves if its brightness, freed of changes of light and of the motion of the camera, has
    a range over the window that stands out from the noise of the other pixels. Pixels near each
    other are one body.

    Args:
        pictures: T of them, all of one size, as `small_grey` returns them.
        liked: boxes in the last picture.
        liking: how much more the motion in those boxes counts.
        habit: (h, w) in which part of the time before each pixel has moved, where the camera stands
            still; the more, the less its motion counts.
        moves: of the window before, which shares most of its pictures.
    """
    stack = np.stack(pictures)
    levels = _without_light(stack)
    change = np.ptp(levels, axis=0)
    least, typical = _least_change(change)
    moving = change > least
    shifts, moves = None, moves or {}
    if typical > MOVING_CAMERA or _is_everywhere(moving):
        shifts, moves = _shifts_of_camera(stack, moves)
    if shifts is not None:
        levels, change = _without_shifts(stack, shifts)
        least, typical = _least_change(change)
        moving = change > least
    if typical > MOVING_CAMERA or np.count_nonzero(moving) > MOST_CHANGED * moving.size:
        return Motion([], shifts, True, moving, moves)
    places = np.flatnonzero(moving)
    weights = np.sqrt(change.take(places) - least + 1)  # a bright thing counts for its size
    for box in liked:
        weights[_inside(box, *np.divmod(places, moving.shape[1]))] *= liking
    if habit is not None and shifts is None:
        weights *= np.maximum((1 - habit.take(places)) ** HABIT_POWER, LEAST_UNUSUAL)
    return Motion(_bodies(moving, weights, levels, least), shifts, False, moving, moves)


def _without_light(pictures: NDArray[np.uint8] | Floats) -> Floats:
    """Return pictures freed of changes of light, (T, h, w).

    Automatic exposure and flicker multiply a whole picture, shadows and clouds a large part of it;
    both are divided out. The light at a place is a median, which no body changes that covers less
    than half of what it is taken over.
    """
    import cv2

    count, height, width = pictures.shape
    levels = pictures + np.float32(DARK)
    w, h = max(1, width // COARSE), max(1, height // COARSE)
    # the pictures below each other are shrunk at once: (T * h, w) -> (T, h', w')
    tall = cv2.resize(levels.reshape(-1, width), (w, h * count), interpolation=cv2.INTER_AREA)
    light = tall.reshape(count, h, w)
    light = light / light.mean(0)
    gains = _medians(light.reshape(count, -1))[:, None, None]
    levels /= gains
    steps = np.clip(np.rint(light / gains * LIGHT_STEPS), 1, 255).astype(np.uint8)
    reach = min(255, int(LIGHT_PART * max(w, h)) | 1)
    others = (np.abs(steps.astype(np.int16) - LIGHT_STEPS) > 1).sum(axis=(1, 2))
    local = np.flatnonzero(others > reach**2 / 2).tolist()  # fewer change no median
    for n in range(0, len(local), 4):  # four at once, as channels, take half of the time
        some = (local[n : n + 4] * 4)[:4]
        medians = cv2.medianBlur(cv2.merge([steps[t] for t in some]), reach)
        for t, channel in zip(local[n : n + 4], cv2.split(medians), strict=False):
            levels[t] /= cv2.resize(channel / np.float32(LIGHT_STEPS), (width, height))
    return levels


def _least_change(change: Floats) -> tuple[float, float]:
    """Return the least change that stands out from the noise, and the usual one."""
    typical = float(_medians(change.ravel()))
    # a deviation, whatever stands out
    noise = 1.4826 * float(_medians(np.abs(change - typical).ravel()))
    return max(LEAST_CHANGE, typical + NOISE_FACTOR * noise), typical


def _medians(values: Floats) -> Floats:
    """Return the medians of the last axis; sorting takes a fifth of the time of `numpy.median`."""
    ordered = np.sort(values, axis=-1)
    count = values.shape[-1]
    middle = ordered[..., (count - 1) // 2] + ordered[..., count // 2]
    return np.asarray(middle / 2, np.float32)


def _is_everywhere(moving: Bools) -> bool:
    """Return whether something moves in most parts of the picture: the camera may."""
    starts = [np.arange(CELLS) * side // CELLS for side in moving.shape]
    cells = np.logical_or.reduceat(np.logical_or.reduceat(moving, starts[0], 0), starts[1], 1)
    return int(cells.sum()) > CELLS**2 * MOVING_CELLS


def _shifts_of_camera(pictures: NDArray[np.uint8], known: Moves) -> tuple[Floats | None, Moves]:
    """Return by how much each picture is shifted against the last one, and the moves; see `Motion`.

    A shift is believed if points all over the picture agree on it and it makes pictures more alike.
    """
    import cv2

    pairs = list(pairwise(picture.tobytes() for picture in pictures))
    found = {pair: known[pair] for pair in pairs if pair in known}
    if any(move is None for move in found.values()):
        return None, found
    moves = np.zeros((len(pictures), 2), np.float32)
    changes = [cv2.norm(*pair, cv2.NORM_L1) for pair in pairwise(pictures)]
    for n in np.argsort(changes)[::-1]:  # if it is somebody that moves, most corners differ here
        if pairs[n] not in found:
            found[pairs[n]] = _shift_between(pictures[n], pictures[n + 1])
        move = found[pairs[n]]
        if move is None:
            return None, found
        moves[n + 1] = move
    shifts = moves.cumsum(0) - moves.sum(0)
    if np.ptp(shifts, axis=0).max() < LEAST_SHIFT:
        return None, found
    levels = pictures.astype(np.float32)
    moved = np.stack([_shifted(*pair) for pair in zip(levels[1:], moves[1:], strict=True)])
    still, left = (
        np.minimum(np.abs(after - levels[:-1]), CLIPPED).mean() for after in (levels[1:], moved)
    )
    return shifts if left < BETTER * still else None, found


def _shift_between(before: Grey, after: Grey) -> Floats | None:
    """Return the (x, y) shift of most corners, px, or `None` if they do not agree."""
    import cv2

    corners = cv2.goodFeaturesToTrack(before, MOST_CORNERS, CORNER_QUALITY, CORNERS_APART)
    if corners is None:
        return None
    ends, is_found, _ = cv2.calcOpticalFlowPyrLK(before, after, corners, None, **FLOW)  # type: ignore[call-overload]
    found = is_found[:, 0] == 1
    at, moves = corners[found, 0], (ends - corners)[found, 0]
    if len(moves) < LEAST_CORNERS:
        return None
    move = np.median(moves, axis=0)
    agree = np.abs(moves - move).max(1) < AGREEING
    if agree.sum() < max(LEAST_CORNERS, len(moves) / 2):
        return None
    height, width = before.shape
    spread = np.ptp(at[agree], axis=0) / (width, height)
    is_wide = spread.max() > WIDE and spread.min() > WIDE / 2
    return np.asarray(move, np.float32) if is_wide else None


def _shifted(picture: Floats, shift: Floats) -> Floats:
    """Return a picture moved back by a shift; its edge goes on beyond it."""
    import cv2

    height, width = picture.shape
    x, y = (float(v) for v in shift)
    # what warpAffine does, in a third of the time and in this thread
    middle = (width - 1) / 2 + x, (height - 1) / 2 + y
    return np.asarray(cv2.getRectSubPix(picture, (width, height), middle), np.float32)


def _without_shifts(pictures: NDArray[np.uint8], shifts: Floats) -> tuple[Floats, Floats]:
    """Return pictures that show all things where the last one does, and the change of each pixel.

    A pixel changes by no more than it did where the pictures show it, and not at all if fewer than
    half of them do. At edges, parts of a pixel that a shift leaves are no change.
    """
    import cv2

    count, height, width = pictures.shape
    x = np.arange(width) + shifts[:, :1]  # (T, w), where each picture has the pixel
    y = np.arange(height) + shifts[:, 1:]
    shown = ((y >= 0) & (y <= height - 1))[:, :, None] & ((x >= 0) & (x <= width - 1))[:, None]
    floats = pictures.astype(np.float32)
    moved = np.stack([_shifted(p, s) for p, s in zip(floats, shifts, strict=True)])
    # the last one shows all of its own pixels; what is invented at an edge is no light
    levels = _without_light(np.where(shown, moved, floats[-1]))
    highest = np.where(shown, levels, -np.inf).max(0)
    lowest = np.where(shown, levels, np.inf).min(0)
    middle = np.median(levels, axis=0)
    around = np.ones((3, 3), np.uint8)
    edges = cv2.dilate(middle, around) - cv2.erode(middle, around)
    change = np.where(shown.sum(0) * 2 >= count, highest - lowest, 0) - EDGE_PART * edges
    return np.where(shown, levels, middle), np.maximum(change, 0).astype(np.float32)


def _bodies(moving: Bools, weights: Floats, levels: Floats, least: float) -> list[Body]:
    """Return the bodies of the (n,) pixels that move, by their scores, without screens."""
    import cv2

    reach = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * GAP_PX + 1, 2 * GAP_PX + 1))
    places = np.flatnonzero(moving)
    if not places.size:
        return []
    rows, columns = np.divmod(places, moving.shape[1])
    grown = np.asarray(cv2.dilate(moving.view(np.uint8), reach), np.uint8)
    labels = _parts(grown).take(places).astype(np.intp)
    counts = np.bincount(labels)
    series = levels.reshape(len(levels), -1).take(places, axis=1)  # (T, n)
    ordered = _ordered(series)
    middle = (ordered[(len(series) - 1) // 2] + ordered[len(series) // 2]) / 2
    resting = (np.abs(series - middle) < RESTING * least).sum(0, dtype=np.uint16) / len(series)
    turns = np.abs(np.diff(series, axis=0)).sum(0) / (ordered[-1] - ordered[0])
    rest, turning = (np.bincount(labels, v) / np.maximum(counts, 1) for v in (resting, turns))
    scores = np.bincount(labels, weights) * (counts >= LEAST_PIXELS)
    like = np.minimum(1, rest / RESTLESS) * np.minimum(1, TURNS / np.maximum(turning, TURNS))
    scores *= np.maximum(LEAST_LIKE, like**UNLIKE_POWER)
    bodies = []
    for label in np.argsort(-scores, kind="stable")[:MOST_BODIES].tolist():
        if not scores[label]:
            break
        chosen = labels == label
        (left, right), (top, bottom) = (_span(at[chosen]) for at in (columns, rows))
        filled = counts[label] / ((right + 1 - left) * (bottom + 1 - top))
        if rest[label] >= SCREEN_REST or filled <= SCREEN_FILL:
            bodies.append(Body((left, top, right + 1, bottom + 1), float(scores[label])))
    return bodies


def _inside(box: Box, rows: NDArray[np.intp], columns: NDArray[np.intp]) -> Bools:
    """Return which of the (n,) pixels are in a box."""
    left, top, right, bottom = map(round, box)
    across = (columns >= left) & (columns < right)
    return np.asarray(across & (rows >= top) & (rows < bottom), np.bool_)


def _ordered(series: Floats) -> list[Floats]:
    """Sort the values of each pixel, (T, n); for few pictures `numpy.sort` takes twice as long."""
    rows = list(series)
    for turn in range(len(rows)):  # neighbours change places until all are in order
        for n in range(turn % 2, len(rows) - 1, 2):
            low, high = rows[n : n + 2]
            rows[n], rows[n + 1] = np.minimum(low, high), np.maximum(low, high)
    return rows


def _parts(mask: NDArray[np.uint8]) -> NDArray[np.int32]:
    """Return which part of a mask each of its pixels is in, from 0; a hole belongs to its part.

    `cv2.connectedComponents` would do it in threads that spin; see `resizing`.
    """
    import cv2

    parts = np.zeros(mask.shape, np.int32)
    outlines, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    for part in range(1, len(outlines)):
        cv2.drawContours(parts, outlines, part, part, cv2.FILLED)
    return parts


def _span(places: NDArray[np.intp]) -> tuple[int, int]:
    """Return the lowest and the highest of all (n,) places but the tails."""
    ordered = np.sort(places)
    tail = int(TAIL * (len(ordered) - 1))
    return int(ordered[tail]), int(ordered[len(ordered) - 1 - tail])
