import json
import sys

import numpy as np
import pytest
from shared import REFERENCE, needs_shared

from dvfl_runtime import ClipError, ClipSpec, DvflError
from dvfl_runtime.clips.preprocess import (
    context_frame,
    cut,
    preprocess_clip,
    preprocess_frame,
    resized_size,
    spatial_views,
)

OFFICIAL = ClipSpec()


@needs_shared
def test_sizes_are_the_official_ones():
    rows = json.loads((REFERENCE / "preprocess.json").read_text())["sizes"]
    for row in rows:
        assert list(resized_size(*row["source_wh"], row["short_side"])) == row["resized_wh"]


@needs_shared
def test_pixels_are_the_official_ones():
    reference = np.load(REFERENCE / "preprocess.npz")
    got = preprocess_frame(reference["rgb"], OFFICIAL)
    mean, std = np.array(OFFICIAL.mean), np.array(OFFICIAL.std)
    wanted = reference["tensor"].transpose(1, 2, 0) * std + mean  # (3, H, W) -> (H, W, 3)
    assert np.abs(got - wanted).max() < 1e-3  # of 255; the allowance is 1


def test_the_centre_crop_does_not_antialias():
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[0::4] = (
        255  # between the rows that a bilinear reduction by 4 reads; an area mean sees 64
    )
    assert preprocess_frame(stripes, ClipSpec(size=(16, 16), resize=16)).max() == 0


def test_the_crop_is_central_and_owns_its_memory():
    image = np.zeros((10, 30, 3), np.uint8)
    image[:, 10:20] = 255
    got = preprocess_frame(image, ClipSpec(size=(10, 10), resize=10))
    assert got.min() == 255
    assert got.base is None


def test_letterbox_keeps_the_whole_picture_and_pads_with_the_mean():
    image = np.full((10, 20, 3), 200, np.uint8)
    spec = ClipSpec(size=(20, 20), resize=None, crop="letterbox", mean=(10.4, 20.6, 300.0))
    got = preprocess_frame(image, spec)
    assert got[5:15].min() == 200
    assert got[:5].reshape(-1, 3).tolist() == [[10, 21, 255]] * 100
    assert (got[15:] == got[0, 0]).all()


def test_three_crops_are_left_right_middle():
    image = np.zeros((8, 24, 3), np.uint8)
    image[:, :8, 0], image[:, 8:16, 1], image[:, 16:, 2] = 255, 255, 255
    views = spatial_views(image, ClipSpec(size=(8, 8), resize=9), 3)
    assert [v.mean(axis=(0, 1)).argmax() for v in views] == [0, 2, 1]
    tall = spatial_views(image.transpose(1, 0, 2), ClipSpec(size=(8, 8), resize=9), 3)
    assert [v.mean(axis=(0, 1)).argmax() for v in tall] == [0, 2, 1]


def test_one_view_is_the_models_own_crop():
    image = np.random.default_rng(0).integers(0, 255, (30, 40, 3), np.uint8)
    spec = ClipSpec(size=(8, 8), resize=9)
    assert (spatial_views(image, spec, 1)[0] == preprocess_frame(image, spec)).all()
    with pytest.raises(ValueError, match="must be 1 or 3, got 2"):
        spatial_views(image, spec, 2)
    with pytest.raises(ValueError, match="square"):
        spatial_views(image, ClipSpec(size=(8, 6), resize=9), 3)


def test_views_of_other_arrays_are_read_correctly():
    image = np.random.default_rng(0).integers(0, 255, (30, 40, 3), np.uint8)
    assert (
        preprocess_frame(image[::-1, :, ::-1], OFFICIAL)
        == preprocess_frame(image[::-1, :, ::-1].copy(), OFFICIAL)
    ).all()


@pytest.mark.parametrize(
    ("clip", "message"),
    [
        ([[1]], "numpy array"),
        (np.zeros((8, 9, 9), np.uint8), "shape"),
        (np.zeros((8, 9, 9, 4), np.uint8), "shape"),
        (np.zeros((8, 9, 9, 3), np.float32), "float32"),
        (np.zeros((0, 9, 9, 3), np.uint8), "takes 8 frames, got 0"),
        (np.zeros((7, 9, 9, 3), np.uint8), "takes 8 frames, got 7; pick them"),
        (np.zeros((8, 0, 9, 3), np.uint8), "shape"),
        (np.zeros((8, 1, 101, 3), np.uint8), "101x1 px"),
    ],
)
def test_wrong_clips_are_refused(clip, message):
    with pytest.raises(ClipError, match=message) as caught:
        preprocess_clip(clip, OFFICIAL)
    assert isinstance(caught.value, ValueError)


def test_a_missing_opencv_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(DvflError, match="pip install opencv-python-headless"):
        preprocess_frame(np.zeros((8, 8, 3), np.uint8), OFFICIAL)


def test_a_context_has_four_times_the_short_side_of_the_model_and_is_never_enlarged():
    spec = ClipSpec(size=(64, 80), crop="letterbox")
    image = np.random.default_rng(0).integers(0, 255, (720, 1280, 3), np.uint8)
    assert context_frame(image, spec).shape == (256, 455, 3)
    assert context_frame(image.transpose(1, 0, 2), spec).shape == (455, 256, 3)
    small = image[:256, :1000]
    assert context_frame(small, spec) is small
    with pytest.raises(ClipError):
        context_frame(image.astype(np.float32), spec)


def test_a_region_is_cut_from_a_picture():
    image = np.arange(20 * 10 * 3, dtype=np.uint8).reshape(20, 10, 3)
    assert (cut(image, (0.0, 0.0, 1.0, 1.0)) == image).all()
    assert (cut(image, (0.2, 0.5, 0.4, 0.25)) == image[10:15, 2:6]).all()
    assert cut(image, (0.999, 0.999, 0.001, 0.001)).shape == (1, 1, 3)
