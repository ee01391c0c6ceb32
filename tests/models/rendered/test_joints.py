"""The second task of training: where the joints of rendered people are."""

import csv
import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from dvfl_models import VARIANTS, VideoFocalNet, load_checkpoint
from dvfl_models.data.augment import ClipAugmentation
from dvfl_models.data.batches import batch_of
from dvfl_models.data.training_clips import TrainingClips
from dvfl_models.recipe.recipe import Recipe, recipe_from
from dvfl_models.recipe.tables import AugmentTable
from dvfl_models.rendered import synthetic
from dvfl_models.rendered.figures import JOINTS, Person
from dvfl_models.rendered.joints import KINDS, JointMaps, joint_cells, joint_loss
from dvfl_models.rendered.scene import View
from dvfl_models.rendered.synthetic import ACTIONS, render_clip
from dvfl_models.rendered.temporal_order import ORDER_CLASSES
from dvfl_models.training.launch import TrainOptions
from dvfl_models.training.trainer import Trainer
from dvfl_runtime.errors import RecipeError


def recipe(**changes: object) -> Recipe:
    values = {
        "name": "joints",
        "labels": ["idle", "bend"],
        "model": {"variant": "femto", "init": "xavier"},
        "clip": {"num_frames": 2, "size": [32, 32], "crop": "letterbox"},
        "train": [
            {"kind": "synthetic", "clean": True},
            {"kind": "synthetic", "name": "changing", "change": True},
            {"kind": "order", "labels": list(ORDER_CLASSES[:3])},
        ],
        "optim": {"steps": 4, "batch_size": 4, "ema": 0.5, "joints": 1.0},
        "checkpoint_every": 2,
    }
    return recipe_from({**values, **changes}, "joints")


@pytest.mark.parametrize("action", ACTIONS)
def test_joints_lie_on_the_figure(action: str, monkeypatch: pytest.MonkeyPatch) -> None:
    person, view = Person.sample, View.sample

    def purple(rng: np.random.Generator, backdrop: np.ndarray) -> Person:
        found = person(rng, backdrop)
        colours = dict.fromkeys(found.colours, np.array((255.0, 0.0, 255.0)))
        return dataclasses.replace(found, colours=colours)

    def moved(rng: np.random.Generator, *, clean: bool, heading: float) -> View:
        found = view(rng, clean=clean, heading=heading)
        return dataclasses.replace(found, pan=0.04, shake=0.01, shutter_s=0.0, shadow=0.0)

    monkeypatch.setattr(Person, "sample", purple)
    monkeypatch.setattr(View, "sample", moved)
    images, joints = render_clip(action, seed=11, size=(96, 120), clean=True)
    assert joints.shape == (8, 13, 2)
    for image, places in zip(images, np.rint(joints).astype(int), strict=True):
        for name, (x, y) in zip(JOINTS, places, strict=True):
            red, green, blue = image[y, x].astype(int)
            assert min(red, blue) > green + 60, name


def test_nobody_has_no_joints() -> None:
    seed = next(s for s in range(100) if not synthetic.Scene.sample(s, "idle").people)
    assert np.isnan(render_clip("idle", seed=seed).joints).all()


def test_joints_move_with_the_augmented_clip() -> None:
    part = AugmentTable(degrees=20, translate=0.1, scale=(0.8, 1.2), jitter=0, grey=0)
    points = torch.tensor([[20.0, 30.0], [40.0, 12.0], [math.nan, math.nan]])
    clips = torch.zeros(6, 2, 3, 64, 64)
    for x, y in ((20, 30), (40, 12)):
        clips[..., y - 1 : y + 2, x - 1 : x + 2] = 1
    torch.manual_seed(3)
    moved, places = ClipAugmentation(part).with_points(clips, points.expand(6, 2, 3, 2))
    assert places[..., :2, 0].std() > 2
    assert places[..., 2, :].isnan().all()
    for clip, found in zip(moved, places, strict=True):
        for x, y in found[0, :2].round().long().tolist():
            assert clip[0, 0, y, x] > 0.6


def test_batches_have_the_joints_of_the_rendered_clips_alone() -> None:
    batch = batch_of(TrainingClips(recipe()), 0)
    assert batch.joints is not None
    known = batch.joints.isfinite().all((1, 2, 3)).tolist()
    assert known == [not name.startswith("changing") for name in batch.names]
    assert set(known) == {True, False}
    optim = {"steps": 4, "batch_size": 4}
    assert batch_of(TrainingClips(recipe(optim=optim)), 0).joints is None


def test_a_joint_is_spread_over_the_cells_around_it() -> None:
    joints = torch.full((1, 1, len(JOINTS), 2), math.nan)
    joints[0, 0, 0] = torch.tensor([1.5, 1.5])  # the middle of the first of 4 x 4 cells of 4 px
    joints[0, 0, 1] = torch.tensor([3.5, 5.5])  # between two
    joints[0, 0, 2] = torch.tensor([40.0, 5.0])  # outside
    cells = joint_cells(joints, (16, 16), (4, 4))
    assert cells.shape == (1, 1, KINDS, 16)
    assert cells[0, 0, 0].tolist() == [1.0] + [0.0] * 15
    assert cells[0, 0, 1, 4:6].tolist() == [0.5, 0.5]
    assert cells.sum(3).tolist() == [[[1.0, 1.0] + [0.0] * (KINDS - 2)]]


def test_the_loss_counts_the_joints_that_are_known() -> None:
    joints = torch.full((2, 1, len(JOINTS), 2), math.nan)
    maps = torch.zeros(2, 1, KINDS, 4, 4)
    assert joint_loss(maps, joints, (16, 16)) == 0  # nobody is seen
    joints[0, 0, 0] = torch.tensor([1.5, 1.5])
    assert joint_loss(maps, joints, (16, 16)).item() == pytest.approx(math.log(16))
    maps[0, 0, 0, 0, 0] = 50
    assert joint_loss(maps, joints, (16, 16)).item() == pytest.approx(0, abs=1e-6)


def test_a_map_has_the_order_of_the_picture() -> None:
    joints = JointMaps(256).eval()
    tokens = torch.zeros(1, 1, 2, 3, 256)
    tokens[0, 0, 1, 2] = 1  # the last token: the lower right of the picture
    with torch.no_grad():
        empty, maps = joints(torch.zeros_like(tokens)), joints(tokens)
    changed = (maps != empty)[0, 0].any(0)
    assert changed.shape == (16, 24)
    assert changed[8:, 16:].all()
    assert changed.sum() == 64


def test_a_run_with_joints_and_other_labels_resumes_to_the_same_weights_of_a_plain_network(
    tmp_path: Path,
) -> None:
    Trainer(recipe(), tmp_path / "whole").run(workers=0, progress=False)
    stopped, clips = Trainer(recipe(), tmp_path / "parts"), TrainingClips(recipe())
    for step in range(3):  # dies after the third step; the checkpoint is of the second
        stopped._after_step(stopped._train_step(batch_of(clips, step)))
    resume = TrainOptions(resume=True)
    Trainer(recipe(), tmp_path / "parts", resume).run(workers=0, progress=False)
    runs = [VideoFocalNet(dataclasses.replace(VARIANTS["femto"], num_classes=2)) for _ in range(2)]
    for run, name in zip(runs, ("whole", "parts"), strict=True):
        load_checkpoint(run, tmp_path / name / "final.pth")
    whole, parts = (run.state_dict() for run in runs)
    assert all(torch.equal(whole[key], parts[key]) for key in whole)
    with (tmp_path / "parts" / "metrics.csv").open() as file:
        for row in csv.DictReader(file):
            total = float(row["task_loss"]) + float(row["joint_loss"])
            assert float(row["loss"]) == pytest.approx(total, rel=1e-3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train": [{"kind": "synthetic", "change": True}]}, "needs rendered clips"),
        ({"clip": {"num_frames": 2, "size": [32, 32], "resize": 36}}, "clip.crop"),
        ({"augment": {"mixup": 0.8}}, "neither distill nor crop"),
        ({"distill": {"teacher": "x.pth"}}, "neither distill nor crop"),
    ],
)
def test_recipes_that_know_no_joints_are_refused(changes: dict, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        recipe(**changes)
