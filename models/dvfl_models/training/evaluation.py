"""The tests during a run."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from functools import reduce
from operator import add

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import nn

from dvfl_models.data.clips import ClipSet, FixedClips, to_input
from dvfl_models.data.decoding import SMALL_PX
from dvfl_models.data.loader import TestBatch, load_test
from dvfl_models.data.opening import open_clips
from dvfl_models.data.train_as_test import TrainAsTest
from dvfl_models.data.video_clips import check_corrupt
from dvfl_models.recipe.recipe import Recipe
from dvfl_models.training.confusion import Confusion, count
from dvfl_models.training.consistency import UNSETTLED, gap_warning
from dvfl_models.training.memory import clips_at_once

log = logging.getLogger(__name__)


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
        self.at_once = clips_at_once(recipe, accelerator.num_processes)
        self._kept: list[TestBatch] = []  # training clips if they are small, from test to test

    def run(self, network: nn.Module, workers: int = 0) -> None:
        """Test a network; each process runs its part of the clips.

        Args:
            network: on any device.
            workers: processes that read clips.

        Raises:
            RecipeError: if more than 1 % of a test set cannot be decoded.
        """
        shown: Iterable[TestBatch] = self._kept or self._load(self.train_as_test, workers)
        if max(self.recipe.spec.size) <= SMALL_PX:
            shown = self._kept = [*shown]
        self.fit = self._share_work(network, self.train_as_test.name, shown)
        confusions = {}
        for test in self.tests:
            batches = self._load(test, workers)
            confusions[test.name] = total = self._share_work(network, test.name, batches)
            check_corrupt(test.name, total.skipped, len(test))
        self.confusions = confusions

    def _load(self, clips: FixedClips, workers: int) -> Iterator[TestBatch]:
        """Read this process's part of a test set."""
        rank, world = self.accelerator.process_index, self.accelerator.num_processes
        return load_test(clips, range(rank, len(clips), world), workers)

    def _share_work(self, network: nn.Module, name: str, batches: Iterable[TestBatch]) -> Confusion:
        mine = self._count(network, name, batches)
        several = self.accelerator.num_processes > 1
        return reduce(add, gather_object([mine])) if several else mine

    @torch.inference_mode()
    def _count(self, network: nn.Module, name: str, batches: Iterable[TestBatch]) -> Confusion:
        """Run clips of a test set once, in eval mode; the network's mode is restored."""
        was_training, device = network.training, next(network.parameters()).device
        network.eval()
        labels, spec = self.recipe.labels, self.recipe.spec
        total = count(labels, np.zeros((0, len(labels)), np.float32), [])
        for batch in batches:
            if batch.classes:
                # no more clips at a time than in training, so that they fit into the same memory
                parts = batch.clips.split(self.at_once)
                logits = torch.cat([network(to_input(part.to(device), spec)) for part in parts])
                total += count(labels, logits.float().cpu().numpy(), batch.classes)
            for _, problem in batch.skipped:
                log.warning("test set %r: left out: %s", name, problem)
            skipped = tuple(path for path, _ in batch.skipped)
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
