"""What is said about a recorded clip, on real files."""

import numpy as np
import pytest
from artifacts import SPEC
from videos import pictures, write_video

from dvfl_runtime.errors import SourceError
from dvfl_runtime.teach.clip_check import check_clip

SECONDS, FPS = 1.2, 25
COUNT = round(SECONDS * FPS)
STILL = [np.full((64, 96, 3), 120, np.uint8)] * COUNT
RNG = np.random.default_rng(0)


def noisy(images, sigma):
    """The noise of a sensor, another one in each picture."""
    for image in images:
        grain = RNG.normal(0, sigma, image.shape)
        yield np.clip(image + grain, 0, 255).astype(np.uint8)


@pytest.mark.parametrize(
    ("images", "label", "ticks", "warning"),
    [
        (pictures(COUNT), "wave", None, None),
        (noisy(pictures(COUNT), 8), "wave", None, None),
        ([image // 10 for image in pictures(COUNT)], "wave", None, "dark: brightness"),
        (STILL, "wave", None, "still"),
        (noisy(STILL, 5), "wave", None, "still"),
        (STILL, "idle", None, None),
        (pictures(COUNT), "wave", [*range(10), *range(20, COUNT + 10)], "gaps: no picture for"),
        (pictures(12), "wave", None, "gaps: 0.5 s of 1.2 s"),
        (pictures(COUNT // 4), "wave", list(range(0, COUNT - 3, 4)), None),  # 6 a second
    ],
)
def test_what_speaks_against_a_clip_is_said(tmp_path, images, label, ticks, warning):
    path = write_video(tmp_path / "clip.mp4", images, ticks=ticks)
    clip = check_clip(path, label, SECONDS, SPEC)
    if warning is None:
        assert clip.warnings == ()
    else:
        assert len(clip.warnings) == 1
        assert warning in clip.warnings[0]
    assert clip.strip.shape == (8, 4 * 8, 3)  # T pictures side by side
    assert clip.strip.dtype == np.uint8


def test_the_strip_shows_the_pictures_that_the_model_sees(tmp_path):
    images = [np.full((64, 96, 3), 8 * n, np.uint8) for n in range(COUNT)]
    clip = check_clip(write_video(tmp_path / "clip.mp4", images), "wave", SECONDS, SPEC)
    shades = clip.strip.reshape(8, 4, 8, 3).mean(axis=(0, 2, 3)) / 8
    assert shades == pytest.approx([4, 12, 19, 27], abs=1)
    assert clip.frames == COUNT
    assert clip.seconds == pytest.approx(SECONDS, abs=0.05)


def test_a_clip_that_cannot_be_read_is_one_error(tmp_path):
    (tmp_path / "clip.mp4").write_bytes(b"no video")
    with pytest.raises(SourceError):
        check_clip(tmp_path / "clip.mp4", "wave", SECONDS, SPEC)
