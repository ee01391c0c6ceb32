"""The tests during a run."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import reduce
from operator import add

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import nn

from dvfl_models.data.clips import Clip, ClipSet, FixedClips, to_batch
from dvfl_models.data.opening import open_clips
from dvfl_models.data.train_as_test import TrainAsTest
from dvfl_models.data.video_clips import VideoClips, check_corrupt
from dvfl_models.recipe.recipe import Recipe
from dvfl_models.training.confusion import Confusion, count
from dvfl_models.training.consistency import UNSETTLED, gap_warning
from dvfl_runtime.errors import SourceError

log = logging.getLogger(__name__)

BATCH = 32  # clips that run at once


class Evaluation:
    """The test sets of a run, training clips prepared like theirs, and the last test's results.

    Args:
        recipe: with its steps resolved.
        train: the opened `train` tables.
        accelerator: its processes share each test set.

    Attributes:
        tests: the opened `test` tables.
        confusions: by the names of the test sets; empty before the first test.
        fit: the result on the training clips; None before the first test.

    Raises:
        RecipeError: if the files of a test set are not there.
    """

    def __init__(self, recipe: Recipe, train: Sequence[ClipSet], accelerator: Accelerator) -> None:
        self.recipe, self.accelerator = recipe, accelerator
        self.tests = [open_clips(table, recipe) for table in recipe.test]
        self.train_as_test = TrainAsTest(recipe, train)
        self.names = [self.train_as_test.name, *(test.name for test in self.tests)]
        self.confusions: dict[str, Confusion] = {}
        self.fit: Confusion | None = None

    def run(self, network: nn.Module) -> None:
        """Test a network; each process runs its part of the clips.

        Raises:
            RecipeError: if more than 1 % of a test set cannot be decoded.
        """
        self.fit = self._share_work(network, self.train_as_test)
        confusions = {}
        for test in self.tests:
            confusions[test.name] = total = self._share_work(network, test)
            check_corrupt(test.name, total.skipped, len(test))
        self.confusions = confusions

    def _share_work(self, network: nn.Module, clips: FixedClips) -> Confusion:
        rank, world = self.accelerator.process_index, self.accelerator.num_processes
        mine = self._count(network, clips, range(len(clips))[rank::world])
        return reduce(add, gather_object([mine])) if world > 1 else mine

    @torch.inference_mode()
    def _count(self, network: nn.Module, clips: FixedClips, indices: Sequence[int]) -> Confusion:
        """Run some clips of a test set once, in eval mode; the network's mode is restored."""
        was_training, device = network.training, next(network.parameters()).device
        network.eval()
        labels, spec = self.recipe.labels, self.recipe.spec
        total = count(labels, np.zeros((0, len(labels)), np.float32), [])
        for first in range(0, len(indices), BATCH):
            items, skipped = _decodable(clips, indices[first : first + BATCH])
            if items:
                logits = network(to_batch([clip for clip, _ in items], spec).to(device))
                total += count(labels, logits.float().cpu().numpy(), [kind for _, kind in items])
            total += Confusion(labels, np.zeros_like(total.counts), 0, skipped)
        network.train(was_training)
        return total

    def results(self) -> dict[str, float]:
        """Return the accuracy on each test set at the last test, 0 to 1."""
        return {name: round(c.accuracy, 4) for name, c in self.confusions.items()}

    def accuracies(self) -> dict[str, float]:
        """Return the results, after the accuracy on training clips prepared like test clips."""
        if self.fit is None or not self.fit.clips:
            return self.results()
        return {self.train_as_test.name: round(self.fit.accuracy, 4), **self.results()}

    def compare_with_batches(self, accuracy: float, step: int) -> None:
        """Log the accuracy of the last batches beside that of `fit`; warn if they are far apart."""
        if self.fit is None or not self.fit.clips:
            return
        log.info(
            "step %d: accuracy %.1f %% in the last batches, %.1f %% on %d training clips that are "
            "prepared like test clips",
            *(step, 100 * accuracy, 100 * self.fit.accuracy, self.fit.clips),
        )
        settled = self.recipe.optim.ema**step < UNSETTLED
        if settled and (warning := gap_warning(accuracy, self.fit)):
            log.warning("%s", warning)


def _decodable(
    clips: FixedClips, indices: Sequence[int]
) -> tuple[list[tuple[Clip, int]], tuple[str, ...]]:
    """Return clips with their classes, and the files that cannot be decoded; warn of those."""
    items, skipped = [], []
    for index in indices:
        try:
            items.append(clips[index])
        except SourceError as err:
            log.warning("test set %r: left out: %s", clips.name, err)
            skipped.append(clips.entries[index].path if isinstance(clips, VideoClips) else "")
    return items, tuple(skipped)
