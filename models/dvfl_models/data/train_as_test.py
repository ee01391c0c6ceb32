"""From a table of a recipe to its clips."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from dvfl_models.data.clips import Clip, ClipSet, Sample
from dvfl_models.data.rendered_clips import OrderClips, SyntheticClips
from dvfl_models.data.video_clips import CACHE_PX, PretextClips, VideoClips
from dvfl_models.recipe.parts import DataPart, OrderPart, PretextPart, SyntheticPart
from dvfl_models.recipe.recipe import Recipe

_SAMPLE = 3  # first number of its seeds; those of batches begin with others (see `batches`)


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


class TrainingSample:
    """Training clips prepared like test clips: nothing random, one clip for a whole video.

    The accuracy on them, compared with that of the batches, tells whether training and tests show
    the network the same pictures. Classes take turns where training draws them so. Rendered clips
    have no end: they are drawn as those of a step are.

    Args:
        recipe: of the run.
        sets: its opened tables of training.
        count: clips at most.
    """

    name = "train_as_test"

    def __init__(self, recipe: Recipe, sets: Sequence[ClipSet], count: int = 200) -> None:
        self.seed, count = recipe.seed, min(count, recipe.optim.steps * recipe.optim.batch_size)
        weights = [part.weight for part in recipe.train]
        self.items: list[tuple[ClipSet, int]] = []
        self.kept: dict[int, tuple[Clip, int]] | None = None  # small clips, from test to test
        if max(recipe.spec.size) <= CACHE_PX:
            self.kept = {}
        for clips, weight in zip(sets, weights, strict=True):
            share = round(count * weight / sum(weights))
            every = self._spread(clips, by_class=not recipe.optim.epochs)
            self.items += [(clips, number) for number in every[:share] or range(share)]

    def _spread(self, clips: ClipSet, *, by_class: bool) -> Sequence[int]:
        """All clips in a random order, in which the classes take turns if `by_class`."""
        order = list(map(int, np.random.default_rng([_SAMPLE, self.seed]).permutation(len(clips))))
        if not by_class or not isinstance(clips, VideoClips):
            return order
        turns: Counter[int] = Counter()
        ranked = []
        for index in order:
            class_id = clips.entries[index].class_id
            ranked.append((turns[class_id], index))
            turns[class_id] += 1
        return [index for _, index in sorted(ranked, key=lambda pair: pair[0])]

    def sample(self, rng: np.random.Generator) -> Sample:
        """See ClipSet."""
        clip, class_id = self[int(rng.integers(len(self)))]
        return Sample(clip, class_id, self.name)

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> tuple[Clip, int]:
        if self.kept is None:
            return self._made(index)
        if index not in self.kept:
            self.kept[index] = self._made(index)
        return self.kept[index]

    def _made(self, index: int) -> tuple[Clip, int]:
        clips, number = self.items[index]
        if len(clips):
            return clips[number]
        sample = clips.sample(np.random.default_rng([_SAMPLE, self.seed, number]))
        return sample.clip, sample.class_id
