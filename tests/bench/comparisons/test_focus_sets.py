"""What a focus is worth on a set: features of a model file, a linear head, groups apart."""

from pathlib import Path

import numpy as np
import pytest
from videos import write_video

from dvfl_bench.comparisons.focus_sets import answers, main, measure
from dvfl_models.rendered.synthetic import render_clip
from dvfl_runtime.recognizer import BUNDLED_MODEL


def test_a_head_is_fitted_without_the_group_that_it_is_tested_on() -> None:
    rng = np.random.default_rng(0)
    classes = np.arange(40) % 2
    groups = [str(n // 4) for n in range(40)]
    features = np.stack([rng.normal(size=(40, 5)) + 4 * classes[:, None]] * 2)
    assert (answers(features, classes, groups) == classes).mean() > 0.9
    # a class that is in one group alone cannot be named there
    alone = np.where(np.arange(40) < 4, 1, 0)
    assert not answers(features, alone, groups)[:4].any()


def test_both_ways_are_compared_on_the_same_clips(tmp_path: Path) -> None:
    rows = ["file,label,who"]
    for n, action in enumerate(["bend", "jumping_jack"] * 3):
        clip = render_clip(action, seed=n, num_frames=8, size=(64, 64), clean=True).images
        write_video(tmp_path / f"{n}.mp4", clip, rate=4)
        rows.append(f"{n}.mp4,{action},{n // 2}")
    index = tmp_path / "index.csv"
    index.write_text("\n".join(rows))
    found = measure(BUNDLED_MODEL, tmp_path, index, "who", 1)
    assert found["chance"] == 0.5
    assert found["accuracy"]["frame"] == 1.0
    assert found["motion_minus_frame"]["clips"] == 6
    assert found["motion_minus_frame"]["groups"] == 3


def test_a_list_without_the_column_is_one_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "index.csv").write_text("file,label\na.mp4,x\n")
    assert main([str(tmp_path), "who"]) == 2
    assert "columns file, label and who" in caplog.text
