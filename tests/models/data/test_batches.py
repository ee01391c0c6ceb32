"""Batches: mixing, crops, epochs, parts of a batch, the rendered classes of frame order."""

from pathlib import Path

import numpy as np
import pytest
import torch
import videos
from small_runs import tiny

from dvfl_models.data.augment import ClipAugmentation, degrade, random_crop
from dvfl_models.data.batches import InputMaker, batch_of
from dvfl_models.data.mixing import PairMix
from dvfl_models.data.opening import open_clips
from dvfl_models.data.training_clips import TrainingClips
from dvfl_models.recipe.recipe import Recipe, recipe_from
from dvfl_models.recipe.tables import AugmentTable
from dvfl_models.rendered.temporal_order import ORDER_CLASSES, render_order
from dvfl_runtime.errors import RecipeError

CPU = torch.device("cpu")


@pytest.fixture
def index(tmp_path: Path) -> Path:
    rows = ["file,label"]
    for k in range(8):
        frames = [np.full((40, 60, 3), 20 + 25 * k, np.uint8)] * 6
        videos.write_video(tmp_path / f"{k}.mp4", frames)
        rows.append(f"{k}.mp4,{'ab'[k % 2]}")
    (tmp_path / "index.csv").write_text("\n".join(rows) + "\n")
    return tmp_path / "index.csv"


def recipe(index: Path, augment: dict | None = None, **optim: object) -> Recipe:
    return recipe_from(
        {
            "name": "r",
            "labels": ["a", "b"],
            "model": {"variant": "femto"},
            "clip": {"num_frames": 2, "size": [32, 32], "resize": 36},
            "train": [{"kind": "videos", "name": "v", "index": str(index)}],
            "optim": {"epochs": 3, "batch_size": 4, **optim},
            "augment": augment or {},
        },
        "r",
    )


PLAIN = {
    "flip": 0,
    "degrees": 0,
    "translate": 0,
    "scale": [1, 1],
    "jitter": 0,
    "grey": 0,
    "degrade": 0,
}
MIXED = {"mixup": 0.8, "cutmix": 1.0, "crop": [0.3, 1.0]}


def test_each_video_comes_once_per_epoch_in_another_order(index: Path) -> None:
    clips = TrainingClips(recipe(index))
    assert len(clips) == 3 * 8
    epochs = [[clips[n].name for n in range(first, first + 8)] for first in (0, 8, 16)]
    assert all(len(set(names)) == 8 for names in epochs)
    assert epochs[0] != epochs[1]


def test_a_video_has_as_many_augmentations_as_the_recipe_says(index: Path) -> None:
    few = recipe(index, {"seeds": 2, "crop": [0.3, 1.0]})
    clips, inputs = TrainingClips(few), InputMaker(few, CPU)
    epochs: list[dict[str, torch.Tensor]] = [{}, {}, {}]
    for step in range(6):
        batch = batch_of(clips, step)
        made = inputs.make(batch, step)
        epochs[step // 2] |= dict(zip(batch.names, made.clips, strict=True))
    for name, clip in epochs[0].items():
        assert torch.equal(epochs[2][name], clip)
    assert any(not torch.equal(epochs[1][name], clip) for name, clip in epochs[0].items())


def test_epochs_set_the_steps(index: Path) -> None:
    resolved = TrainingClips(recipe(index, warmup_epochs=1.5)).recipe.optim
    assert (resolved.steps, resolved.warmup_steps) == (6, 3)
    with pytest.raises(RecipeError, match=r"optim: .*give steps or epochs"):
        recipe(index, epochs=0)
    with pytest.raises(RecipeError, match="needs listed videos"):
        recipe_from({**recipe(index).model_dump(), "train": [{"kind": "order"}]}, "order")


@pytest.mark.parametrize("optim", [{}, {"epochs": 0, "steps": 4}], ids=["epochs", "steps"])
def test_the_parts_of_two_processes_are_the_whole_batch(index: Path, optim: dict) -> None:
    mixed = recipe(index, MIXED, **optim)
    inputs = InputMaker(mixed, CPU)
    whole = batch_of(TrainingClips(mixed), 1)
    parts = [batch_of(TrainingClips(mixed, k, 2), 1) for k in range(2)]
    assert [*parts[0].names, *parts[1].names] == whole.names
    assert torch.equal(torch.cat([part.clips for part in parts]), whole.clips)
    made, *halves = (inputs.make(*x) for x in ((whole, 1), (parts[0], 1), (parts[1], 1, 2)))
    assert torch.equal(torch.cat([half.clips for half in halves]), made.clips)
    assert torch.equal(torch.cat([half.targets for half in halves]), made.targets)


def test_a_batch_that_cannot_be_divided_is_refused(index: Path) -> None:
    with pytest.raises(RecipeError, match=r"batch_size 4 cannot be divided among 3 processes"):
        TrainingClips(recipe(index), 0, 3)
    with pytest.raises(RecipeError, match=r"in pairs; make it a multiple of 8"):
        TrainingClips(recipe(index, MIXED), 0, 4)
    with pytest.raises(RecipeError, match="multiple of accumulate 3"):
        recipe(index, accumulate=3)
    with pytest.raises(RecipeError, match="give an even"):
        recipe(index, MIXED, batch_size=5)


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_shares_of_mixed_clips_are_those_of_the_pixels(kind: str) -> None:
    mix = PairMix(AugmentTable.model_validate({kind: 1.0}), 3)
    pair = torch.stack([torch.zeros(4, 3, 32, 32), torch.ones(4, 3, 32, 32)])
    pair[1, :, 1] = 0.5  # channels differ, frames do not
    for step in range(5):
        mixed, targets = mix.mix(pair, torch.tensor([2, 0]), (0, step), 0)
        assert mixed.shape == pair.shape
        assert (mixed == mixed[:, :1]).all()  # the same in each frame
        torch.testing.assert_close(targets.sum(1), torch.ones(2))
        share = mixed[0, 0, 0].mean().item()  # of the clip of ones, in the clip of zeros
        assert targets[0].tolist() == pytest.approx([share, 0, 1 - share], abs=1e-5)
        assert targets[1, 0].item() == pytest.approx(mixed[1, 0, 0].mean().item(), abs=1e-5)
        values = mixed[0, 0, 0].unique().tolist()
        assert len(values) == 1 if kind == "mixup" else set(values) <= {0.0, 1.0}


def test_a_random_crop_takes_one_part_of_all_frames() -> None:
    table = AugmentTable.model_validate({"crop": [0.2, 0.5]})
    ramp = np.broadcast_to(np.arange(60, dtype=np.uint8)[:, None], (2, 40, 60, 3))
    rng = np.random.default_rng(0)
    widths = []
    for _ in range(50):
        out = random_crop(ramp, (16, 24), table, rng)
        assert out.shape == (2, 16, 24, 3)
        assert np.array_equal(out[0], out[1])
        widths.append(int(out[0, 0, -1, 0]) - int(out[0, 0, 0, 0]))
    # a share of 0.2 to 0.5 of 40 x 60 px at 3:4 to 4:3 is 19 to 40 px wide
    assert 16 <= min(widths) < 25
    assert 33 < max(widths) <= 40
    untouched = random_crop(ramp, (16, 24), AugmentTable.model_validate({}), rng)
    assert untouched is ramp
    tall = AugmentTable.model_validate({"crop": [1, 1], "crop_ratio": [0.1, 0.1]})  # never fits
    middle = random_crop(ramp, (16, 24), tall, rng)
    assert middle[0, 0, 0, 0] >= 27
    assert middle[0, 0, -1, 0] <= 32


def test_jitter_leaves_a_dark_clip_visible() -> None:
    augment = ClipAugmentation(AugmentTable.model_validate(PLAIN | {"jitter": 0.4}))
    dark = 0.1 * torch.rand(1, 2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    for seed in range(40):
        torch.manual_seed(seed)
        assert augment(dark).std() > 0.3 * dark.std()  # 0.6 of brightness times 0.6 of contrast


SPECS = (
    {"size": [32, 32], "crop": "letterbox"},
    {"size": [32, 32]},
    {"size": [32, 48], "resize": 100},
    {"size": [120, 120], "resize": 120},
)


@pytest.mark.parametrize("clip", SPECS, ids=str)
@pytest.mark.parametrize("size", [(40, 60), (300, 400)], ids=str)
def test_training_without_augmentation_shows_the_pictures_of_a_test(
    tmp_path: Path, clip: dict, size: tuple[int, int]
) -> None:
    coarse = np.random.default_rng(0).integers(0, 255, (size[0] // 4, size[1] // 4, 3), np.uint8)
    videos.write_video(tmp_path / "a.mp4", [coarse.repeat(4, 0).repeat(4, 1)] * 3)
    (tmp_path / "index.csv").write_text("file,label\na.mp4,a\na.mp4,b\n")
    values = recipe(tmp_path / "index.csv").model_dump()
    one = recipe_from({**values, "clip": {"num_frames": 2, **clip}}, "r")
    tested = open_clips(one.train[0], one)[0][0]
    trained = open_clips(one.train[0], one, training=True).sample(np.random.default_rng(0)).clip
    assert np.array_equal(trained, tested)


def test_crops_of_training_are_as_sharp_as_the_pictures_of_a_test(tmp_path: Path) -> None:
    fine = np.random.default_rng(0).integers(0, 255, (480, 640, 1), np.uint8).repeat(3, 2)
    videos.write_video(tmp_path / "a.mp4", [fine] * 2, options={"crf": "1"})
    (tmp_path / "index.csv").write_text("file,label\na.mp4,a\na.mp4,b\n")
    one = recipe(tmp_path / "index.csv", PLAIN | {"crop": [1, 1], "crop_ratio": [1.3, 1.3334]})
    tested = open_clips(one.train[0], one)[0][0]
    trained = batch_of(TrainingClips(one), 0).clips[0].numpy() * 255
    assert trained.std() == pytest.approx(tested.std(), rel=0.35)  # averaged over areas: a sixth


def test_classes_of_frame_order_differ_in_the_order_alone() -> None:
    for one, other in (("left", "right"), ("up", "down"), ("open", "close")):
        clip, reverse = (render_order(a, 5, 8, (32, 32)).astype(int) for a in (one, other))
        noise = abs(clip - reverse[::-1]).mean()
        assert noise < 8  # the noise of the camera
        assert abs(clip - reverse).mean() > 1.5 * noise
    middle = [render_order(action, 9, 1, (32, 32)) for action in ORDER_CLASSES]
    assert all(np.array_equal(middle[0], frame) for frame in middle)
    with pytest.raises(ValueError, match="unknown action 'jump'"):
        render_order("jump", 0, 8, (32, 32))


def test_unlabelled_videos_are_played_in_several_ways(tmp_path: Path) -> None:
    for k in range(4):
        ramp = [np.full((32, 32, 3), 10 * n, np.uint8) for n in range(20)]  # 0.8 s
        videos.write_video(tmp_path / f"{k}.mp4", ramp)
    table = {"kind": "pretext", "index": str(tmp_path), "every": 2,
             "windows_s": {"slow": 0.2, "fast": 0.8, "backward": -0.8}}  # fmt: skip
    values = {
        "name": "p", "labels": ["slow", "fast", "backward"], "model": {"variant": "femto"},
        "clip": {"num_frames": 4, "size": [32, 32], "resize": 32}, "optim": {"steps": 1},
        "train": [table], "test": [{**table, "test": True}],
    }  # fmt: skip
    pretext = recipe_from(values, "p")
    train, test = open_clips(pretext.train[0], pretext), open_clips(pretext.test[0], pretext)
    assert len(test) == 2 * 3
    slopes = []
    for class_id in range(3):
        clip, found = test[class_id]
        assert found == class_id
        slopes.append(clip[-1].mean() - clip[0].mean())
    assert slopes[1] > 2 * slopes[0] > 0 > slopes[2]
    drawn = [train.sample(np.random.default_rng(k)) for k in range(12)]
    assert {sample.class_id for sample in drawn} == {0, 1, 2}
    tested = {Path(entry.path).name for entry in test.entries}
    assert tested == {"0.mp4", "2.mp4"}
    assert {Path(sample.name).name for sample in drawn} == {"1.mp4", "3.mp4"}
    with pytest.raises(RecipeError, match=r"windows_s and labels differ in \{'fast'\}"):
        open_clips(pretext.train[0].model_copy(update={"windows_s": {"slow": 1, "backward": -1}}),
                 pretext)  # fmt: skip


def test_batches_are_a_function_of_the_step() -> None:
    first, again = batch_of(TrainingClips(tiny()), 3), batch_of(TrainingClips(tiny()), 3)
    assert torch.equal(first.clips, again.clips)
    assert (first.names, first.seeds) == (again.names, again.seeds)
    assert first.clips.shape == (2, 2, 32, 32, 3)
    assert first.clips.dtype == torch.uint8
    assert not torch.equal(first.clips, batch_of(TrainingClips(tiny(seed=1)), 3).clips)
    assert not torch.equal(first.clips, batch_of(TrainingClips(tiny()), 4).clips)


def test_batches_leave_the_generator_alone() -> None:
    torch.manual_seed(0)
    wanted = torch.rand(1)
    torch.manual_seed(0)
    _ = InputMaker(tiny(), CPU).make(batch_of(TrainingClips(tiny()), 0), 0)
    assert torch.equal(torch.rand(1), wanted)


def test_degrade_keeps_the_shape_and_can_be_off() -> None:
    clip = torch.rand(2, 3, 32, 48, generator=torch.Generator().manual_seed(0))
    assert degrade(clip, 0, 0.0) is clip
    for seed in range(9):
        changed = degrade(clip, seed, 1.0)
        assert changed.shape == clip.shape
        assert 0 <= changed.min() < changed.max() <= 1
        assert changed.std() < clip.std()
        assert torch.equal(changed, degrade(clip, seed, 1.0))
