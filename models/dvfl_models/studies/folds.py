"""Folds of a cross-validation: which groups of a data set are held out together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dvfl_models.data.datasets import read_rows
from dvfl_models.recipe.parts import DataPart, VideosPart
from dvfl_models.recipe.recipe import Recipe
from dvfl_runtime.errors import RecipeError


@dataclass(frozen=True)
class Folds:
    """How the groups of one data set of a recipe are held out.

    Attributes:
        name: of the data set.
        column: of its index, which tells groups apart (sequence, person, scene).
        count: how many parts the groups are dealt out to; 0 holds out one group at a time.
    """

    name: str
    column: str
    count: int = 0

    @property
    def protocol(self) -> str:
        """What is left out, in words."""
        what = f"{self.count} parts of the {self.column}s" if self.count else f"one {self.column}"
        return f"leave {what} out"

    def parts(self, recipe: Recipe) -> list[list[str]]:
        """The groups of each fold.

        Raises:
            RecipeError: if the recipe does not train on the data set, or its list cannot be read,
                does not say which videos belong together, or has too few groups.
        """
        videos = (part for part in recipe.train if isinstance(part, VideosPart))
        part = next((part for part in videos if part.name == self.name), None)
        if part is None:
            raise RecipeError(f"recipe {recipe.name} trains on no videos named {self.name!r}")
        rows = read_rows(part, recipe.labels)
        groups = sorted({row.get(self.column, "") for row in rows})
        if not any(groups):
            raise RecipeError(
                f"data set {self.name!r} cannot be divided by {self.column!r}: nothing in "
                f"{part.index} says it of a video; give an index (a CSV with columns file, label "
                f"and {self.column}) in which videos that belong together have the same value there"
            )
        if len(groups) < max(2, self.count):
            raise RecipeError(
                f"data set {self.name!r} has {len(groups)} different values of {self.column!r}, "
                f"too few for {max(2, self.count)} parts of which one at a time is left out"
            )
        if self.count:
            return [groups[k :: self.count] for k in range(self.count)]
        return [[group] for group in groups]

    def folder(self, values: Sequence[str], seed: int) -> str:
        """Name of a fold's folder."""
        return f"seed{seed}_{self.column}{'+'.join(values)}"

    def recipe(self, recipe: Recipe, values: Sequence[str], seed: int) -> Recipe:
        """The recipe with groups of the data set held out of training and made the only test.

        `{fold}` in the paths of the checkpoint to start from and of the teacher becomes the name of
        the fold's folder, so that a student gets the teacher that has not seen its test clips.
        """
        train: list[DataPart] = []
        test: list[VideosPart] = []
        for part in recipe.train:
            if isinstance(part, VideosPart) and part.name == self.name:
                only = {key: kept for key, kept in part.only.items() if key != self.column}
                exclude = {key: left for key, left in part.exclude.items() if key != self.column}
                held = {self.column: list(values)}
                test.append(part.model_copy(update={"only": only | held, "exclude": exclude}))
                train.append(part.model_copy(update={"only": only, "exclude": exclude | held}))
            else:
                train.append(part)
        where = self.folder(values, seed)
        start = recipe.model.start.replace("{fold}", where)
        changes: dict[str, Any] = {
            "train": tuple(train),
            "test": tuple(test),
            "seed": seed,
            "test_every": 10**9,
            "model": recipe.model.model_copy(update={"start": start}),
        }
        if recipe.distill is not None:
            teacher = recipe.distill.teacher.replace("{fold}", where)
            changes["distill"] = recipe.distill.model_copy(update={"teacher": teacher})
        return recipe.model_copy(update=changes)
