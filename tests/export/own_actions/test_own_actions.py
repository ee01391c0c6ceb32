"""dvfl-train FOLDER -o FILE.onnx: from clips to a file, and what can be wrong with them."""

import csv
import dataclasses
import json
import math
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from videos import pictures, write_video

from dvfl_export.evaluation import open_candidate
from dvfl_export.own_actions import making
from dvfl_export.own_actions.cli import _folder, main
from dvfl_export.own_actions.gathering import HELD_BACK, TRAIN, Clips, gather
from dvfl_export.own_actions.making import OwnActions, Trained, _train, _within, make
from dvfl_export.own_actions.recipe import ALL_CLIPS, steps_for, write_recipe
from dvfl_export.own_actions.start import _few_of_each, write_start
from dvfl_models import build_model, read_checkpoint
from dvfl_models.network.checkpoint import save_checkpoint
from dvfl_models.recipe.recipe import read_recipe
from dvfl_models.training.confusion import Confusion
from dvfl_models.training.launch import TrainOptions
from dvfl_models.training.learner import Learner
from dvfl_models.training.stopping import Stopped
from dvfl_runtime import ClipSpec
from dvfl_runtime.artifact import ModelFile
from dvfl_runtime.clips.labelled import LabelledVideo, LabelledVideos
from dvfl_runtime.errors import DvflError, RecipeError
from dvfl_runtime.teach.features import cut_windows

SPEC = ClipSpec(num_frames=2, size=(32, 32), crop="letterbox", window_s=0.4)


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("start") / "start.pth"
    about = {"variant": "femto", "labels": ["x", "y"], "spec": SPEC.to_dict(), "training": {}}
    torch.manual_seed(0)
    save_checkpoint(path, build_model("femto", num_classes=2), about=about)
    return path


def clips(root: Path, *names: str, labels: tuple[str, ...] = ("fall", "wave")) -> Path:
    for label in labels:
        (root / label).mkdir(parents=True, exist_ok=True)
        for number, name in enumerate(names):
            images = [np.roll(image, 5 * number, 1) for image in pictures(12, 36, 48)]
            write_video(root / label / f"{name}.mp4", images)
    return root


def train(folder: Path, start: Path, *more: str) -> int:
    words = [str(folder), "-o", "mine.onnx", "--model", str(start), "--cpu", "--threads", "1"]
    for setting in ("steps=2", "warmup_steps=1", "batch_size=2", "ema=0.3"):
        words += ["--set", f"optim.{setting}"]
    return main([*words, "--workers", "0", *more])


def test_clips_become_a_verified_file(tmp_path, start, monkeypatch, capsys, caplog):
    monkeypatch.chdir(tmp_path)
    folder = clips(tmp_path / "clips", "anna_1", "ben_1", "ben_2", "cy_1")
    (folder / "wave" / "cy_2.mp4").write_bytes(b"no video")
    assert train(folder, start) == 0
    accuracy, confused, confidence, wrote = capsys.readouterr().out.splitlines()
    assert accuracy.startswith("accuracy ")
    assert "% on 2 clips held back (95 % interval " in accuracy
    assert accuracy.endswith("; then trained on all clips")
    assert "confused" in confused
    assert confused.endswith(f"({Path('runs/mine/confusion.png')})")
    assert "not calibrated, because 2 clips are held back and it takes 10" in confidence
    assert wrote.startswith("wrote mine.onnx: ")
    (damaged,) = messages(caplog)
    assert damaged.startswith("left out: ")
    assert "cy_2.mp4" in damaged
    artifact = ModelFile(Path("mine.onnx")).artifact
    assert artifact.labels == ("fall", "wave")
    assert artifact.spec == SPEC
    about = artifact.training
    assert about["clips"] == {"fall": 4, "wave": 4}
    assert about["trained_on"] == "all clips"
    assert about["accuracy"]["held_back"]["clips"] == 2
    assert about["held_back"]["grouped_by"] == "the beginning of the file names"
    (group,) = about["held_back"]["groups"]
    run = tmp_path / "runs" / "mine"
    rows = csv.DictReader((run / "clips.csv").read_text().splitlines())
    held = {row["group"] for row in rows if row["part"] == HELD_BACK}
    assert held == {group}
    assert json.loads((run / "measured" / "results.json").read_text())["leaks"][0]["leaked"] == 0
    measured, final = (read_checkpoint(run / n / "final.pth") for n in ("measured", "all"))
    assert not torch.equal(measured.state_dict["head.weight"], final.state_dict["head.weight"])
    shipped = read_checkpoint(run / "final.pth").state_dict
    assert all(torch.equal(value, final.state_dict[key]) for key, value in shipped.items())
    # the recipe goes on by itself, as any other one
    recipe = read_recipe(run / "recipe.toml", ALL_CLIPS)
    assert not recipe.test
    assert recipe.spec == SPEC


def test_the_start_has_a_head_that_knows_the_clips_to_train_on(tmp_path, start):
    for label, level in (("dark", 20), ("light", 220)):
        for person in ("anna", "ben", "cy"):
            (tmp_path / label).mkdir(exist_ok=True)
            images = [np.full((36, 48, 3), level + n, np.uint8) for n in range(12)]
            write_video(tmp_path / label / f"{person}_1.mp4", images)
    found = dataclasses.replace(gather(tmp_path, ()), held_back=frozenset({"cy"}))
    for video in found.part(HELD_BACK):
        video.path.unlink()  # it is not looked at
    path = tmp_path / "taught.pth"
    write_start(read_checkpoint(start), found, SPEC, torch.device("cpu"), path)
    with open_candidate(path) as candidate:
        assert candidate.labels == ("dark", "light")
        for video in found.part(TRAIN):
            scores = candidate.scores(cut_windows(video.path, SPEC)[0])
            assert candidate.labels[scores.argmax()] == video.label
    given, taught = read_checkpoint(start).state_dict, read_checkpoint(path).state_dict
    assert all(torch.equal(v, taught[k]) for k, v in given.items() if not k.startswith("head."))


def test_the_head_learns_clips_of_all_groups_and_no_more_than_a_few(tmp_path):
    names = [f"{person}_{n:02}.mp4" for n in range(10) for person in ("anna", "ben")]
    videos = [LabelledVideo(tmp_path / n, "wave", n.split("_")[0]) for n in names]
    videos += [LabelledVideo(tmp_path / "cy_1.mp4", "fall", "cy")]
    found = LabelledVideos(("fall", "wave"), tuple(videos), "")
    few = _few_of_each(Clips(found, frozenset(), {})).videos
    assert len(few.of("fall")) == 1
    assert Counter(video.group for video in few.of("wave")) == {"anna": 6, "ben": 6}


def test_what_is_held_back_is_measured_on_windows(tmp_path, start, monkeypatch):
    folder, seen = clips(tmp_path / "clips", "anna_1", "ben_1"), []
    wanted = OwnActions(folder, tmp_path / "m.onnx", start, (), tmp_path / "run", workers=0,
                        settings=("optim.steps=1", "optim.warmup_steps=1", "optim.batch_size=2"),
                        options=TrainOptions(cpu=True))  # fmt: skip
    found = Confusion(("fall", "wave"), np.array([[0, 1], [0, 1]]))

    def evaluated(candidate, given, views, **_):
        seen.append((sorted(Path(e.path).name for e in given.entries), views.windows))
        return found, 0.0

    monkeypatch.setattr(making, "evaluate_on", evaluated)
    monkeypatch.setattr(making, "_export", lambda *given: given)
    assert make(wanted).confusion is found
    ((names, windows),) = seen
    assert windows
    assert len(names) == 2
    assert len({name.split("_")[0] for name in names}) == 1


def test_what_is_stopped_is_kept_and_the_run_can_go_on(tmp_path, start, monkeypatch):
    folder = clips(tmp_path / "clips", "anna_1", "ben_1")
    options = TrainOptions(cpu=True)
    settings = ("optim.steps=3", "optim.warmup_steps=1", "optim.batch_size=2", "optim.ema=0.5")
    run = tmp_path / "run"
    wanted = OwnActions(
        folder, tmp_path / "m.onnx", start, (), run, settings=settings, workers=0, options=options
    )
    monkeypatch.setattr(making, "_export", lambda *given: given)  # it is tested above
    step = Learner.train_step

    def asked(learner, batch, number):
        if number == 1:
            os.kill(os.getpid(), signal.SIGINT)
        return step(learner, batch, number)

    monkeypatch.setattr(Learner, "train_step", asked)
    made = make(wanted)
    assert made.stopped.number == signal.SIGINT
    assert not made.on_all
    about = read_checkpoint(run / "final.pth").training
    assert (about["steps"], about["held_back"]["measured"]) == (2, "with these weights")
    assert about["trained_on"] == "the clips that were not held back"
    monkeypatch.setattr(Learner, "train_step", step)
    made = make(dataclasses.replace(wanted, options=TrainOptions(resume=True, cpu=True)))
    assert made.on_all
    assert made.stopped is None
    about = read_checkpoint(run / "final.pth").training
    assert (about["steps"], about["trained_on"]) == (3, "all clips")


WRONG = {
    ("actions5", "-o", "m.onnx"): "actions5 is a recipe, whose results are in --out",
    ("mine.toml", "--minutes", "3"): "--minutes is for a folder of clips, and mine.toml is a reci",
    ("order",): "'order' is a bundled recipe and a folder here; write ./order for the folder",
    ("order", "-o", "m.onnx"): "write ./order for the folder",
    ("nowhere", "-o", "m.onnx"): "there is no folder nowhere",
    ("film.mp4", "-o", "m.onnx"): "film.mp4 is a file; give a folder with a folder of videos",
    ("nowhere.csv", "-o", "m.onnx"): "there is no nowhere.csv",
    ("./order",): "say where to write: -o FILE.onnx",
    ("./order", "-o", "m.pth"): "-o must end in .onnx, got m.pth",
    ("./order", "-o", "none/m.onnx"): "cannot write none/m.onnx",
    ("./order", "-o", "m.onnx", "--strict-split"): "--strict-split is for recipes",
    ("./order", "-o", "m.onnx"): "no video in the class folder 'wave' of order",
    ("one", "-o", "m.onnx"): "one has one class, 'fall'; add another class, or --negatives",
    ("two", "-o", "m.onnx", "--negatives", "gone"): "--negatives: there is no gone",
    ("two", "-o", "m.onnx", "--resume"): "runs/m holds no run of clips to go on with",
    ("two", "-o", "m.onnx", "--model", "START", "--precision", "int8"): "at least 64: give more",
    ("two", "-o", "m.onnx", "--model", "no.pth"): "no.pth",
}


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("places")
    clips(root / "order", "1", labels=("fall",))
    (root / "order" / "wave").mkdir()
    clips(root / "one", "1", labels=("fall",))
    clips(root / "two", "1", "2")
    (root / "mine.toml").touch()
    (root / "film.mp4").touch()
    return root


@pytest.mark.parametrize("words", WRONG)
def test_bad_input_is_one_line_and_nothing_is_written(words, places, start, monkeypatch, capsys):
    monkeypatch.chdir(places)
    assert main([word.replace("START", str(start)) for word in words]) == 2
    *warnings, error = capsys.readouterr().err.splitlines()
    assert error.startswith("dvfl-train: error: ")
    assert WRONG[words] in error
    assert not (places / "m.onnx").exists()
    assert all("error" not in line for line in warnings)


def messages(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]


def test_too_few_clips_are_told_and_used(tmp_path, caplog):
    root = clips(tmp_path / "clips", "1", "2", "3", "4")
    clips(root, "1", labels=("sit",))
    found = gather(root, [])
    single, untested, alone = messages(caplog)
    assert single.startswith("a single clip shows sit; ten or more")
    assert untested == "no clip of sit is held back: all are of one group"
    assert alone.startswith("2 clips are held back one by one, because nothing tells which")
    assert [len(found.part(name)) for name in (TRAIN, HELD_BACK)] == [7, 2]
    caplog.clear()
    found = gather(clips(tmp_path / "few", "1"), [])
    assert messages(caplog)[-1].startswith("nothing can be held back, so no accuracy is measured")
    assert not found.held_back


def test_damaged_clips_are_left_out_unless_they_are_all_of_a_class(tmp_path, caplog):
    root = clips(tmp_path / "clips", "1", "2")
    (root / "wave" / "2.mp4").write_bytes(b"")
    assert len(gather(root, []).videos.of("wave")) == 1
    assert "2.mp4" in messages(caplog)[0]
    (root / "wave" / "1.mp4").write_bytes(b"x" * 100)
    with pytest.raises(RecipeError, match="no video of the class 'wave' can be read"):
        gather(root, [])


def test_the_window_is_no_longer_than_most_clips(tmp_path, caplog):
    found = gather(clips(tmp_path / "clips", "1", "2"), [])  # of 0.48 s
    assert found.fitted(SPEC) is SPEC
    caplog.clear()
    long = dataclasses.replace(SPEC, window_s=2.0)
    assert found.fitted(long).window_s == 0.5
    (warning,) = messages(caplog)
    assert warning.startswith("4 of 4 clips are shorter than the model's window of 2 s")
    assert warning.endswith("the window becomes 0.5 s, as on the device then")
    caplog.clear()
    one = dict.fromkeys(found.lengths_s, 3.0)
    one[next(iter(one))] = 0.5
    assert dataclasses.replace(found, lengths_s=one).fitted(long) is long
    assert messages(caplog)[0].endswith("the shortest has 0.5 s; all of each is shown")


def test_the_recipe_is_that_of_the_readme(tmp_path, start):
    """The clips of training last 0.6 to 3 windows; mirror images are not mirrored."""
    checkpoint = read_checkpoint(start)
    path = tmp_path / "recipe.toml"
    write_recipe(path, checkpoint, ClipSpec(size=(64, 64)), ('with "quotes"', "Ünï"), 300)
    recipe = read_recipe(path)
    optim = recipe.optim
    assert (optim.lr, optim.warmup_steps, optim.ema, optim.accumulate) == (3e-4, 50, 0.99, 1)
    assert recipe.train[0].window_s == (1.2, 6.0)
    assert recipe.test[0].middle_s == 6.0
    assert recipe.labels == ('with "quotes"', "Ünï")
    assert recipe.augment.flip == 0.5
    write_recipe(path, checkpoint, ClipSpec(), ("wave left", "wave right"), 40)
    recipe = read_recipe(path)
    assert recipe.augment.flip == 0
    assert recipe.optim.ema**40 <= 0.1
    assert recipe.optim.accumulate == 2  # 0.22 GB a clip
    assert [steps_for(count) for count in (4, 60, 10**6)] == [150, 300, 3000]


def test_the_time_goes_into_two_trainings_if_each_has_half_of_its_steps():
    found = [_within(left_s, 0.5, 300) for left_s in (500, 300, 200, 149.5, 50)]
    assert found == [300, 300, 200, 299, 100]
    with pytest.raises(DvflError, match=r"--minutes is too short .*; give 0.1 minutes more"):
        _within(5, 0.5, 300)


@pytest.fixture
def wanted(tmp_path: Path) -> OwnActions:
    place = tmp_path / "x"
    return OwnActions(place, tmp_path / "m.onnx", place, (), tmp_path / "run")


@pytest.fixture
def gathered(tmp_path: Path) -> Clips:
    return gather(clips(tmp_path / "clips", "anna_1", "ben_1"), [])


def test_the_file_has_the_measured_weights_where_the_second_training_is_cut_off(
    wanted, gathered, monkeypatch
):
    confusion = Confusion(("fall", "wave"), torch.eye(2).numpy())
    first, second = Trained(Path("a"), confusion), Trained(Path("b"), None)
    late = Stopped(0, "")
    monkeypatch.setattr(making, "_on_windows", lambda *_: confusion)

    def runs(*results):
        given = iter(results)

        def run(*_, **_more):
            result = next(given)
            if isinstance(result, Stopped):
                raise result
            return result

        monkeypatch.setattr(making, "_run", run)
        return _train(wanted, gathered, math.inf)

    assert runs(first, second) == (first, second)
    _, final = runs(first, late)
    assert (final.checkpoint, final.confusion, final.stopped) == (Path("a"), confusion, late)
    cut = dataclasses.replace(first, stopped=late)
    assert runs(cut) == (cut, cut)
    monkeypatch.setattr(making, "_run", lambda *_: first)
    assert _train(wanted, gathered, time.monotonic() - 1) == (first, first)


def test_each_run_has_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    runs = Path("runs")
    assert _folder("mine", resume=False) == _folder("mine", resume=True) == runs / "mine"
    (runs / "mine").mkdir(parents=True)
    assert _folder("mine", resume=False) == runs / "mine-2"
    (runs / "mine-2").mkdir()
    assert _folder("mine", resume=True) == runs / "mine-2"


def test_the_command_loads_neither_torch_nor_onnx_for_its_help():
    code = (
        "import sys, dvfl_export.own_actions.cli as c; c.parser().format_help(); "
        "sys.exit({'torch', 'onnx'} & {*sys.modules} != set())"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
