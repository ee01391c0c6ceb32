"""Pictures are scaled in the caller's thread, to what OpenCV makes of them in one piece."""

import time

import cv2
import numpy as np
import pytest

from dvfl_runtime.clips.focus import find_region
from dvfl_runtime.clips.motion import BLUR_PX, small_grey
from dvfl_runtime.clips.preprocess import context_frame, focused, preprocess_frame
from dvfl_runtime.clips.resizing import resize, to_grey
from dvfl_runtime.clips.spec import ClipSpec

SPEC = ClipSpec(size=(64, 64), crop="letterbox", focus="motion")


def picture(width, height, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


@pytest.mark.parametrize("antialias", [False, True])
@pytest.mark.parametrize(
    ("size", "wanted"),
    [
        ((1280, 720), (640, 360)),
        ((640, 360), (455, 256)),
        ((480, 270), (455, 256)),  # two bands
        ((1600, 900), (640, 360)),
        ((701, 1001), (255, 367)),  # no two rows begin together: one piece
        ((300, 200), (600, 400)),
        ((1, 50), (1, 7)),
    ],
)
def test_bands_are_what_the_whole_picture_gives(size, wanted, antialias):
    how = cv2.INTER_AREA if antialias else cv2.INTER_LINEAR
    image = picture(*size)
    for shown in (image, image[:, :, ::-1], image[::-1]):  # BGR, upside down
        whole = cv2.resize(np.ascontiguousarray(shown), wanted, interpolation=how)
        whole = whole.reshape(wanted[1], wanted[0], 3)
        assert np.array_equal(resize(shown, wanted, antialias=antialias), whole)
        grey = cv2.cvtColor(np.ascontiguousarray(shown), cv2.COLOR_RGB2GRAY)
        assert np.array_equal(to_grey(shown), grey)
    wide = np.zeros((wanted[1], wanted[0] + 5, 3), np.uint8)
    resize(image, wanted, antialias=antialias, out=wide[:, 2:-3])
    assert np.array_equal(wide[:, 2:-3], resize(image, wanted, antialias=antialias))
    assert not wide[:, :2].any()


def test_where_the_scale_is_no_binary_fraction_single_pixels_differ_by_one():
    image = picture(700, 1000)
    whole = cv2.resize(image, (256, 366))
    difference = np.abs(whole.astype(int) - resize(image, (256, 366)))
    assert difference.max() <= 1
    assert difference.mean() < 0.01


def test_small_pictures_are_blurred_as_opencv_blurs_them():
    image = picture(160, 90)
    blurred = cv2.GaussianBlur(to_grey(image), (0, 0), BLUR_PX)
    assert np.abs(small_grey(image).astype(int) - blurred).max() <= 1
    assert (small_grey(image) != blurred).mean() < 0.001


@pytest.mark.skipif(cv2.getNumThreads() < 2, reason="OpenCV has no threads on one core")
def test_no_other_thread_works_on_pictures():
    image = picture(1280, 720)
    images = [image.copy() for _ in range(8)]
    for n, moved in enumerate(images):
        moved[200:500, 300 + 20 * n : 400 + 20 * n] = 20
    greys = [small_grey(moved) for moved in images]
    work = {
        "context": lambda: context_frame(image, SPEC),
        "grey": lambda: small_grey(image),
        "region": lambda: find_region(greys, 1.0),
        "clip": lambda: [preprocess_frame(part, SPEC) for part in focused(images, SPEC)[0]],
        "centre": lambda: preprocess_frame(image, ClipSpec()),
    }
    for name, do in work.items():
        do()
        time.sleep(0.01)  # the threads of what ran before have gone to sleep
        begin = time.process_time(), time.thread_time()
        for _ in range(5):
            do()
        time.sleep(0.01)
        all_s, own_s = time.process_time() - begin[0], time.thread_time() - begin[1]
        assert all_s - own_s < 0.1 * own_s + 0.001, name
