"""From a table of a recipe to its clips."""

from __future__ import annotations

from collections.abc import Iterable

from dvfl_models.data.clips import ClipSet
from dvfl_models.data.rendered_clips import OrderClips, SyntheticClips
from dvfl_models.data.video_clips import PretextClips, VideoClips
from dvfl_models.recipe.recipe import Recipe
from dvfl_models.recipe.tables import DataTable, OrderTable, PretextTable, SyntheticTable


def open_clips(table: DataTable, recipe: Recipe, *, training: bool = False) -> ClipSet:
    """Open the clips that a table of a recipe describes.

    Args:
        table: one of `recipe.train` or `recipe.test`.
        recipe: its labels, its ClipSpec and its augmentation.
        training: whether random crops may follow, which are cut from larger pictures.

    Raises:
        RecipeError: if its files or labels are not there.
    """
    labels = recipe.labels_of(table)
    if isinstance(table, SyntheticTable):
        return SyntheticClips(table, labels, recipe.spec)
    if isinstance(table, PretextTable):
        return PretextClips(table, labels, recipe.spec)
    if isinstance(table, OrderTable):
        return OrderClips(table, labels, recipe.spec)
    uncropped = training and recipe.crops_whole_pictures
    return VideoClips(table, labels, recipe.spec, uncropped=uncropped)


def files_of(sets: Iterable[ClipSet]) -> list[VideoClips]:
    """Return those of the sets that read video files; of unlabelled videos, the files alone."""
    every = [clips.videos if isinstance(clips, PretextClips) else clips for clips in sets]
    return [clips for clips in every if isinstance(clips, VideoClips)]
