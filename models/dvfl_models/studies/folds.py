"""Folds of a cross-validation: which groups of a data set are held out together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dvfl_models.data.datasets import list_videos
from dvfl_models.data.list_formats import read_rows
from dvfl_models.recipe.recipe import Recipe, recorded_recipe
from dvfl_models.recipe.tables import DataTable, VideosTable
from dvfl_runtime.clips.labelled import LabelledVideo
from dvfl_runtime.errors import RecipeError


@dataclass(frozen=True)
class Folds:
    """How the groups of one data set of a recipe are held out.

    Attributes:
        name: of the data set.
        column: of its index, which tells groups apart (sequence, person, scene).
        count: of the parts that the groups are dealt out to; 0 holds out one group at a time.
        also: other sets, whose groups are dealt out to as many parts: the k-th part of each is held
            out together with the k-th part of this one.
    """

    name: str
    column: str
    count: int = 0
    also: tuple[Folds, ...] = ()

    @property
    def protocol(self) -> str:
        """What is left out, in words."""
        what = f"{self.count} parts of the {self.column}s" if self.count else f"one {self.column}"
        return f"leave {what} out"

    def videos(self, recipe: Recipe) -> VideosTable:
        """Return the data set.

        Raises:
            RecipeError: if the recipe does not train on it.
        """
        for table in recipe.train:
            if isinstance(table, VideosTable) and table.name == self.name:
                return table
        raise RecipeError(f"recipe {recipe.name} trains on no videos named {self.name!r}")

    def groups(self, recipe: Recipe) -> list[list[str]]:
        """Return the groups that each fold holds out.

        Raises:
            RecipeError: if the recipe does not train on the data set, or the list of its videos
                cannot be read, has no such column, or has too few groups.
        """
        table = self.videos(recipe)
        rows = read_rows(table, recipe.labels_of(table))
        groups = sorted({row.get(self.column, "") for row in rows})
        if not any(groups):
            raise RecipeError(
                f"data set {self.name!r} cannot be divided by {self.column!r}: nothing in "
                f"{table.index} says it of a video; give an index (a CSV with columns file, label "
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

    def folder(self, groups: Sequence[str], seed: int) -> str:
        """Return the name of the folder of a fold's run."""
        return f"seed{seed}_{self.column}{'+'.join(groups)}"

    def split(self, table: VideosTable, groups: Sequence[str]) -> tuple[VideosTable, VideosTable]:
        """Return a data set without some groups, and these groups alone."""
        only = {key: kept for key, kept in table.only.items() if key != self.column}
        exclude = {key: left for key, left in table.exclude.items() if key != self.column}
        held_out = {self.column: list(groups)}
        return (
            table.model_copy(update={"only": only, "exclude": exclude | held_out}),
            table.model_copy(update={"only": only | held_out, "exclude": exclude}),
        )

    def _held_out(self, recipe: Recipe, groups: Sequence[str]) -> list[tuple[Folds, Sequence[str]]]:
        """Return what a fold holds out of each set."""
        if not self.also:
            return [(self, groups)]
        all_groups = self.groups(recipe)
        number = all_groups.index(list(groups))
        others = [replace(folds, count=len(all_groups)) for folds in self.also]
        return [(self, groups), *((folds, folds.groups(recipe)[number]) for folds in others)]

    def recipe(self, recipe: Recipe, groups: Sequence[str], seed: int) -> Recipe:
        """Return the recipe with some groups held out of training; they are its only test sets.

        `{fold}` in the paths of the checkpoint to start from and of the teacher becomes the name of
        the fold's folder, so that a student gets the teacher that has not seen its test clips.
        """
        train: list[DataTable] = list(recipe.train)
        test: list[VideosTable] = []
        for folds, parts in self._held_out(recipe, groups):
            table = folds.videos(recipe)
            rest, held_out = folds.split(table, parts)
            train[train.index(table)] = rest
            test.append(held_out)
        where = self.folder(groups, seed)
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


def held_out_of(recipe_json: Path) -> list[LabelledVideo]:
    """Return the videos that a run of a cross-validation held out.

    Args:
        recipe_json: of the run's folder.

    Raises:
        RecipeError: if they cannot be found.
    """
    recipe = recorded_recipe(recipe_json)
    return [
        LabelledVideo(Path(entry.path), recipe.labels[entry.class_id], entry.group)
        for table in recipe.test
        if isinstance(table, VideosTable)
        for entry in list_videos(table, recipe.labels)
    ]
