"""Clips of video files: sampled by class, filtered, renamed, wrong data sets."""

from pathlib import Path

import numpy as np
import pytest
from small_runs import tiny, videos_table
from videos import write_video

from dvfl_models.data.opening import open_clips
from dvfl_models.data.training_clips import TrainingClips
from dvfl_runtime.errors import RecipeError


def test_video_files_are_sampled_by_class_and_tested_once_each(labelled: Path) -> None:
    recipe = tiny(train=[videos_table(labelled)])
    clips = open_clips(recipe.train[0], recipe)
    assert len(clips) == 4
    clip, class_id = clips[0]
    assert clip.shape == (2, 32, 32, 3)
    assert class_id == 0
    rng = np.random.default_rng(0)
    drawn = [clips.sample(rng) for _ in range(20)]
    assert {sample.class_id for sample in drawn} == {0, 1}
    assert all((s.clip[:, 16, 16].mean() > 128) == (s.class_id == 1) for s in drawn)


def test_a_test_may_show_the_middle_of_long_videos(tmp_path: Path) -> None:
    for label, colours in (("idle", [0] * 20 + [200] * 10 + [0] * 20), ("bend", [100] * 5)):
        frames = [np.full((32, 32, 3), colour, np.uint8) for colour in colours]
        (tmp_path / label).mkdir()
        write_video(tmp_path / label / "1.mp4", frames)  # 25 frames a second
    for middle_s, first in ((0, 0), (0.4, 200)):
        table = videos_table(tmp_path, format="folders", middle_s=middle_s)
        recipe = tiny(train=[table])
        clips = open_clips(recipe.train[0], recipe)
        shown = {class_id: clip.mean() for clip, class_id in (clips[0], clips[1])}
        assert shown == pytest.approx({0: first, 1: 100}, abs=12)


def test_filters_and_renaming(labelled: Path) -> None:
    part = videos_table(labelled, exclude={"person": ["a"]}, rename={"bend": "idle"})
    recipe = tiny(train=[part])
    clips = open_clips(recipe.train[0], recipe)
    assert [class_id for _, class_id in (clips[i] for i in range(len(clips)))] == [0]
    folder = tiny(train=[videos_table(labelled.parent, rename={"": "idle"})])
    assert len(open_clips(folder.train[0], folder)) == 4


def test_labels_without_clips_are_an_error(
    labelled: Path, caplog: pytest.LogCaptureFixture
) -> None:
    recipe = tiny(train=[videos_table(labelled)], labels=["idle", "fall"])
    with (
        caplog.at_level("INFO"),
        pytest.raises(
            RecipeError, match=r"no video to train on has a label of \['fall'\] \(.*\.csv"
        ),
    ):
        TrainingClips(recipe)
    assert "3 of 5 videos are left out, they have other labels: ['bend', 'other']" in caplog.text
    for kind in ("synthetic", "order"):
        recipe = tiny(train=[{"kind": kind}], labels=["idle", "fall"])
        with pytest.raises(RecipeError, match=r"'fall'.* cannot be drawn, only"):
            TrainingClips(recipe)


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ({"index": "absent.csv"}, "cannot read absent.csv"),
        ({"only": {"person": ["z"]}}, r"no video of .* filters: person has \['a', 'b'\]"),
        ({"rename": {"other": "bend"}}, r"1 of 1 files listed in .* do not exist.*missing\.mp4"),
        ({"only": {"colour": ["red"]}}, "no column 'colour'"),
    ],
)
def test_wrong_data_sets(labelled: Path, part: dict, message: str) -> None:
    recipe = tiny(train=[videos_table(labelled) | part])
    with pytest.raises(RecipeError, match=message):
        TrainingClips(recipe)
