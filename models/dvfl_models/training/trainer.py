"""A run of a recipe: one process or several, with or without a teacher, resumable at any step."""

from __future__ import annotations

import logging
import signal
import time
from collections import deque
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from tqdm import tqdm

from dvfl_models.data.batches import Batch
from dvfl_models.data.datasets import fingerprint
from dvfl_models.data.leaks import Leak, check_leaks, find_leak, leaked_videos
from dvfl_models.data.loader import load_batches, plain_worker_errors
from dvfl_models.data.opening import files_of
from dvfl_models.data.training_clips import TrainingClips
from dvfl_models.data.video_clips import VideoClips, check_corrupt
from dvfl_models.recipe.recipe import Recipe
from dvfl_models.training.confusion import Confusion
from dvfl_models.training.consistency import UNSETTLED, doubts
from dvfl_models.training.evaluation import Evaluation
from dvfl_models.training.launch import (
    TrainOptions,
    check_same_start,
    new_accelerator,
    with_precision,
)
from dvfl_models.training.learner import Learner
from dvfl_models.training.memory import out_of_memory
from dvfl_models.training.metrics import Metrics, ProgressLog
from dvfl_models.training.run_folder import RunFolder, check_folder
from dvfl_models.training.stopping import Stopped, stoppable
from dvfl_runtime.interrupts import uninterrupted

log = logging.getLogger(__name__)

RECENT = 50  # steps whose batches are compared with a test


class Trainer:
    """One run of a recipe in a folder of its own; models/README.md lists what it writes there.

    Under `torchrun` each process trains on its part of every step's clips and the first one writes.

    Args:
        recipe: of the run.
        path: of its folder.
        options: which change nothing of the result.

    Attributes:
        step: the number of steps done.

    Raises:
        DvflError: if the folder holds another run, a data set is missing, leaks or has changed, or
            a checkpoint does not fit.
    """

    def __init__(self, recipe: Recipe, path: Path, options: TrainOptions | None = None) -> None:
        options = options or TrainOptions()
        check_folder(path, resume=options.resume)  # before anything is read or written
        self.step, self.until_s = 0, options.until_s
        self.workers = 0  # processes that read clips, while it runs
        self.unwritten: dict[str, Any] | None = None  # the last step's row, until it is written
        optim = with_precision(recipe.optim, options)
        recipe = recipe.model_copy(update={"optim": optim})
        self.accelerator = new_accelerator(optim, options)
        rank, world = self.accelerator.process_index, self.accelerator.num_processes
        self.clips = TrainingClips(recipe, rank, world)
        self.recipe = recipe = self.clips.recipe
        self.evaluation = Evaluation(recipe, self.clips.sets, self.accelerator)
        tests = self.evaluation.tests
        self.doubts = doubts(recipe, self.clips.sets, tests) if self.main else []
        for doubt in self.doubts:
            log.warning("%s", doubt)
        self.leaks = self._find_leaks(strict=options.strict_split)
        files = [*self.clips.files, *files_of(tests)]
        data = fingerprint(entry for videos in files for entry in videos.entries)
        self.learner = Learner(recipe, self.accelerator, path / f"failed_steps_{rank}.json")
        self.folder = RunFolder(path, recipe, data)
        saved = self.folder.open(resume=options.resume, main=self.main)
        self.accelerator.wait_for_everyone()  # the first process makes the folder
        check_same_start(self.accelerator, None if saved is None else self.folder.last)
        if saved is not None:
            self.step = int(saved.trainer["step"])
            self.unwritten = saved.trainer.get("unfinished")
            self.learner.restore(saved)
            log.info("resumed %s at step %d", path, self.step)
        self.recent: deque[float] = deque(maxlen=RECENT)  # accuracies of the last batches
        self.metrics = Metrics(path, tensorboard=options.tensorboard and self.main)
        if self.main:
            self.metrics.forget_after(self.step)

    def _find_leaks(self, *, strict: bool) -> list[Leak]:
        """Compare each test set of videos with all training videos."""
        train = [entry for videos in self.clips.files for entry in videos.entries]
        leaks = [
            find_leak(train, test.entries, test.name)
            for test in self.evaluation.tests
            if isinstance(test, VideoClips)
        ]
        check_leaks(leaks, strict=strict)
        return leaks

    @property
    def main(self) -> bool:
        """Whether this is the process that writes."""
        return bool(self.accelerator.is_main_process)

    def run(self, *, workers: int = 1, progress: bool = True) -> dict[str, Confusion]:
        """Train to the last step and return the confusion on each test set.

        Args:
            workers: processes that read clips.
            progress: show a bar instead of a line a minute.

        Raises:
            DvflError: if loss or gradient are not finite again and again, with the step, the
                learning rate and the clips; if more than 1 % of a data set cannot be decoded,
                with the list; or if the GPU's memory is too small, with the settings to change.
            Stopped: when Ctrl-C, SIGTERM or SIGHUP asks for it, or the time is up; `last.pth`
                holds the run.
        """
        self.workers = workers
        several, steps = self.accelerator.num_processes > 1, self.recipe.optim.steps
        with stoppable(together=several) as requests, plain_worker_errors():
            try:
                self._train(show=progress and self.main)
                return self._finish()
            except torch.OutOfMemoryError as err:
                processes = self.accelerator.num_processes
                raise out_of_memory(self.recipe, processes, self.step) from err
            except KeyboardInterrupt as err:
                requests.hold()  # the run is saved, whatever else arrives
                words = ""
                if self.main:
                    self._save_last()
                    self.metrics.flush()
                    done = f"stopped at step {self.step} of {steps}"
                    words = f"{done}, kept in {self.folder.last}; go on with --resume"
                number = requests.number or (0 if self._time_is_up else signal.SIGINT)
                raise Stopped(number, words) from err

    @property
    def _time_is_up(self) -> bool:
        return time.monotonic() >= self.until_s and self.step < self.recipe.optim.steps

    def keep(self, name: str) -> dict[str, Confusion]:
        """Write the weights of a run that has been stopped, as a checkpoint, and test them.

        The averaged weights are taken unless the first ones still make up too much of them.

        Args:
            name: of the file in the folder of the run.

        Returns:
            The confusion on each test set.
        """
        settled = self.recipe.optim.ema**self.step < UNSETTLED
        network = self.learner.deployed if settled else self.learner.network
        self.evaluation.run(network, self.workers)
        self.folder.save_weights(name, network, self._about())
        return self.evaluation.confusions

    def _train(self, *, show: bool) -> None:
        self.learner.trained.train()
        steps, batch_size = self.recipe.optim.steps, self.recipe.optim.batch_size
        device = self.accelerator.device
        batches = load_batches(self.clips, self.step, self.workers, device)
        if self.unwritten is not None:
            self._after_step(self.unwritten)
        with tqdm(total=steps, initial=self.step, unit="step", disable=not show) as bar:
            started = time.perf_counter()
            progress_log = ProgressLog(self.step, steps)
            for batch in batches:
                with uninterrupted():
                    row = self._train_step(batch)
                    row["clips_per_s"] = batch_size / (time.perf_counter() - started)
                    self.unwritten = row
                if self.learner.stop_requested or self._time_is_up:
                    raise KeyboardInterrupt
                started = time.perf_counter()
                bar.update()
                self._after_step(row)
                speed = {"loss": f"{row['loss']:.3f}", "clips/s": f"{row['clips_per_s']:.0f}"}
                shown = {**speed, **self.evaluation.accuracies()}
                bar.set_postfix(shown)
                if self.main and not show:
                    progress_log.tell(self.step, shown)

    def _train_step(self, batch: Batch) -> dict[str, float]:
        """Update the weights once and return the step's row of metrics."""
        for clips in self.clips.files:  # the process that made the batch may have found more
            clips.corrupt.update(path for name, path in batch.corrupt if name == clips.name)
            check_corrupt(clips.name, clips.corrupt, len(clips))
        row = self.learner.train_step(batch, self.step)
        self.step += 1
        self.recent.append(row["train_accuracy"])
        return row

    def _after_step(self, row: dict[str, Any]) -> None:
        """Test and write what is due after a step."""
        recipe, done = self.recipe, self.step == self.recipe.optim.steps
        self.unwritten = row
        due = self.step % recipe.test_every == 0 or done
        if due:
            self.evaluation.run(self.learner.deployed, self.workers)
            if self.main and self.recent:
                self.evaluation.compare_with_batches(mean(self.recent), self.step)
        with uninterrupted():
            self.unwritten = None
            if not self.main:
                return
            if due and self.folder.is_best(self.evaluation.results()):
                self.folder.save_weights("best.pth", self.learner.deployed, self._about())
            texts = {k: f"{v:.4g}" if isinstance(v, float) else v for k, v in row.items()}
            tested = dict.fromkeys(self.evaluation.names, "")  # stays empty between two tests
            found = self.evaluation.accuracies() if due else {}
            self.metrics.append({**texts, **tested, **found})
            if self.step % recipe.checkpoint_every == 0 or done:
                self._save_last()

    def _save_last(self) -> None:
        state = {**self.learner.state(), "unfinished": self.unwritten}
        self.folder.save_last(self.step, self.learner.network, state)

    def _finish(self) -> dict[str, Confusion]:
        """Write the results and return the confusion on each test set."""
        evaluation = self.evaluation
        if evaluation.fit is None:  # a finished run, resumed
            evaluation.run(self.learner.deployed, self.workers)
        confusions = evaluation.confusions
        if not self.main:
            return confusions
        for name, confusion in confusions.items():
            confusion.save_png(self.folder.path / f"confusion_{name}.png", confusion.title(name))
        self.metrics.close()
        self.metrics.save_curves(evaluation.names)
        about, leaks = self._about(), [leak.report() for leak in self.leaks]
        self.folder.save_results(
            {
                **about,
                "doubts": self.doubts,
                evaluation.train_as_test.name: evaluation.fit and evaluation.fit.report(),
                "skipped_steps": self.learner.skipped.count,
                "tests": {
                    name: {**confusion.report(), "leaked": leaked_videos(leaks, name)}
                    for name, confusion in confusions.items()
                },
                "leaks": leaks,
                "corrupt": {videos.name: sorted(videos.corrupt) for videos in self.clips.files},
                "data_sha256": self.folder.data,
            }
        )
        self.folder.save_weights("final.pth", self.learner.deployed, about)
        return confusions

    def _about(self) -> dict[str, Any]:
        """Return how the weights were made, for a checkpoint and the results."""
        about: dict[str, Any] = {
            "recipe": self.recipe.name,
            "seed": self.recipe.seed,
            "steps": self.step,
            "data": [table.name for table in self.recipe.train],
            "accuracy": {
                name: {"top1": round(c.accuracy, 4), "clips": c.clips}
                for name, c in self.evaluation.confusions.items()
            },
        }
        if leaks := [leak.report() for leak in self.leaks if leak.leaked]:
            about["leaks"] = leaks
        return about
