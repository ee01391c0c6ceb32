"""Regions in pictures that are made by hand: what moves, what must not count, what is kept."""

from itertools import pairwise

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from dvfl_runtime.clips.finder import WHOLE_PICTURE
from dvfl_runtime.clips.focus import (
    HOLD_S,
    LEAST_SIDE,
    FocusMemory,
    Seen,
    find_region,
    find_regions,
)
from dvfl_runtime.clips.motion import BLUR_PX, small_grey
from dvfl_runtime.results import WHOLE

T, H, W = 8, 90, 160
UP_AND_DOWN = (0, 1, 2, 3, 3, 2, 1, 0)  # quarters of its height that an arm is at


def wall(seed: int = 0) -> np.ndarray:
    """Returns a textured backdrop, (H, W) of 60 to 180."""
    coarse = np.random.default_rng(seed).uniform(60, 180, (12, 20)).astype(np.float32)
    return cv2.resize(coarse, (W, H))


def moving(left: int, top: int, wide: int, tall: int) -> np.ndarray:
    """Returns (T, H, W) with a body in this box whose arms go up and down."""
    frames = np.stack([wall()] * T)
    for t in range(T):
        begin, end = (top + tall * n // 4 for n in (UP_AND_DOWN[t], UP_AND_DOWN[t] + 1))
        frames[t, begin:end, left : left + wide] = 20
    return frames


def grey(frames: np.ndarray) -> list[np.ndarray]:
    pictures = np.clip(frames, 0, 255).astype(np.uint8)
    return [cv2.GaussianBlur(picture, (0, 0), BLUR_PX) for picture in pictures]


def holds(region, left, top, wide, tall, slack=1.5):
    """Returns whether a region shows a box of the small picture, and little around it."""
    x, y, w, h = np.array(region) * (W, H, W, H)
    inside = x <= left + 1 and y <= top + 1 and x + w >= left + wide - 1 and y + h >= top + tall - 1
    return inside and h <= 1.7 * slack * max(wide, tall, LEAST_SIDE * H)


BODY = (100, 30, 16, 20)
RNG = np.random.default_rng(3)
HARMLESS = {
    "nothing": lambda f: f,
    "noise": lambda f: f + RNG.normal(0, 3, f.shape),
    "flicker": lambda f: f * RNG.uniform(0.75, 1.25, (T, 1, 1)),
    "exposure": lambda f: f * np.linspace(0.5, 1.1, T)[:, None, None],
    "a cloud": lambda f: (
        f * (1 - 0.4 / (1 + np.exp(-(np.arange(W) - 20 * np.arange(T)[:, None]) / 14)))[:, None]
    ),
    "codec": lambda f: f + RNG.choice([-2, 0, 2], (T, H // 2, W // 2)).repeat(2, 1).repeat(2, 2),
}


def region_of(frames, **options):
    return find_region(grey(frames), 1.0, **options)[0].region


@pytest.mark.parametrize("name", HARMLESS)
def test_a_body_is_found_and_nothing_else(name):
    change = HARMLESS[name]
    found, memory = find_region(grey(change(moving(*BODY))), 1.0, end_s=2.0)
    region = found.region
    assert holds(region, *BODY), region
    assert found.path == ()
    assert region[2] * W == pytest.approx(region[3] * H, abs=0.1)  # a square of pixels
    assert memory == FocusMemory((Seen(1, region, 2.0),), 1)
    assert region_of(change(np.stack([wall()] * T))) == WHOLE


def film(frames, moves):
    """Returns frames as a camera sees them that has moved by (T, 2) px."""
    wide = np.stack([np.pad(frame, 20, mode="reflect") for frame in frames])
    return np.stack(
        [
            cv2.getRectSubPix(
                frame.astype(np.float32), (W, H), (20 + W / 2 - 0.5 + x, 20 + H / 2 - 0.5 + y)
            )
            for frame, (x, y) in zip(wide, moves, strict=True)
        ]
    )


MOVES = {
    "shake": np.random.default_rng(5).normal(0, 2, (T, 2)),
    "turn": np.linspace(0, 1, T)[:, None] * (16, 3),
}


@pytest.mark.parametrize("name", MOVES)
def test_a_region_goes_along_with_a_camera_that_moves(name):
    moves, (left, top, wide, tall) = MOVES[name], BODY
    texture = cv2.resize(np.random.default_rng(2).uniform(-60, 60, (H // 4, W // 4)), (W, H))
    frames = film(moving(*BODY) + texture, moves)
    found, _ = find_region(grey(frames), 1.0)
    assert len(found.path) == T
    assert found.region == found.path[T // 2]
    for n, (x, y) in enumerate(moves):
        assert holds(found.region_at(n), left - x, top - y, wide, tall), n
    several, _ = find_regions(grey(frames), 1.0, most=4)
    assert (several[0].region, several[0].path) == (found.region, found.path)
    nobody = find_region(grey(film(np.stack([wall() + texture] * T), moves)), 1.0)[0]
    assert nobody == WHOLE_PICTURE


def test_a_picture_that_changes_everywhere_is_shown_whole():
    frames = np.random.default_rng(1).uniform(0, 255, (T, H, W))
    memory = FocusMemory((Seen(3, (0.1, 0.1, 0.2, 0.2), 1.0),), 3)
    found = find_region(grey(frames), 1.0, end_s=1.5, memory=memory)
    assert found == (WHOLE_PICTURE, FocusMemory((), 3))


def test_whoever_stands_still_is_remembered_for_a_while():
    found, memory = find_region(grey(moving(*BODY)), 1.0, end_s=2.0)
    still = grey(np.stack([wall()] * T))
    # meanwhile the whole picture is shown, as of a clip in training
    shown = find_region(still, 1.0, end_s=2.0 + HOLD_S, memory=memory)
    assert shown == (WHOLE_PICTURE, memory)
    hand = grey(moving(*BODY[:2], 8, 14))
    assert find_region(hand, 1.0, end_s=2.0 + HOLD_S, memory=shown[1])[0] == found
    forgotten = (WHOLE_PICTURE, FocusMemory((), 1))
    assert find_region(still, 1.0, end_s=2.1 + HOLD_S, memory=memory) == forgotten
    # a file that starts again
    assert find_region(still, 1.0, end_s=0.5, memory=memory) == forgotten


def test_several_who_stand_still_are_shown_once_one_moves_and_keep_their_numbers():
    left, right = (20, 30, 14, 20), (110, 30, 14, 20)
    found, memory = find_regions(grey(together(left, right)), 1.0, most=4, end_s=2.0)
    still = grey(np.stack([wall()] * T))
    nothing, memory = find_regions(still, 1.0, most=4, end_s=4.0, memory=memory)
    assert nothing == []
    again, memory = find_regions(grey(moving(*left)), 1.0, most=4, end_s=6.0, memory=memory)
    assert {f.track_id: f.region for f in again} == {f.track_id: f.region for f in found}


def test_a_region_neither_jumps_nor_shrinks_to_a_hand():
    first, memory = find_region(grey(moving(*BODY)), 1.0, end_s=2.0)
    for left, wide in ((104, 8), (100, 16), (98, 12)):
        kept, memory = find_region(grey(moving(left, 30, wide, 16)), 1.0, end_s=2.5, memory=memory)
        assert kept == first
    hand = moving(100, 30, 4, 4)
    sides = [first.region[3]]
    for n in range(6):
        found, memory = find_region(grey(hand), 1.0, end_s=3.0 + n, memory=memory)
        sides.append(found.region[3])
    assert all(after >= 0.69 * before for before, after in pairwise(sides))
    assert LEAST_SIDE <= sides[-1] <= 2 * LEAST_SIDE


def test_of_two_bodies_the_one_that_was_shown_stays():
    small, large = (20, 30, 14, 20), (120, 40, 16, 22)
    alone, memory = find_region(grey(moving(*small)), 1.0, end_s=2.0)
    assert holds(region_of(together(small, large)), *large)
    both = grey(together(small, large))
    assert find_region(both, 1.0, end_s=2.5, memory=memory)[0] == alone


def test_parts_near_each_other_are_one_body():
    assert holds(region_of(together((60, 30, 6, 12), (73, 30, 6, 12))), 60, 30, 19, 12)


def together(*boxes):
    """Returns frames with a body in each box."""
    return np.min([np.where(moving(*box) == 20, 20, wall()) for box in boxes], axis=0)


def test_bodies_apart_from_each_other_have_regions_and_numbers_of_their_own():
    people = [(20, 30, 14, 20), (80, 20, 12, 18), (130, 60, 14, 20)]
    found, memory = find_regions(grey(together(*people)), 1.0, most=8, end_s=2.0)
    assert len(found) == 3
    owners = {next(b for b in people if holds(f.region, *b)): f.track_id for f in found}
    assert sorted(owners.values()) == [1, 2, 3]
    # the second stands still, the third has gone a step, and somebody comes
    newcomer = (45, 60, 14, 20)
    later = [people[0], (127, 60, 14, 20), newcomer]
    found, memory = find_regions(grey(together(*later)), 1.0, most=8, end_s=2.5, memory=memory)
    ids = {f.track_id: f.region for f in found}
    assert set(ids) == {1, 2, 3, 4}
    for track_id, box in (
        (owners[people[0]], people[0]),
        (owners[people[1]], people[1]),
        (4, newcomer),
    ):
        assert holds(ids[track_id], *box)
    # who has stood still for long is forgotten, and a number is never used again
    alone = grey(moving(*people[0]))
    found, memory = find_regions(alone, 1.0, most=8, end_s=3 + HOLD_S, memory=memory)
    assert [f.track_id for f in found] == [owners[people[0]]] or [f.track_id for f in found] == [5]
    found, memory = find_regions(alone, 1.0, most=8, end_s=3.5 + HOLD_S, memory=memory)
    assert len(found) == 1
    assert memory.last_id == 5


def test_two_who_meet_are_one_region_and_keep_their_numbers_when_they_part():
    left, right = (30, 30, 14, 24), (110, 30, 14, 24)
    memory, seen = None, []
    for n, gap in enumerate((80, 56, 36, 16, 16, 36, 56, 80)):
        bodies = (70 - gap // 2, *left[1:]), (70 + gap // 2, *right[1:])
        found, memory = find_regions(
            grey(together(*bodies)), 1.0, most=4, end_s=2 + n / 2, memory=memory
        )
        seen.append([f.track_id for f in sorted(found, key=lambda f: f.region)])
    assert seen[0] == seen[-1]
    assert len(seen[0]) == 2
    assert len(seen[3]) == 1
    assert memory.last_id == 2


def test_there_are_no_more_regions_than_asked_for_and_one_person_has_one():
    people = [(10 + 40 * n, 10 + 40 * m, 12, 18) for n in range(4) for m in range(2)]
    for most in (1, 3, 8):
        assert len(find_regions(grey(together(*people)), 1.0, most=most)[0]) == min(8, most)
    hands = together((60, 20, 6, 16), (80, 20, 6, 16))  # of somebody who stands between them
    (found,), _ = find_regions(grey(hands), 1.0, most=8)
    assert holds(found.region, 60, 20, 26, 16)


RESTLESS = {
    "a screen": lambda t, rng: rng.uniform(20, 230, (16, 24)),
    "leaves": lambda t, rng: np.where((np.arange(24) // 2 + t) % 2, 60, 150) + np.zeros((16, 1)),
}


@pytest.mark.parametrize("name", RESTLESS)
def test_a_person_is_found_beside_what_never_rests(name):
    rng = np.random.default_rng(0)
    frames = np.stack([wall()] * T)
    for t in range(T):
        frames[t, 20:36, 10:34] = RESTLESS[name](t, rng)
        frames[t, 40:60, 90 + 3 * t : 98 + 3 * t] = 20  # somebody walks
    assert holds(region_of(frames), 90, 40, 29, 20)
    (found,), _ = find_regions(grey(frames), 1.0, most=4)
    assert holds(found.region, 90, 40, 29, 20)
    frames[:, 40:60] = wall()[40:60]
    assert region_of(frames) == WHOLE  # nobody is there


def test_what_has_moved_for_long_counts_less_than_what_has_not():
    leaves, person, memory = (10, 20, 44, 30), (120, 40, 12, 16), None
    alone, both = grey(moving(*leaves)), grey(together(leaves, person))
    assert holds(region_of(together(leaves, person)), *leaves)
    for n in range(60):
        found, memory = find_region(alone, 1.0, end_s=2.0 + n, memory=memory)
        assert holds(found.region, *leaves)  # it is all there is
    assert holds(find_region(both, 1.0, end_s=62.0, memory=memory)[0].region, *person)
    # nothing is known where a file begins again
    again, memory = find_region(both, 1.0, end_s=2.0, memory=memory)
    assert holds(again.region, *leaves)
    assert not memory.habit.any()


def test_a_region_has_the_aspect_of_the_model_and_is_cut_at_the_picture():
    _, _, w, h = find_region(grey(moving(*BODY)), 2.0)[0].region
    assert w * W == pytest.approx(2 * h * H, abs=0.1)
    _, y, w, h = region_of(moving(10, 5, 70, 80))
    assert (y, h) == (0.0, 1.0)
    assert w < 1


def test_pictures_of_two_sizes_are_shown_whole():
    frames = grey(moving(*BODY))
    assert find_region([*frames[:-1], frames[-1][:80]], 1.0) == (WHOLE_PICTURE, FocusMemory())


@settings(max_examples=40, deadline=None)
@given(
    arrays(np.uint8, (3, 9, 16)),
    st.floats(0.25, 4),
    st.tuples(st.floats(0, 0.5), st.floats(0, 0.5), st.floats(0.1, 0.5), st.floats(0.1, 0.5)),
    st.integers(1, 3),
)
def test_regions_are_always_parts_of_the_picture(pictures, aspect, before, most):
    memory = FocusMemory((Seen(1, before, 0.0),), 1)
    found, after = find_regions(list(pictures), aspect, most=most, memory=memory)
    assert len(found) <= most
    assert len(after.seen) <= most
    for region in [part for thing in found for part in (thing.region, *thing.path)]:
        left, top, width, height = region
        assert min(left, top) >= 0
        assert min(width, height) > 0
        assert max(left + width, top + height) <= 1 + 1e-9


def test_small_pictures_are_grey_and_never_enlarged():
    image = np.random.default_rng(0).integers(0, 255, (720, 1280, 3), np.uint8)
    assert small_grey(image).shape == (90, 160)
    assert small_grey(image.transpose(1, 0, 2)).shape == (160, 90)
    assert small_grey(image[:4, :100]).shape == (4, 100)
