"""Training clips prepared like test clips."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from dvfl_models.data.clips import ClipSet
from dvfl_models.data.video_clips import VideoClips
from dvfl_models.recipe.recipe import Recipe, is_labelled
from dvfl_runtime.clips.spec import Clip

_SEED = 3  # first number of the seeds drawn from here; those of `batches` begin with others


class TrainAsTest:
    """Training clips without anything random, one for a whole video.

    The accuracy on them, compared with that of the batches, tells whether training and tests show
    the network the same pictures. Classes take turns where training draws them so. There are as
    many rendered clips as one likes, so they are drawn as those of a step are.

    Args:
        recipe: of the run.
        sets: the opened `train` tables of the recipe.
        count: the largest number of clips.
    """

    name = "train_as_test"

    def __init__(self, recipe: Recipe, sets: Sequence[ClipSet], count: int = 200) -> None:
        self.seed, count = recipe.seed, min(count, recipe.optim.steps * recipe.optim.batch_size)
        known = [
            (clips, table.weight)
            for clips, table in zip(sets, recipe.learnt, strict=True)
            if is_labelled(table) and not table.labels
        ]
        total = sum(weight for _, weight in known)
        self.items: list[tuple[ClipSet, int]] = []
        for clips, weight in known:
            share = round(count * weight / total)
            every = self._shuffled(clips, by_class=not recipe.optim.epochs)
            self.items += [(clips, number) for number in every[:share] or range(share)]

    def _shuffled(self, clips: ClipSet, *, by_class: bool) -> Sequence[int]:
        """Return all clips in a random order, in which the classes take turns if `by_class`."""
        order = list(map(int, np.random.default_rng([_SEED, self.seed]).permutation(len(clips))))
        if not by_class or not isinstance(clips, VideoClips):
            return order
        turns: Counter[int] = Counter()
        ranked = []
        for index in order:
            class_id = clips.entries[index].class_id
            ranked.append((turns[class_id], index))
            turns[class_id] += 1
        return [index for _, index in sorted(ranked, key=lambda pair: pair[0])]

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> tuple[Clip, int]:
        clips, number = self.items[index]
        if len(clips):
            return clips[number]
        sample = clips.sample(np.random.default_rng([_SEED, self.seed, number]))
        return sample.clip, sample.class_id
