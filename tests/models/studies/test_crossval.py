"""Cross-validation: what the folds hold out, and folds in processes."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from small_runs import tiny, videos_table

from dvfl_models.studies.crossval import cross_validate
from dvfl_models.studies.folds import Folds
from dvfl_models.studies.paired import outcomes_of_run
from dvfl_runtime.errors import RecipeError


def test_leave_one_group_out_holds_out_what_it_says(labelled: Path, tmp_path: Path) -> None:
    recipe = tiny(train=[videos_table(labelled)], optim={"steps": 1, "batch_size": 2})
    folds = Folds("small", "person")
    results = cross_validate(recipe, folds, [0, 1], tmp_path / "cv", workers=0)
    assert results["folds"].keys() == {"0", "1"}
    assert np.sum(results["confusion_counts"]) == 8
    held_out = json.loads((tmp_path / "cv" / "seed0_personb" / "recipe.json").read_text())
    assert held_out["train"][0]["exclude"] == {"person": ["b"]}
    assert held_out["test"][0]["only"] == {"person": ["b"]}
    assert (tmp_path / "cv" / "confusion.png").exists()
    right = outcomes_of_run(tmp_path / "cv" / "seed0_personb")
    assert {group.split()[-1] for group, _ in right.values()} == {"b"}
    assert np.mean([ok for _, ok in right.values()]) == results["folds"]["0"]["b"]


def test_parts_of_other_sets_are_held_out_with_a_group(labelled: Path) -> None:
    other = {**videos_table(labelled), "name": "other"}
    recipe = tiny(train=[videos_table(labelled), other])
    folds = Folds("small", "person", also=(Folds("other", "label"),))
    held = [folds.recipe(recipe, groups, 0) for groups in folds.groups(recipe)]
    for number, fold in enumerate(held):
        assert [table.name for table in fold.test] == ["small", "other"]
        assert fold.train[0].exclude == {"person": ["ab"[number]]}
        assert fold.train[1].exclude == fold.test[1].only
    labels = [set(fold.test[1].only["label"]) for fold in held]
    assert not labels[0] & labels[1]
    with pytest.raises(RecipeError, match="absent"):
        Folds("small", "person", also=(Folds("absent", "x"),)).recipe(recipe, ["a"], 0)


def test_folds_in_processes_give_what_one_process_gives(labelled: Path, tmp_path: Path) -> None:
    recipe = tiny(train=[videos_table(labelled)], optim={"steps": 1, "batch_size": 2})
    folds = Folds("small", "person")
    weights = []
    for jobs in (1, 2):
        out = tmp_path / str(jobs)
        cross_validate(recipe, folds, [0], out, workers=0, jobs=jobs)
        weights.append(torch.load(out / "seed0_personb" / "final.pth", weights_only=True)["model"])
    for one, two in zip(weights[0].values(), weights[1].values(), strict=True):
        torch.testing.assert_close(one, two, rtol=0, atol=1e-4)  # other threads, other rounding
    with pytest.raises(RecipeError, match="absent"):
        cross_validate(recipe, Folds("absent", "person"), [0], tmp_path / "x", jobs=2)
