"""Training recipes: TOML files with every number that a run depends on, and how they are read."""

from __future__ import annotations

import difflib
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pydantic
from pydantic import Field

from dvfl_models.network.config import VARIANTS, check_size
from dvfl_models.recipe import tables
from dvfl_models.recipe.bundled import recipe_names, recipe_text
from dvfl_models.recipe.labels import read_labels
from dvfl_models.recipe.messages import TABLES, in_words, unknown
from dvfl_runtime.clips.spec import ClipSpec
from dvfl_runtime.errors import CheckpointError, RecipeError
from dvfl_runtime.errors.checks import check_labels
from dvfl_runtime.files import read_text

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


TESTS, CHECKPOINTS = 20, 50  # of a run whose recipe does not set how often


class Recipe(tables.Table):
    """One training run."""

    name: str
    labels: tuple[str, ...]  # or the name of a published data set, or a file of names
    seed: tables.Seed = 0
    split: str = ""  # of a published data set; a bundled recipe may know several
    model: tables.ModelTable
    clip: dict[str, Any] = Field(default_factory=dict, validate_default=True)  # of ClipSpec
    train: tuple[tables.DataTable, ...]
    test: tuple[tables.DataTable, ...] = ()
    optim: tables.OptimTable
    augment: tables.AugmentTable = tables.AugmentTable.model_validate({})
    distill: tables.DistillTable | None = None
    test_every: int = Field(0, ge=0)  # steps; 0 = twenty times in the run
    checkpoint_every: int = Field(0, ge=0)  # steps; 0 = fifty times in the run

    @property
    def spec(self) -> ClipSpec:
        """The ClipSpec that `clip` describes."""
        return ClipSpec.from_dict(self.clip)

    @property
    def drop_path(self) -> float:
        """The rate of stochastic depth; a student that is taught may have one of its own."""
        distill = self.distill
        if distill is None or distill.drop_path is None or not distill.teaches:
            return self.model.drop_path
        return distill.drop_path

    @property
    def learnt(self) -> tuple[tables.DataTable, ...]:
        """The `train` tables that a run learns from: without a teacher's logits those with labels.

        So the student alone is the same recipe with `distill.alpha` 0.
        """
        if self.distill is not None and self.distill.alpha:
            return self.train
        return tuple(table for table in self.train if is_labelled(table))

    @property
    def label_sets(self) -> tuple[tuple[str, ...], ...]:
        """The sets of labels that are learnt, each by a head of its own; first the recipe's."""
        return tuple(dict.fromkeys([self.labels, *map(self.labels_of, self.learnt)]))

    def labels_of(self, table: tables.DataTable) -> tuple[str, ...]:
        """Return the labels of a table's clips: its own, or the recipe's."""
        return table.labels or self.labels

    def first_class_of(self, table: tables.DataTable) -> int:
        """Return the number of a table's first class, where all sets of labels count on."""
        sets = self.label_sets
        return sum(map(len, sets[: sets.index(self.labels_of(table))]))

    @property
    def crops_whole_pictures(self) -> bool:
        """Whether random crops are cut from whole pictures, not from the part that a test shows."""
        return self.augment.crop is not None and self.clip["crop"] == "center"

    @pydantic.field_validator("clip", mode="before")
    @classmethod
    def _resolve_clip(cls, value: object) -> object:
        """Fill in values that are not given, so that the files of a run tell which clips it had."""
        if not isinstance(value, dict):
            return value
        known = TABLES["clip"]
        if wrong := [key for key in value if key not in known]:
            raise ValueError(unknown(str(wrong[0]), known, ["clip"]))
        fields: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in value.items()
        }
        try:
            spec = ClipSpec(**fields)
            check_size(spec.size)
        except TypeError as err:
            raise ValueError(str(err)) from err
        return spec.to_dict()

    @pydantic.field_validator("labels", mode="before")
    @classmethod
    def _names(cls, value: object) -> object:
        if not isinstance(value, str):
            check_labels(value)
            return value
        try:
            return read_labels(value)
        except CheckpointError as err:
            raise ValueError(str(err)) from err

    def with_epoch_of(self, videos: int) -> Recipe:
        """Return the recipe with all numbers resolved that follow from its epochs or steps.

        An epoch has whole batches only; the clips that remain are left out.
        """
        optim = self.optim
        if optim.epochs:
            per_epoch = max(1, videos // optim.batch_size)
            steps, warmup = optim.epochs * per_epoch, round(optim.warmup_epochs * per_epoch)
            optim = optim.model_copy(update={"steps": steps, "warmup_steps": warmup})
        changes = {
            "optim": optim,
            "test_every": self.test_every or max(1, optim.steps // TESTS),
            "checkpoint_every": self.checkpoint_every or max(1, optim.steps // CHECKPOINTS),
        }
        return self.model_copy(update=changes)

    @pydantic.model_validator(mode="after")
    def _check(self) -> Recipe:
        if self.model.variant not in VARIANTS:
            known = ", ".join(VARIANTS)
            raise ValueError(f"model.variant: unknown {self.model.variant!r}; known are {known}")
        if len(set(self.labels)) != len(self.labels) or len(self.labels) < 2:
            raise ValueError(f"labels must be two or more different names, got {self.labels}")
        if not self.train:
            raise ValueError("train must name at least one set of clips")
        if self.optim.epochs and {type(table) for table in self.train} != {tables.VideosTable}:
            raise ValueError("optim.epochs needs listed videos; rendered clips have no end")
        self._check_labels()
        if (self.augment.mixup or self.augment.cutmix) and self.optim.batch_size % 2:
            raise ValueError("mixup and cutmix mix pairs of clips; give an even optim.batch_size")
        if self.optim.joints:
            self._check_joints()
        self._check_label_sets()
        return self

    def _check_labels(self) -> None:
        if bare := [table.name for table in self.test if not is_labelled(table)]:
            raise ValueError(f"a test needs labels, and {bare[0]!r} has labelled = false")
        bare = [table.name for table in self.train if not is_labelled(table)]
        if bare and self.distill is None:
            raise ValueError(
                f"{bare[0]!r} has labelled = false, so a teacher has to tell what it shows: give "
                "distill.teacher"
            )
        if len(bare) == len(self.train):
            raise ValueError("train must name at least one set of clips with labels")

    def _check_label_sets(self) -> None:
        if own := [table.name for table in self.test if table.labels]:
            raise ValueError(
                f"test {own[0]!r} has labels of its own; a test is of the recipe's labels"
            )
        others = self.label_sets[1:]
        for labels in others:
            if len(set(labels)) != len(labels) or len(labels) < 2:
                raise ValueError(
                    f"labels of a set must be two or more different names, got {labels}"
                )
        if others and (self.distill or self.augment.mixup or self.augment.cutmix):
            raise ValueError(
                "train tables with labels of their own go with neither distill nor mixup or cutmix"
            )
        if all(table.labels for table in self.train):
            raise ValueError("train must name a set of clips with the recipe's labels")

    def _check_joints(self) -> None:
        if not any(
            isinstance(part, tables.SyntheticTable) and not part.change for part in self.train
        ):
            raise ValueError("optim.joints needs rendered clips: a synthetic table without change")
        if self.clip.get("crop") != "letterbox":
            raise ValueError('optim.joints needs clip.crop = "letterbox"')
        if self.distill or self.augment.crop or self.augment.mixup or self.augment.cutmix:
            raise ValueError("optim.joints goes with neither distill nor crop, mixup or cutmix")


def is_labelled(table: tables.DataTable) -> bool:
    """Return whether the classes of a table's clips are known."""
    return not isinstance(table, tables.VideosTable) or table.labelled


def read_recipe(name: str | os.PathLike[str], settings: Sequence[str] = ()) -> Recipe:
    """Read a recipe by the name of a bundled one or by path, and apply `key=value` changes.

    Args:
        name: "ucf101_student" or "my/recipe.toml".
        settings: e.g. "optim.steps=100", "test.0.exclude.person=['0']"; values are TOML. `split`
            is applied first, `without=NAME`, which leaves a `train` table out, last.

    Raises:
        RecipeError: if there is no such recipe, or a table, name or value in it is wrong.
    """
    values = _read_values(name)
    ways = [setting for setting in settings if setting.partition("=")[0].strip() == "split"]
    for setting in ways:
        _apply(values, setting)
    values = _with_split(values, str(name))
    for setting in settings:
        _apply(values, setting)
    return recipe_from(_without(values, str(name)), str(name))


def _without(values: dict[str, Any], name: str) -> dict[str, Any]:
    """Return the values of a recipe but the `train` tables that its `without` names."""
    left_out, train = values.pop("without", []), values.get("train")
    left_out = left_out if isinstance(left_out, list) else [left_out]
    if not left_out or not isinstance(train, list) or not all(isinstance(t, dict) for t in train):
        return values
    names = [table.get("name", table.get("kind")) for table in train]
    if wrong := [one for one in left_out if one not in names]:
        known = ", ".join(map(str, names))
        raise RecipeError(f"recipe {name}: without names {wrong[0]!r}; train tables are: {known}")
    kept = [table for one, table in zip(names, train, strict=True) if one not in left_out]
    return {**values, "train": kept}


def _with_split(values: dict[str, Any], name: str) -> dict[str, Any]:
    """Return the values of a recipe with what `splits` has for its `split` laid over them.

    "official" is what the recipe says without it.
    """
    splits, chosen = values.pop("splits", {}), values.get("split", "")
    if not isinstance(splits, dict) or not all(isinstance(x, dict) for x in splits.values()):
        raise RecipeError(f"recipe {name}: splits must be tables, by their names")
    if not chosen or (splits and chosen == "official"):
        return values
    if chosen not in splits:
        known = ", ".join(["official", *splits]) if splits else "none to choose from"
        raise RecipeError(f"recipe {name}: there is no split {chosen!r}; known are: {known}")
    return _merged(values, splits[chosen])


def _read_values(name: str | os.PathLike[str], over: Sequence[str] = ()) -> dict[str, Any]:
    """Return the values of a TOML file, laid over those of the recipe that its `base` names.

    Tables are merged, all else is replaced.

    Args:
        name: of the recipe.
        over: the recipes that led here by their `base`, the first one first.
    """
    path, chain = Path(name), [*over, str(name)]
    if _identity(name) in map(_identity, over):
        raise RecipeError(f"recipe {chain[0]}: its base leads back to it: {' -> '.join(chain)}")
    try:
        text = read_text(path) if path.suffix == ".toml" else recipe_text(str(name))
    except OSError as err:
        near = difflib.get_close_matches(path.stem, recipe_names(), 3)
        meant = f"; did you mean {' or '.join(near)}?" if near else "."
        raise RecipeError(
            f"no recipe {str(name)!r}{meant} Give a .toml file, or a name that "
            "dvfl-train --help lists"
        ) from err
    try:
        values: dict[str, Any] = tomllib.loads(text)
    except tomllib.TOMLDecodeError as err:
        raise RecipeError(f"recipe {name} is not valid TOML: {err}") from err
    base = values.pop("base", None)
    if base is None:
        return values
    if not isinstance(base, str):
        raise RecipeError(f"recipe {name}: base must be the name of another recipe, got {base!r}")
    return _merged(_read_values(base, chain), values)


def _identity(name: str | os.PathLike[str]) -> str:
    """Return the same text for all ways to name one recipe."""
    return os.path.realpath(name) if Path(name).suffix == ".toml" else str(name)


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    out = dict(below)
    for key, value in above.items():
        both = isinstance(value, dict) and isinstance(out.get(key), dict)
        out[key] = _merged(out[key], value) if both else value
    return out


def recipe_from(values: Mapping[str, Any], name: str) -> Recipe:
    """Validate a recipe's values.

    Raises:
        RecipeError: with the first wrong key, its value and what was expected.
    """
    try:
        return Recipe.model_validate(values)
    except pydantic.ValidationError as err:
        wrong = in_words(err.errors()[0], list(Recipe.model_fields))
        raise RecipeError(f"recipe {name}: {wrong}") from err


def recorded_recipe(path: Path) -> Recipe:
    """Read the recipe.json of a run.

    Raises:
        RecipeError: if it cannot be read, or is no recipe.
    """
    try:
        values = json.loads(read_text(path))
    except (OSError, ValueError) as err:
        raise RecipeError(f"cannot read the recipe of a run, {path}: {err}") from err
    return recipe_from(values, str(path))


def _apply(values: dict[str, Any], setting: str) -> None:
    key, equals, text = setting.partition("=")
    if not equals:
        raise RecipeError(f"a setting is key=value, got {setting!r}")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text  # a bare word is a string
    *parents, last = key.strip().split(".")
    table: Any = values
    try:
        for parent in parents:
            here = int(parent) if isinstance(table, list) else parent
            table = table.setdefault(here, {}) if isinstance(table, dict) else table[here]
        table[int(last) if isinstance(table, list) else last] = value
    except (ValueError, IndexError, TypeError) as err:
        raise RecipeError(f"setting {setting!r} names nothing in the recipe: {err}") from err
