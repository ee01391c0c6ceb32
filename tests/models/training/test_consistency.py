"""What in a recipe does not go together is said, with both numbers."""

import re
from pathlib import Path

import numpy as np
import pytest
import videos

from dvfl_models.data.opening import open_clips
from dvfl_models.data.train_as_test import TrainAsTest
from dvfl_models.data.training_clips import TrainingClips
from dvfl_models.recipe.recipe import Recipe, read_recipe, recipe_from, recipe_names
from dvfl_models.training.confusion import Confusion
from dvfl_models.training.consistency import doubts, gap_warning, shown_share, trained_shares

WHOLE = {"window_s": [3600, 3600]}


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nine videos of 2 s, eight of them of one class."""
    tmp_path = tmp_path_factory.mktemp("videos")
    (tmp_path / "index.csv").write_text(
        "file,label\n" + "".join(f"{k}.mp4,{'b' if k == 8 else 'a'}\n" for k in range(9))
    )
    for k in range(9):
        frames = [np.full((30, 40, 3), 25 * k, np.uint8)] * 50
        videos.write_video(tmp_path / f"{k}.mp4", frames)
    return tmp_path / "index.csv"


def recipe(index: Path, table: dict | None = None, **changes: object) -> Recipe:
    videos = {"kind": "videos", "name": "v", "index": str(index)}
    values = {
        "name": "r",
        "labels": ["a", "b"],
        "model": {"variant": "femto"},
        "clip": {"num_frames": 2, "size": [32, 32]},
        "train": [{**videos, **(table or {})}],
        "test": [{**videos, "name": "t"}],
        "optim": {"steps": 100, "batch_size": 2},
    }
    return recipe_from(values | changes, "r")


def found(one: Recipe) -> list[str]:
    return doubts(one, TrainingClips(one).sets, [open_clips(part, one) for part in one.test])


def test_a_plain_recipe_raises_no_doubt(index: Path) -> None:
    assert found(recipe(index)) == []
    assert found(recipe(index, augment={"crop": [0.4, 1.0]})) == []
    assert found(recipe(index, WHOLE)) == []


@pytest.mark.parametrize("name", recipe_names())
def test_bundled_recipes_show_a_device_what_they_train_on(name: str) -> None:
    one = read_recipe(name)
    least, most = trained_shares(one)
    assert least <= shown_share(one.spec) <= most


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"clip": {"size": [32, 32], "resize": 256}, "augment": {"crop": [0.5, 1]}},
            r"a test and a device show 2% of a picture .*256.*training 32% to 100%",
        ),
        (
            {"clip": {"size": [32, 32], "crop": "letterbox"}, "augment": {"crop": [0.1, 0.3]}},
            r"show 100% of a picture .*letterbox.*training 6% to 47%",
        ),
        (
            {"augment": {"scale": [1.6, 2]}},
            r"show 75% of a picture .*training 19% to 29%.*augment.scale \(1.6, 2.0\)",
        ),
        (
            {"clip": {"size": [32, 32], "window_s": 5.0}},
            r"training clips last 1.2 to 2 s .*but clips on a device last 5 s \(clip",
        ),
        (
            {"clip": {"size": [32, 32], "frame_interval": 40}},
            r"training clips last 1.2 to 2 s .*'t' last 0.44 s, .*interval 40",
        ),
        (
            {"optim": {"steps": 5, "warmup_steps": 50}},
            r"5 steps and its warm-up 50.*rises to 0.0001",
        ),
        ({"optim": {"steps": 100, "ema": 0.999}}, r"after 100 steps .* 90% of the averaged.*0.977"),
    ],
)
def test_what_does_not_go_together_is_said(index: Path, changes: dict, message: str) -> None:
    (text,) = found(recipe(index, **changes))
    assert re.search(message, text), text


def test_training_on_short_windows_and_testing_on_whole_videos_is_said(index: Path) -> None:
    one = recipe(index, {"window_s": [0.2, 0.4]})
    device, test = found(one)
    assert "0.2 to 0.4 s" in device
    assert "clips on a device last 2 s" in device
    assert "last 2 s, because a test spreads its frames" in test


def test_classes_that_are_mirror_images_do_not_go_with_flips(index: Path) -> None:
    labels = ["wave left hand", "wave_right_hand", "a", "b"]
    one = recipe(index).model_copy(update={"labels": tuple(labels)})
    (text,) = doubts(one, [open_clips(one.train[0], one)], [])
    assert "'wave left hand' looks like 'wave_right_hand', and augment.flip 0.5" in text
    still = one.model_copy(update={"augment": one.augment.model_copy(update={"flip": 0.0})})
    assert doubts(still, [open_clips(one.train[0], one)], []) == []


def test_the_sample_of_training_has_the_classes_in_turn(index: Path) -> None:
    one = recipe(index, augment={"crop": [0.5, 1.0]})
    sample = TrainAsTest(one, TrainingClips(one).sets, 4)
    assert [class_id for _, class_id in (sample[k] for k in range(4))].count(1) == 1
    test = open_clips(one.test[0], one)
    for number, index_of in enumerate(i for _, i in sample.items):
        assert np.array_equal(sample[number][0], test[index_of][0])  # as a test makes it
    assert len(TrainAsTest(one, TrainingClips(one).sets)) == 9
    drawn = recipe(index, train=[{"kind": "order"}], labels=["left", "right"])
    few = TrainAsTest(drawn, TrainingClips(drawn).sets, 3)
    assert len(few) == 3
    assert np.array_equal(few[2][0], few[2][0])
    assert not np.array_equal(few[1][0], few[2][0])


def test_batches_that_are_right_where_tests_are_not_are_said() -> None:
    half = Confusion(("a", "b"), np.array([[50, 50], [52, 48]]))
    assert "98% in the last batches, but 49% on 200 training clips" in gap_warning(0.98, half)
    assert gap_warning(0.55, half) == ""
    few = Confusion(("a", "b"), np.array([[1, 1], [1, 0]]))
    assert gap_warning(0.85, few) == ""  # its interval reaches up to 79 %
