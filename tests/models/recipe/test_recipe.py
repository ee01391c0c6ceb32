"""Recipes: the bundled ones are valid, wrong ones say which key and why."""

from pathlib import Path

import pytest

from dvfl_models.recipe.bundled import recipe_names
from dvfl_models.recipe.recipe import read_recipe, recorded_recipe
from dvfl_runtime import ClipSpec
from dvfl_runtime.errors import RecipeError


@pytest.mark.parametrize("name", recipe_names())
def test_bundled_recipes_are_valid(name: str) -> None:
    recipe = read_recipe(name)
    assert recipe.name == name
    if name.startswith("actions5"):
        assert recipe.spec == ClipSpec(size=(64, 64), resize=None, crop="letterbox", window_s=2.0)


PUBLISHED = {"ucf50": 50, "ucf101": 101, "hmdb51": 51, "ssv2": 174, "kinetics400": 400}
LASTING_S = {"ucf50": 7, "ucf101": 7, "hmdb51": 3, "ssv2": 4, "kinetics400": 10}  # their videos


@pytest.mark.parametrize("data", PUBLISHED)
def test_recipes_of_published_sets_have_the_official_numbers(data: str) -> None:
    teacher, student = read_recipe(f"{data}_teacher"), read_recipe(f"{data}_student")
    assert (teacher.model.variant, teacher.model.drop_path) == ("base", 0.5)
    assert (student.model.variant, student.drop_path) == ("nano", 0.1)
    alone = read_recipe(f"{data}_student", ["distill.alpha=0"])
    assert (alone.drop_path, alone.distill and alone.distill.teaches) == (0.2, False)
    assert teacher.distill is None
    assert student.distill is not None
    assert (student.distill.temperature, student.distill.alpha) == (10, 0.2)
    for recipe in (teacher, student):
        optim, augment = recipe.optim, recipe.augment
        assert len(recipe.labels) == PUBLISHED[data]
        assert recipe.spec == ClipSpec(window_s=LASTING_S[data], frame_interval=4)
        assert (optim.optimizer, optim.epochs, optim.warmup_epochs) == ("sgd", 120, 20)
        assert (optim.nesterov, optim.cosine_from, recipe.model.scratch) == (True, "start", False)
        assert optim.lr == pytest.approx(0.1 * optim.batch_size / 512)
        assert optim.lr_min == optim.warmup_lr == pytest.approx(0.001 * optim.batch_size / 512)
        assert (augment.crop, augment.jitter) == ((0.08, 1.0), 0.4)  # half of it for saturation ...
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
    (tmp_path / "odd.toml").write_text("base = 3\n")
    with pytest.raises(RecipeError, match="base must be the name of another recipe"):
        read_recipe(tmp_path / "odd.toml")


@pytest.mark.parametrize("data", ["ucf50", "ucf101", "hmdb51"])
def test_the_split_of_the_authors(data: str) -> None:
    setting = ["train.0.root=elsewhere", "split=authors"]
    teacher, student = (read_recipe(f"{data}_{who}", setting) for who in ("teacher", "student"))
    for recipe in (teacher, student):
        assert recipe.split == "authors"
        assert (recipe.train[0].index, recipe.train[0].root) == (
            f"data/{data}/train.csv",
            "elsewhere",  # a setting goes over the split, wherever it stands
        )
        assert recipe.test[0].index == f"data/{data}/val.csv"
    # a student of the authors' split must not learn from a teacher that has seen its test clips
    assert student.distill.teacher == f"runs/{teacher.name}/final.pth"
    official = read_recipe(f"{data}_student")
    assert official == read_recipe(f"{data}_student", ["split=official"])
    assert official.name != student.name
    assert official.test != student.test


def test_a_split_that_a_recipe_does_not_know(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="no split 'two'; known are: official, authors"):
        read_recipe("ucf101_student", ["split=two"])
    with pytest.raises(RecipeError, match="no split 'authors'; known are: none"):
        read_recipe("ssv2_student", ["split=authors"])
    (tmp_path / "mine.toml").write_text('base = "ucf50_student"\nsplit = "authors"\nseed = 3\n')
    assert read_recipe(tmp_path / "mine.toml").train[0].index == "data/ucf50/train.csv"
    (tmp_path / "odd.toml").write_text('base = "ucf50_student"\nsplits = 3\n')
    with pytest.raises(RecipeError, match="splits must be"):
        read_recipe(tmp_path / "odd.toml")


def test_a_recipe_without_some_of_its_sets() -> None:
    whole, less = read_recipe("bundled"), read_recipe("bundled", ["without=ucf10"])
    assert less.train == tuple(table for table in whole.train if table.name != "ucf10")
    assert less.test == whole.test
    two = read_recipe("bundled", ["without=['ucf10', 'synthetic']"])
    assert len(two.train) == len(whole.train) - 2
    with pytest.raises(RecipeError, match="names 'ucf'; train tables are: synthetic, "):
        read_recipe("bundled", ["without=ucf"])
    with pytest.raises(RecipeError, match="train must name at least one set"):
        read_recipe("order", ["without=order"])


def test_bases_in_a_circle(tmp_path: Path) -> None:
    one, two, itself = (tmp_path / f"{name}.toml" for name in ("one", "two", "itself"))
    one.write_text(f'base = "{two}"\n')
    two.write_text(f'base = "{tmp_path}/../{tmp_path.name}/one.toml"\n')
    itself.write_text(f'base = "{itself}"\n')
    for path, chain in ((one, "one.toml -> .*two.toml -> .*one.toml"), (itself, "-> .*itself")):
        with pytest.raises(RecipeError, match=f"its base leads back to it: .*{chain}"):
            read_recipe(path)


def test_how_often_a_run_is_tested_and_saved_follows_from_its_steps() -> None:
    values = ["test_every=0", "checkpoint_every=0"]
    run = read_recipe("actions5", [*values, "optim.steps=300"]).with_epoch_of(0)
    assert (run.test_every, run.checkpoint_every) == (15, 6)
    short = read_recipe("actions5", [*values, "optim.steps=3"]).with_epoch_of(0)
    assert (short.test_every, short.checkpoint_every) == (1, 1)
    epochs = read_recipe("uti_teacher", [*values, "optim.epochs=100", "optim.batch_size=10"])
    assert epochs.with_epoch_of(200).test_every == 100
    given = read_recipe("actions5", ["test_every=7", "checkpoint_every=9"]).with_epoch_of(0)
    assert (given.test_every, given.checkpoint_every) == (7, 9)


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
        ("optim.steps=0", r"optim\.steps: .*greater than or equal to 1, got 0$"),
        ("optim.stepps=3", r"actions5: optim: there is no 'stepps'; did you mean optim\.steps\?$"),
        ("optim.steps=x", r"optim\.steps: .* integer, got 'x'$"),
        ("=3", r"actions5: there is no ''; known are: "),
        ("videos=3", r"actions5: there is no 'videos'; known are: "),
        ("train.0.videos=3", r"train\.0: there is no 'videos'; known are: "),
        ("optm.steps=3", r"actions5: there is no 'optm'; did you mean optim\?$"),
        ("steps=3", r"there is no 'steps'; did you mean optim\.steps\?$"),
        ("optim.mixup=0.8", r"did you mean augment\.mixup\?$"),
        ("train.1.indx=3", r"train\.1: there is no 'indx'; did you mean train\.1\.index\?$"),
        ("clip.num_frame=3", r"clip: there is no 'num_frame'; did you mean clip\.num_frames\?$"),
        ("model.xyzzy=3", r"there is no 'xyzzy'; known are: drop_path, "),
        ("optim=3", r"optim: "),
        ("optim.nesterov=true", r"nesterov goes with optimizer 'sgd', not with 'adamw'"),
        ("optim.lr_min=1", r"optim: lr_min must not be above lr 5e-05, got 1"),
        ("optim.warmup_lr=1", r"optim: warmup_lr must not be above lr 5e-05, got 1"),
        ("model.variant=huge", "actions5: model.variant: unknown 'huge'; known are "),
        ("clip.size=[0, 4]", "size must be"),
        ("clip.size=[17, 64]", r"clip: .*size must be at least 32 px on each side, got \(17, 64\)"),
        ("clip.colour=1", "there is no 'colour'; "),
        ("train.0.kind=magic", r"train\.0\.kind must be one of synthetic, order"),
        ("train=[{}]", r"train\.0\.kind must be one of"),
        ("train=[{kind='videos', name='x'}]", r"train\.0\.index is missing"),
        ("seed=-1", r"seed: .* greater than or equal to 0"),
        ("seed=99999999999999999999", r"seed: .* less than"),
        ("test.0.first_seed=-1", r"test\.0\.first_seed: .* greater than or equal to 0"),
        ("optim.lr=inf", r"optim\.lr: .* finite"),
        ("optim.lr=nan", r"optim\.lr: .* finite"),
        ("train.9.kind=videos", "names nothing"),
        ("labels=['a', 'a']", "labels must be"),
        ("train.0.labels=['a', 'a']", "labels of a set must be two or more different names"),
        ("test.0.labels=['a', 'b']", "'synthetic' has labels of its own"),
        ("train=[{kind='synthetic', labels=['a', 'b']}]", "with the recipe's labels"),
        ("train.0.labelled=false", r"'weizmann4' has labelled = false, so a teacher has to tell"),
        ("test.2.labelled=false", "a test needs labels, and 'ut_interaction_background' has"),
        ("train=[]", "actions5: train must name at least one"),
        ('labels=["a", "b\\u001b"]', r"labels\[1\] must be a string of one line"),
        ("steps", "a setting is key=value"),
    ],
)
def test_wrong_values_are_named(setting: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        read_recipe("actions5", [setting])


def test_missing_and_damaged_files(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"no recipe 'nonsense'\. Give .*dvfl-train --help"):
        read_recipe("nonsense")
    with pytest.raises(RecipeError, match=r"'ucf101'; did you mean ucf101_\w+ or .*\? Give "):
        read_recipe("ucf101")
    (tmp_path / "bad.toml").write_text("name = [")
    with pytest.raises(RecipeError, match="not valid TOML"):
        read_recipe(tmp_path / "bad.toml")


def test_the_recipe_of_a_run_that_is_damaged_is_one_error(tmp_path: Path) -> None:
    path = tmp_path / "recipe.json"
    with pytest.raises(RecipeError, match="cannot read the recipe of a run"):
        recorded_recipe(path)
    path.write_text('{"name": ')
    with pytest.raises(RecipeError, match="cannot read the recipe of a run"):
        recorded_recipe(path)
    path.write_text(read_recipe("order").model_dump_json())
    assert recorded_recipe(path) == read_recipe("order")
