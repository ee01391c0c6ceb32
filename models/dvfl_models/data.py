"""From a table of a recipe to its clips."""

from __future__ import annotations

from dvfl_models.clips import ClipSet
from dvfl_models.recipe import Recipe
from dvfl_models.recipe_parts import DataPart, OrderPart, PretextPart, SyntheticPart
from dvfl_models.rendered_clips import OrderClips, SyntheticClips
from dvfl_models.video_clips import PretextClips, VideoClips


def clip_set(part: DataPart, recipe: Recipe, *, training: bool = False) -> ClipSet:
    """Opens the clips that a table of a recipe describes.

    Raises:
        RecipeError: if its files or labels are not there.
    """
    if isinstance(part, SyntheticPart):
        return SyntheticClips(part, recipe.labels, recipe.spec)
    if isinstance(part, PretextPart):
        return PretextClips(part, recipe.labels, recipe.spec)
    if isinstance(part, OrderPart):
        return OrderClips(part, recipe.labels, recipe.spec)
    whole = training and recipe.augment.crop is not None and recipe.spec.crop == "center"
    return VideoClips(part, recipe.labels, recipe.spec, whole=whole)
