"""Recipes: the bundled ones are valid, wrong ones say which key and why."""

from pathlib import Path

import pytest

from dvfl_models.recipe import read_recipe, recipe_names
from dvfl_runtime import ClipSpec
from dvfl_runtime.errors import RecipeError


@pytest.mark.parametrize("name", recipe_names())
def test_bundled_recipes_are_valid(name: str) -> None:
    recipe = read_recipe(name)
    assert recipe.name == name
    assert recipe.spec == ClipSpec(size=(64, 64), resize=None, crop="letterbox", window_s=2.0)


def test_settings_change_values_of_any_depth() -> None:
    recipe = read_recipe(
        "actions5",
        ["optim.steps=7", "model.start=other.pth", 'train.0.exclude.person=["3"]', "seed=4"],
    )
    assert recipe.optim.steps == 7
    assert recipe.model.start == "other.pth"
    assert recipe.train[0].exclude == {"person": ["3"]}
    assert recipe.seed == 4


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("optim.steps=0", r"optim\.steps: .*greater than or equal to 1"),
        ("optim.stepps=3", r"optim\.stepps: Extra inputs"),
        ("model.variant=huge", "unknown variant 'huge'"),
        ("clip.size=[0, 4]", "size must be"),
        ("clip.colour=1", "unexpected keyword argument 'colour'"),
        ("train.0.kind=magic", "train.0"),
        ("train.9.kind=videos", "names nothing"),
        ("labels=['a', 'a']", "labels must be"),
        ("steps", "a setting is key=value"),
    ],
)
def test_wrong_values_are_named(setting: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        read_recipe("actions5", [setting])


def test_missing_and_damaged_files(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"no recipe 'nonsense'.*actions5"):
        read_recipe("nonsense")
    (tmp_path / "bad.toml").write_text("name = [")
    with pytest.raises(RecipeError, match="not valid TOML"):
        read_recipe(tmp_path / "bad.toml")
