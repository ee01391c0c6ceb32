"""Regions in pictures that are made by hand: what moves, what must not count, what is kept."""

from itertools import pairwise

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from dvfl_runtime.clips.focus import (
    HOLD_S,
    LEAST_SIDE,
    FocusMemory,
    find_region,
    small_grey,
)
from dvfl_runtime.results import WHOLE

T, H, W = 8, 90, 160


def wall(seed: int = 0) -> np.ndarray:
    """Returns a textured backdrop, (H, W) of 60 to 180."""
    coarse = np.random.default_rng(seed).uniform(60, 180, (12, 20)).astype(np.float32)
    return cv2.resize(coarse, (W, H))


def moving(left: int, top: int, wide: int, tall: int) -> np.ndarray:
    """Returns (T, H, W) with a body in this box whose arms go up and down."""
    frames = np.stack([wall()] * T)
    for t in range(T):
        rows = slice(top, top + tall // 2) if t % 2 else slice(top + tall // 2, top + tall)
        frames[t, rows, left : left + wide] = 20
    return frames


def grey(frames: np.ndarray) -> list[np.ndarray]:
    return list(np.clip(frames, 0, 255).astype(np.uint8))


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


@pytest.mark.parametrize("name", HARMLESS)
def test_a_body_is_found_and_nothing_else(name):
    change = HARMLESS[name]
    region, memory = find_region(grey(change(moving(*BODY))), 1.0, end_s=2.0)
    assert holds(region, *BODY), region
    assert region[2] * W == pytest.approx(region[3] * H, abs=0.1)  # a square of pixels
    assert memory == FocusMemory(region, 2.0)
    assert find_region(grey(change(np.stack([wall()] * T))), 1.0)[0] == WHOLE


def test_a_camera_that_moves_shows_the_whole_picture():
    frames = moving(*BODY)
    for t in range(T):
        frames[t] = np.roll(frames[t], (3 * (-1) ** t, 5 * t % 11), (0, 1))
    memory = FocusMemory((0.1, 0.1, 0.2, 0.2), 1.0)
    assert find_region(grey(frames), 1.0, end_s=1.5, memory=memory) == (WHOLE, FocusMemory())


def test_whoever_stands_still_is_remembered_for_a_while():
    region, memory = find_region(grey(moving(*BODY)), 1.0, end_s=2.0)
    still = grey(np.stack([wall()] * T))
    assert find_region(still, 1.0, end_s=2.0 + HOLD_S, memory=memory) == (region, memory)
    assert find_region(still, 1.0, end_s=2.1 + HOLD_S, memory=memory) == (WHOLE, FocusMemory())
    # a file that starts again
    assert find_region(still, 1.0, end_s=0.5, memory=memory) == (WHOLE, FocusMemory())


def test_a_region_neither_jumps_nor_shrinks_to_a_hand():
    region, memory = find_region(grey(moving(*BODY)), 1.0, end_s=2.0)
    for left, wide in ((104, 8), (100, 16), (98, 12)):
        kept, memory = find_region(grey(moving(left, 30, wide, 16)), 1.0, end_s=2.5, memory=memory)
        assert kept == region
    hand = moving(100, 30, 4, 4)
    sides = [region[3]]
    for n in range(6):
        found, memory = find_region(grey(hand), 1.0, end_s=3.0 + n, memory=memory)
        sides.append(found[3])
    assert all(after >= 0.69 * before for before, after in pairwise(sides))
    assert LEAST_SIDE <= sides[-1] <= 2 * LEAST_SIDE


def test_of_two_bodies_the_one_that_was_shown_stays():
    small, large = (20, 30, 14, 20), (120, 40, 16, 22)
    both = np.where(moving(*small) == 20, 20, moving(*large))
    alone, memory = find_region(grey(moving(*small)), 1.0, end_s=2.0)
    assert holds(find_region(grey(both), 1.0)[0], *large)
    assert find_region(grey(both), 1.0, end_s=2.5, memory=memory)[0] == alone


def test_parts_near_each_other_are_one_body():
    hands = np.where(moving(60, 30, 6, 12) == 20, 20, moving(73, 30, 6, 12))
    assert holds(find_region(grey(hands), 1.0)[0], 60, 30, 19, 12)


def test_a_region_has_the_aspect_of_the_model_and_is_cut_at_the_picture():
    _, _, w, h = find_region(grey(moving(*BODY)), 2.0)[0]
    assert w * W == pytest.approx(2 * h * H, abs=0.1)
    _, y, w, h = find_region(grey(moving(10, 5, 70, 80)), 1.0)[0]
    assert (y, h) == (0.0, 1.0)
    assert w < 1


def test_pictures_of_two_sizes_are_shown_whole():
    frames = grey(moving(*BODY))
    assert find_region([*frames[:-1], frames[-1][:80]], 1.0) == (WHOLE, FocusMemory())


@settings(max_examples=40, deadline=None)
@given(
    arrays(np.uint8, (3, 9, 16)),
    st.floats(0.25, 4),
    st.tuples(st.floats(0, 0.5), st.floats(0, 0.5), st.floats(0.1, 0.5), st.floats(0.1, 0.5)),
)
def test_a_region_is_always_a_part_of_the_picture(pictures, aspect, before):
    memory = FocusMemory(before, 0.0)
    left, top, width, height = find_region(list(pictures), aspect, memory=memory)[0]
    assert min(left, top) >= 0
    assert min(width, height) > 0
    assert max(left + width, top + height) <= 1 + 1e-9


def test_small_pictures_are_grey_and_never_enlarged():
    image = np.random.default_rng(0).integers(0, 255, (720, 1280, 3), np.uint8)
    assert small_grey(image).shape == (90, 160)
    assert small_grey(image.transpose(1, 0, 2)).shape == (160, 90)
    assert small_grey(image[:4, :100]).shape == (4, 100)
