"""The grid of a distillation: its arms, its rows, and a grid that was killed."""

import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from small_runs import make_videos, small

from dvfl_models import build_model
from dvfl_models.network.checkpoint import save_checkpoint
from dvfl_models.recipe.recipe import Recipe, read_recipe
from dvfl_models.studies.ablation import Study, grid, main
from dvfl_models.studies.results import fill_tables
from dvfl_models.training.trainer import Trainer
from dvfl_runtime.errors import RecipeError

pytestmark = pytest.mark.usefixtures("fresh_accelerate", "one_thread")


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Threads that spin beside other busy programs take most of the time of steps this small."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def student(tmp_path: Path, **changes: object) -> Recipe:
    index = make_videos(tmp_path / "videos", 6)
    listed = {"kind": "videos", "index": str(index), "group": "person"}
    recipe = small(
        index,
        train=[{**listed, "name": "v"}],
        test=[{**listed, "name": "t"}],
        optim={"steps": 1, "batch_size": 2},
        distill={"teacher": str(tmp_path / "teacher.pth"), "cache_mb": 1, **changes},
    )
    about = {"variant": "femto", "labels": ["a", "b"], "spec": recipe.spec.to_dict()}
    save_checkpoint(tmp_path / "teacher.pth", build_model("femto", num_classes=2), about=about)
    return recipe


def test_the_grid_changes_one_part_at_a_time() -> None:
    recipe = read_recipe("ucf101_student")
    arms = {arm.name: arm for arm in grid(recipe.distill)}
    assert list(arms)[:4] == ["alone", "recipe", "kl_z", "dist"]
    assert {"temperature_4", "alpha_0.5", "beta_1"} <= arms.keys()
    assert not {"kl", "temperature_10", "alpha_0.2", "beta_0"} & arms.keys()  # the recipe's own
    changed = arms["temperature_4"].recipe(recipe, 3)
    assert (changed.seed, changed.distill.temperature, changed.distill.alpha) == (3, 4, 0.2)
    alone = arms["alone"].recipe(recipe, 0)
    assert (alone.distill.teaches, alone.drop_path) == (False, 0.2)
    kept = read_recipe("ucf101_student", ["distill.cache_mb=5"])
    assert arms["beta_1"].recipe(kept, 0).distill.cache_mb == 0


def test_rows_come_one_by_one_and_a_killed_grid_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, out = student(tmp_path), tmp_path / "out"
    arms = grid(recipe.distill, ["loss"])[:3]
    run, runs = Trainer.run, []

    def counted(self: Trainer, **options: object) -> object:
        if len(runs) == 2:  # of three
            runs.append("")
            raise KeyboardInterrupt
        runs.append(self.folder.path.parent.name)
        return run(self, **options)

    monkeypatch.setattr(Trainer, "run", counted)
    with pytest.raises(KeyboardInterrupt):
        Study(recipe, out).run(arms, workers=0)
    before = json.loads((out / "ablation.json").read_text())["rows"]
    assert [row["arm"] for row in before] == ["alone", "recipe"]
    rows = Study(recipe, out, table="grid").run(arms, workers=0)
    assert runs == ["alone", "recipe", "", "kl_z"]
    assert rows[:2] == before
    assert rows[0]["difference"] == 0
    low, high = rows[2]["difference_ci95"]
    assert low <= rows[2]["difference"] <= high
    assert (rows[2]["clips"], rows[2]["groups"]) == (6, 3)
    assert (out / "ablation.png").stat().st_size > 5000
    found = json.loads((out / "ablation.json").read_text())
    filled = fill_tables("<!-- table: grid -->\n<!-- end -->", {"a.json": found})
    assert filled.count("| alone (alpha 0, beta 0) | ") == 1
    assert "[a.json](results/a.json): 6 clips of 3 groups, 1 seed; " in filled
    other = recipe.model_copy(update={"optim": recipe.optim.model_copy(update={"lr": 1e-5})})
    with pytest.raises(RecipeError, match=r"holds a grid of other settings \(recipe_values differ"):
        Study(other, out).run(arms)


def test_the_command_lists_its_arms(
    caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.INFO)
    assert main(["ucf50_student", "--parts", "loss", "--list", "--seeds", "0", "1"]) == 0
    assert "kl_z             distill.loss=kl_z distill.alpha=0.9" in caplog.text
    assert "4 arms, seeds [0, 1]; the teacher is runs/ucf50_teacher/final.pth" in caplog.text
    assert main(["ucf50_teacher", "--list"]) == 2
    assert "ucf50_teacher has no teacher; give that of a student" in caplog.text
    assert main(["ucf50_student", "--group", "person"]) == 2
    assert "--set-name and --group go together" in caplog.text
    with pytest.raises(SystemExit):
        main(["--help"])
    assert "with one part changed at a time" in capsys.readouterr().out
