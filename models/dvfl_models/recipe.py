"""Training recipes: TOML files with every number that a run depends on."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic
from pydantic import BaseModel, ConfigDict, Field

from dvfl_models.video_focalnet import VARIANTS
from dvfl_runtime.errors import RecipeError
from dvfl_runtime.spec import ClipSpec

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


class Part(BaseModel):
    """A table of a recipe: unknown names are errors, values cannot change."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ModelPart(Part):
    """Which network, and how its weights start."""

    variant: str
    init: Literal["official", "xavier"] = "official"
    start: str = ""  # a checkpoint whose weights the run starts from
    drop_path: float = Field(0.0, ge=0, lt=1)


class SyntheticPart(Part):
    """Clips drawn by `dvfl_models.synthetic`, without end."""

    kind: Literal["synthetic"]
    name: str = "synthetic"
    weight: float = Field(1.0, gt=0)  # share of the batches, relative to the other tables
    window_s: tuple[float, float] = (1.2, 4.0)  # a clip's span is drawn from this range
    clean: bool = False  # easy scenes: one person well in the picture, a quiet background
    change: bool = False  # the action changes within the clip; the middle of it gives the class
    clips: int = Field(0, ge=0)  # of a test set, per class
    first_seed: int = 0  # test sets start far from the seeds of training


class VideosPart(Part):
    """Labelled video files listed in a CSV with columns `file`, `label` and any others."""

    kind: Literal["videos"]
    name: str
    index: str  # the CSV; files are beside it. A folder stands for all the videos in it
    weight: float = Field(1.0, gt=0)
    rename: dict[str, str] = {}  # label in the CSV -> label of the recipe; others are left out
    only: dict[str, list[str]] = {}  # column -> values to keep
    exclude: dict[str, list[str]] = {}  # column -> values to leave out
    window_s: tuple[float, float] = (1.2, 6.0)


DataPart = Annotated[SyntheticPart | VideosPart, Field(discriminator="kind")]


class OptimPart(Part):
    """AdamW or SGD under a linear warm-up and a cosine."""

    optimizer: Literal["adamw", "sgd"] = "adamw"
    steps: int = Field(ge=1)
    batch_size: int = Field(16, ge=1)
    lr: float = Field(1e-3, gt=0)
    warmup_steps: int = Field(0, ge=0)
    weight_decay: float = Field(0.05, ge=0)
    clip_grad: float = Field(1.0, gt=0)
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    ema: float = Field(0.0, ge=0, lt=1)  # decay of the averaged weights; 0 = none


class AugmentPart(Part):
    """Random changes, the same for all frames of a clip; 0 turns one off."""

    flip: float = Field(0.5, ge=0, le=1)
    degrees: float = Field(6.0, ge=0)
    translate: float = Field(0.1, ge=0, lt=1)
    scale: tuple[float, float] = (0.8, 1.25)
    jitter: float = Field(0.3, ge=0, lt=1)
    grey: float = Field(0.2, ge=0, le=1)
    degrade: float = Field(0.5, ge=0, le=1)  # probability of a down-up-scaling of the frames


class Recipe(Part):
    """One training run."""

    name: str
    labels: tuple[str, ...]
    seed: int = 0
    model: ModelPart
    clip: dict[str, Any] = {}  # fields of ClipSpec
    train: tuple[DataPart, ...]
    test: tuple[DataPart, ...] = ()
    optim: OptimPart
    augment: AugmentPart = Field(default_factory=lambda: AugmentPart.model_validate({}))
    test_every: int = Field(500, ge=1)
    checkpoint_every: int = Field(250, ge=1)

    @property
    def spec(self) -> ClipSpec:
        """The ClipSpec that `clip` describes."""
        values: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in self.clip.items()
        }
        if values.get("crop") == "letterbox":
            values["resize"] = None  # TOML cannot say null
        return ClipSpec(**values)

    @pydantic.model_validator(mode="after")
    def _check(self) -> Recipe:
        if self.model.variant not in VARIANTS:
            raise ValueError(f"unknown variant {self.model.variant!r}; known: {list(VARIANTS)}")
        if len(set(self.labels)) != len(self.labels) or len(self.labels) < 2:
            raise ValueError(f"labels must be two or more different names, got {self.labels}")
        if not self.train:
            raise ValueError("train must name at least one set of clips")
        try:
            _ = self.spec
        except TypeError as err:
            raise ValueError(f"clip: {err}") from err
        return self


def read_recipe(name: str | os.PathLike[str], settings: Sequence[str] = ()) -> Recipe:
    """Reads a recipe by the name of a bundled one or by path, with `key=value` changes.

    Args:
        name: "weizmann_pretrain" or "my/recipe.toml".
        settings: e.g. "optim.steps=100", "test.0.exclude.person=['0']"; values are TOML.

    Raises:
        RecipeError: if there is no such recipe, or a table, name or value in it is wrong.
    """
    path = Path(name)
    try:
        if path.suffix == ".toml":
            text = path.read_text(encoding="utf-8")
        else:
            bundled = resources.files("dvfl_models") / "recipes" / f"{name}.toml"
            text = bundled.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as err:
        raise RecipeError(
            f"no recipe {str(name)!r}; give a .toml file or one of: {', '.join(recipe_names())}"
        ) from err
    try:
        values: dict[str, Any] = tomllib.loads(text)
    except tomllib.TOMLDecodeError as err:
        raise RecipeError(f"recipe {name} is not valid TOML: {err}") from err
    for setting in settings:
        _apply(values, setting)
    return recipe_from(values, str(name))


def recipe_from(values: Mapping[str, Any], name: str) -> Recipe:
    """Validates a recipe's values.

    Raises:
        RecipeError: naming the first wrong key, its value and what was expected.
    """
    try:
        return Recipe.model_validate(values)
    except pydantic.ValidationError as err:
        first = err.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "recipe"
        raise RecipeError(f"recipe {name}: {where}: {first['msg']}") from err


def recipe_names() -> list[str]:
    """Names of the bundled recipes."""
    folder = resources.files("dvfl_models") / "recipes"
    return sorted(entry.name[:-5] for entry in folder.iterdir() if entry.name.endswith(".toml"))


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
