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
    if name.startswith("actions5"):
        assert recipe.spec == ClipSpec(size=(64, 64), resize=None, crop="letterbox", window_s=2.0)


PUBLISHED = {"ucf50": 50, "ucf101": 101, "hmdb51": 51, "ssv2": 174, "kinetics400": 400}


@pytest.mark.parametrize("data", PUBLISHED)
def test_recipes_of_published_sets_have_the_official_numbers(data: str) -> None:
    teacher, student = read_recipe(f"{data}_teacher"), read_recipe(f"{data}_student")
    assert (teacher.model.variant, teacher.model.drop_path) == ("base", 0.5)
    assert (student.model.variant, student.model.drop_path) == ("nano", 0.1)
    assert teacher.distill is None
    assert student.distill is not None
    assert (student.distill.temperature, student.distill.alpha) == (10, 0.2)
    for recipe in (teacher, student):
        optim, augment = recipe.optim, recipe.augment
        assert len(recipe.labels) == PUBLISHED[data]
        assert recipe.spec == ClipSpec()
        assert (optim.optimizer, optim.epochs, optim.warmup_epochs) == ("sgd", 120, 20)
        assert optim.lr == pytest.approx(0.1 * optim.batch_size / 512)
        assert (optim.weight_decay, optim.clip_grad, optim.label_smoothing) == (1e-4, 5, 0.1)
        assert (augment.mixup, augment.cutmix, augment.grey) == (0.8, 1.0, 0.2)
        assert augment.flip == (0 if data == "ssv2" else 0.5)


def test_a_recipe_is_read_over_its_base(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text('base = "order"\nname = "mine"\n[optim]\nsteps = 7\n')
    recipe, base = read_recipe(tmp_path / "mine.toml"), read_recipe("order")
    assert recipe.optim.steps == 7
    assert recipe.optim.lr == base.optim.lr
    assert recipe.test == base.test
    (tmp_path / "lost.toml").write_text('base = "nonsense"\n')
    with pytest.raises(RecipeError, match="no recipe 'nonsense'"):
        read_recipe(tmp_path / "lost.toml")
    itself = tmp_path / "itself.toml"
    itself.write_text(f'base = "{itself}"\n')
    with pytest.raises(RecipeError, match="base must be the name of another recipe"):
        read_recipe(itself)


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
