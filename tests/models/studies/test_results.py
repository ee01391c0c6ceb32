"""From runs to tables: collecting, RESULTS.md, folds, baselines, scenes, cost."""

import csv
import json
import os
import signal
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
import videos
from shared import ROOT

from dvfl_models.recipe.recipe import read_recipe, recipe_from
from dvfl_models.recipe.tables import VideosTable
from dvfl_models.studies import cost, crossval
from dvfl_models.studies.baselines import fit_predict, metadata
from dvfl_models.studies.folds import Folds
from dvfl_models.studies.paired import difference
from dvfl_models.studies.paired import main as paired_main
from dvfl_models.studies.results import collect, fill_tables, read_results
from dvfl_models.studies.results import main as results_main
from dvfl_models.studies.scenes import backdrop, cluster, deal
from dvfl_models.training.confusion import Confusion
from dvfl_runtime.errors import DvflError, RecipeError

RESULTS = ROOT / "models" / "RESULTS.md"


def test_the_tables_are_those_of_the_results_files() -> None:
    text = RESULTS.read_text(encoding="utf-8")
    assert text.count("<!-- table: ") == text.count("<!-- end -->") == 8
    assert fill_tables(text, read_results(RESULTS.parent / "results")) == text


def test_tables_are_filled_and_empty_ones_say_so() -> None:
    text = "a\n<!-- table: x -->\nold\n<!-- end -->\nb\n<!-- table: y -->\n<!-- end -->\n"
    row = {
        "table": "x", "row": "student", "accuracy_mean": 0.5, "accuracy_ci95": [0.4, 0.6],
        "accuracy_per_seed": {"0": 0.4, "1": 0.6}, "clips": 90,
    }  # fmt: skip
    filled = fill_tables(text, {"r.json": row, "other.json": {"recipe": "z"}})
    assert "| student | 50.0% | 40.0% to 60.0% | 40.0%, 60.0% | 90 | [r.json]" in filled
    assert "old" not in filled
    assert "<!-- table: y -->\nNot yet run.\n<!-- end -->" in filled
    assert fill_tables(filled, {"r.json": row}) == filled


def test_a_difference_is_of_the_same_clips_and_its_interval_of_groups() -> None:
    clips = {f"{group}{k}": group for group in "abcd" for k in range(5)}
    one = {clip: (group, True) for clip, group in clips.items()}
    other = {clip: (group, group != "a") for clip, group in clips.items()}  # all or none of a group
    found = difference(one, other)
    assert (found["difference"], found["better"], found["worse"]) == (0.25, 5, 0)
    assert found["difference_ci95"] == [0.0, 0.75]  # none, or three of four groups are "a"
    assert (found["clips"], found["groups"]) == (20, 4)
    assert difference(other, one)["difference"] == -0.25
    with pytest.raises(RecipeError, match="not tested on the same clips"):
        difference(one, {"a0": ("a", True)})
    result = {"table": "x", "row": "KD", **found}
    filled = fill_tables("<!-- table: x -->\n<!-- end -->\n", {"d.json": result})
    assert "| KD | +25.0 | +0.0 to +75.0 | 5 | 0 | 20 | 4 | [d.json]" in filled


def test_folders_without_runs_cannot_be_compared(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert paired_main([str(tmp_path), str(tmp_path / "absent")]) == 2
    assert "were not tested on the same clips" in caplog.text


def run(folder: Path, seed: int, top1: float, lr: float = 0.1) -> Path:
    folder.mkdir()
    recipe = {"name": "r", "seed": seed, "optim": {"lr": lr}}
    report = {"steps": 3, "tests": {"t": {"clips": 100, "top1": {"value": top1}}}, "leaks": []}
    (folder / "recipe.json").write_text(json.dumps(recipe))
    (folder / "results.json").write_text(json.dumps(report))
    return folder


def test_runs_that_differ_in_the_seed_are_collected(tmp_path: Path) -> None:
    runs = [run(tmp_path / str(k), k, value) for k, value in enumerate((0.9, 0.8))]
    out = tmp_path / "out.json"
    arguments = ["collect", str(out), *map(str, runs), "--table", "order", "--row", "both"]
    assert results_main(arguments) == 0
    found = json.loads(out.read_text())
    assert found["accuracy_mean"] == 0.85
    assert found["accuracy_per_seed"] == {"0": 0.9, "1": 0.8}
    assert found["accuracy_ci95"][0] < 0.85 < found["accuracy_ci95"][1]
    for other, message in (
        (run(tmp_path / "lr", 2, 0.9, lr=0.2), "more than the seed"),
        (run(tmp_path / "twin", 0, 0.9), "the same seed"),
        (tmp_path / "absent", "no complete run"),
    ):
        with pytest.raises(RecipeError, match=message):
            collect([runs[0], other], "order", "x")


def test_a_fold_replaces_the_filter_and_names_its_teacher() -> None:
    settings = ["model.start=runs/pre/{fold}/final.pth", "distill.teacher=runs/t/{fold}/final.pth"]
    recipe = read_recipe("uti_student", settings)
    held = Folds("ut_interaction", "sequence").recipe(recipe, ["3", "11"], 2)
    (test,) = held.test
    assert isinstance(test, VideosTable)
    assert (test.only, test.exclude) == ({"sequence": ["3", "11"]}, {})
    assert held.train[0].exclude == {"sequence": ["3", "11"]}
    assert held.model.start == "runs/pre/seed2_sequence3+11/final.pth"
    assert held.distill.teacher == "runs/t/seed2_sequence3+11/final.pth"
    assert held.seed == 2


def test_data_without_groups_cannot_be_divided_by_them(tmp_path: Path) -> None:
    for label in ("a", "b"):
        (tmp_path / label).mkdir()
        (tmp_path / label / "1.mp4").touch()
    (tmp_path / "index.csv").write_text("file,label,person\na/1.mp4,a,3\nb/1.mp4,b,3\n")
    for index, column, message in (
        (
            tmp_path,
            "person",
            r"by 'person': nothing in .*a CSV with columns file, label and",
        ),
        (tmp_path, "group", r"divided by 'group': nothing in "),
        (tmp_path / "index.csv", "scene", r"divided by 'scene'"),
        (tmp_path / "index.csv", "person", r"has 1 different values of 'person', too few for 2"),
    ):
        form = "folders" if index == tmp_path else "index"
        part = {"kind": "videos", "name": "v", "index": str(index), "format": form}
        values = {"name": "x", "labels": ["a", "b"], "model": {"variant": "femto"}}
        recipe = recipe_from({**values, "train": [part], "optim": {"steps": 1}}, "x")
        with pytest.raises(RecipeError, match=message):
            Folds("v", column).groups(recipe)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # of Python 3.12
def test_a_killed_measurement_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(
        cost, "cost", lambda names, *_: cost.peak_memory(names[0], 5, (8, 3, 32, 32))
    )
    monkeypatch.setattr(cost, "_measure_memory", killed)
    fork = get_context("fork")
    monkeypatch.setattr(cost.multiprocessing, "get_context", lambda _: fork)
    assert cost.main(["femto", "--json", str(tmp_path / "cost.json")]) == 2
    assert "memory of femto ended with status -9 (killed); femto may need more" in caplog.text
    assert not list(tmp_path.iterdir())


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # of Python 3.12
def test_a_killed_training_of_several_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "index.csv").write_text("file,label,person\n1.mp4,a,1\n2.mp4,b,2\n")
    part = {"kind": "videos", "name": "v", "index": str(tmp_path / "index.csv")}
    values = {"name": "x", "labels": ["a", "b"], "model": {"variant": "femto"}}
    recipe = recipe_from({**values, "train": [part], "optim": {"steps": 1}}, "x")
    monkeypatch.setattr(crossval, "get_context", lambda _: get_context("fork"))
    monkeypatch.setattr(crossval, "_train_fold", killed)
    with pytest.raises(DvflError, match=r"a training was ended from outside, .* fewer --jobs"):
        crossval.cross_validate(recipe, Folds("v", "person"), [0], tmp_path, jobs=2)


def test_a_process_that_was_asked_to_end_begins_no_further_fold() -> None:
    begun = []

    def train(seed: int, values: list[str]) -> Confusion:
        begun.append((seed, values))
        raise KeyboardInterrupt

    try:
        for seed in (0, 1):
            with pytest.raises(KeyboardInterrupt):
                crossval._in_pool(train, seed, ["a"])
        assert begun == [(0, ["a"])]
    finally:
        crossval._asked_to_end.clear()


def killed(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_metadata_tell_classes_that_differ_in_size(tmp_path: Path) -> None:
    features, classes = [], []
    for k in range(6):
        path = tmp_path / f"{k}.mp4"
        videos.write_video(path, videos.pictures(6 + k, 64, 64 + 32 * (k % 2)))
        features.append(metadata(str(path)))
        classes.append(k % 2)
    found = fit_predict(np.array(features[:4]), classes[:4], np.array(features[4:]), 2)
    assert found.tolist() == [0, 1]
    assert features[0][:2] == pytest.approx([np.log(64), np.log(64)])


def test_videos_of_one_place_are_one_scene(tmp_path: Path) -> None:
    found = []
    for scene in range(2):
        room = np.random.default_rng(scene).integers(0, 200, (8, 12, 3)).repeat(8, 0).repeat(8, 1)
        for walker in range(2):
            frames = []
            for k in range(9):
                image = room.astype(np.uint8).copy()
                left = 8 * k if walker else 80 - 8 * k
                image[20:50, left : left + 8] = 255
                frames.append(image)
            path = tmp_path / f"{scene}{walker}.mp4"
            videos.write_video(path, frames)
            found.append(backdrop(str(path)))
    assert cluster(found) == [0, 0, 1, 1]


def test_clusters_stay_whole_and_folds_are_balanced() -> None:
    clusters = [0, 0, 0, 1, 1, 2, 3, 4, 4, 5]
    labels = ["a", "a", "b", "b", "a", "b", "a", "b", "a", "b"]
    folds = deal(clusters, labels, 2)
    assert all(
        len({f for f, c in zip(folds, clusters, strict=True) if c == k}) == 1 for k in range(6)
    )
    assert abs(folds.count(0) - folds.count(1)) <= 2


def test_the_committed_scenes_are_whole_and_balanced() -> None:
    path = RESULTS.parent / "results" / "surveillance_fight_clusters.csv"
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 240
    folds = {row["cluster"]: row["fold"] for row in rows}
    assert all(folds[row["cluster"]] == row["fold"] for row in rows)
    for label in ("fight", "no_fight"):
        counts = [sum(r["fold"] == str(k) and r["label"] == label for r in rows) for k in range(5)]
        assert counts == [24] * 5
