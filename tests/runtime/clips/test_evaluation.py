"""Which frames the views of a whole video show."""

import dataclasses

import numpy as np
import pytest
from artifacts import SPEC

from dvfl_runtime.clips.evaluation import Views, sample_video
from dvfl_runtime.clips.sampling import uniform_indices
from dvfl_runtime.sources import open_source


@pytest.mark.parametrize(("views", "interval"), [(1, 4), (3, 1)])
def test_several_views_have_the_official_interval_of_one(views: int, interval: int) -> None:
    spec = dataclasses.replace(SPEC, frame_interval=4)
    video = np.arange(97, dtype=np.uint8)[:, None, None, None] * np.ones((1, 8, 8, 3), np.uint8)
    clips, _ = sample_video(open_source(video), spec, Views(temporal=views))
    shown = [clip[:, 0, 0, 0].tolist() for clip in clips]
    assert shown == [
        uniform_indices(97, 4, interval, view=k, num_views=views).tolist() for k in range(views)
    ]
    assert uniform_indices(97, 4, 4).tolist() != uniform_indices(97, 4, 1).tolist()
