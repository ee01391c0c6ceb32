"""The training loop: one process or several, with or without a teacher, resumable at any step."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import signal
import time
from collections import deque
from collections.abc import Iterable
from functools import reduce
from operator import add
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from accelerate.utils import gather_object
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader, Subset
from tqdm import tqdm

from dvfl_models.data.batches import Batch, TrainingBatches
from dvfl_models.data.clip_sets import TrainingSample, clip_set
from dvfl_models.data.clips import ClipSet
from dvfl_models.data.datasets import fingerprint
from dvfl_models.data.leaks import Leak, check_leaks, find_leak
from dvfl_models.data.video_clips import VideoClips, check_corrupt, files_of
from dvfl_models.distillation.objective import Losses, Objective
from dvfl_models.network.video_focalnet import VideoFocalNet
from dvfl_models.recipe.recipe import Recipe
from dvfl_models.rendered.joints import WithJoints
from dvfl_models.training.consistency import UNSETTLED, doubts, gap
from dvfl_models.training.evaluate import Confusion, evaluate, normalise
from dvfl_models.training.run_files import Metrics, ProgressLog
from dvfl_models.training.skipped_steps import IN_A_ROW, IN_A_ROW_SCALED, SkippedSteps
from dvfl_models.training.snapshots import Snapshots, check_folder
from dvfl_models.training.starting import TrainOptions, new_accelerator, new_model, new_optimizer
from dvfl_models.training.stopping import Stopped, stoppable
from dvfl_models.training.workers import begin_worker, safe_workers
from dvfl_runtime.files import replacing
from dvfl_runtime.interrupts import asked_to_end, uninterrupted

log = logging.getLogger(__name__)

RECENT = 50  # steps whose batches are compared with a test


class Trainer:
    """One run of a recipe in a folder of its own; models/README.md lists what it writes there.

    Under `torchrun` each process trains on its part of every step's clips and the first one writes.
    """

    def __init__(self, recipe: Recipe, folder: Path, options: TrainOptions | None = None) -> None:
        """Prepares a run.

        Raises:
            DvflError: if the folder holds another run, a data set is missing, leaks or has
                changed, or a checkpoint does not fit.
        """
        options = options or TrainOptions()
        check_folder(folder, resume=options.resume)  # before anything is read or written
        self.folder, self.step = folder, 0
        self.unfinished: dict[str, Any] | None = None  # the last step's row, until it is written
        self.stopping = False  # to end after the current step, together with all other processes
        self.accelerator = new_accelerator(recipe.optim, options)
        rank, world = self.accelerator.process_index, self.accelerator.num_processes
        self.batches = TrainingBatches(recipe, rank, world)
        self.recipe = recipe = self.batches.recipe
        self.tests = [clip_set(part, recipe) for part in recipe.test]
        self.shown = TrainingSample(recipe, self.batches.sets)
        self.doubts = doubts(recipe, self.batches.sets, self.tests) if self.main else []
        for doubt in self.doubts:
            log.warning("%s", doubt)
        self.leaks = self._leaks(strict=options.strict_split)
        self.model = new_model(recipe)
        self.averaged: AveragedModel | None = None
        if recipe.optim.ema:
            average = get_ema_multi_avg_fn(recipe.optim.ema)
            self.averaged = AveragedModel(self.model, multi_avg_fn=average)
        learner = WithJoints(self.model) if recipe.optim.joints else self.model
        optimizer = new_optimizer(recipe.optim, learner)
        self.objective = Objective(recipe, self.accelerator.device)
        self.snapshots = Snapshots(folder, recipe, self._data())
        scaled = self.accelerator.scaler is not None
        self.skipped = SkippedSteps(
            min(recipe.optim.steps, IN_A_ROW_SCALED if scaled else IN_A_ROW),
            folder / f"failed_steps_{rank}.json",
        )
        saved = self.snapshots.open(resume=options.resume, main=self.main)
        self.accelerator.wait_for_everyone()  # the first process makes the folder
        if saved is not None:
            self.step = saved.restore(self.model, optimizer, self.averaged)
            if isinstance(learner, WithJoints):
                learner.joints.load_state_dict(saved.trainer["joints"])
            self.skipped.count = saved.trainer.get("skipped", 0)
            self.unfinished = saved.trainer.get("unfinished")
            log.info("resumed %s at step %d", folder, self.step)
        self.learner = learner
        wrapped: Any = self.accelerator.prepare(learner, optimizer)
        self.trained: nn.Module = wrapped[0]
        self.optimizer: torch.optim.Optimizer = wrapped[1]
        if self.averaged is not None:
            self.averaged.to(self.accelerator.device)
        if saved is not None and self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(saved.trainer.get("scaler", {}))
        self.confusions: dict[str, Confusion] = {}
        self.fit: Confusion | None = None  # what became of `shown` at the last test
        self.recent: deque[float] = deque(maxlen=RECENT)
        self.metrics = Metrics(folder, tensorboard=options.tensorboard and self.main)
        if self.main:
            self.metrics.forget_after(self.step)

    def _leaks(self, *, strict: bool) -> list[Leak]:
        """Compares each test set of videos with all training videos."""
        train = [entry for videos in self.batches.files for entry in videos.entries]
        leaks = [
            find_leak(train, test.entries, test.name)
            for test in self.tests
            if isinstance(test, VideoClips)
        ]
        check_leaks(leaks, strict=strict)
        return leaks

    def _data(self) -> str:
        """Fingerprint of all listed videos."""
        files = [*self.batches.files, *files_of(self.tests)]
        return fingerprint(entry for videos in files for entry in videos.entries)

    @property
    def main(self) -> bool:
        """Whether this is the process that writes."""
        return bool(self.accelerator.is_main_process)

    @property
    def deployed(self) -> VideoFocalNet:
        """The weights to keep: the averaged ones if the recipe averages."""
        model = self.model if self.averaged is None else self.averaged.module
        assert isinstance(model, VideoFocalNet)
        return model

    def lr_at(self, step: int) -> float:
        """Learning rate of a step: linear warm-up, then a cosine to zero."""
        optim = self.recipe.optim
        if step < optim.warmup_steps:
            return optim.lr * (step + 1) / optim.warmup_steps
        done = (step - optim.warmup_steps) / max(1, optim.steps - optim.warmup_steps)
        return optim.lr * 0.5 * (1 + math.cos(math.pi * done))

    def run(self, *, workers: int = 1, progress: bool = True) -> dict[str, Confusion]:
        """Trains to the last step and returns the confusion on each test set.

        Raises:
            DvflError: if loss or gradient are not finite again and again, with the step, the
                learning rate and the clips; or if more than 1 % of a data set cannot be decoded,
                with the list.
            Stopped: when Ctrl-C, SIGTERM or SIGHUP asks for it; `last.pth` holds the run.
        """
        several, steps = self.accelerator.num_processes > 1, self.recipe.optim.steps
        with stoppable(together=several) as requests, safe_workers():
            try:
                self._run(workers, show=progress and self.main)
                return self._finish()
            except KeyboardInterrupt as err:
                requests.hold()  # the run is saved, whatever else arrives
                words = ""
                if self.main:
                    self._save_last()
                    self.metrics.flush()
                    last = self.folder / "last.pth"
                    done = f"stopped at step {self.step} of {steps}"
                    words = f"{done}, kept in {last}; go on with --resume"
                raise Stopped(requests.number or signal.SIGINT, words) from err

    def _run(self, workers: int, *, show: bool) -> None:
        self.trained.train()
        steps, batch_size = self.recipe.optim.steps, self.recipe.optim.batch_size
        todo = Subset(self.batches, range(self.step, steps))
        loader: Iterable[Batch] = DataLoader(
            todo, batch_size=None, num_workers=workers, worker_init_fn=begin_worker
        )
        if self.unfinished is not None:
            self._after_step(self.unfinished)
        with tqdm(total=steps, initial=self.step, unit="step", disable=not show) as bar:
            started = time.perf_counter()
            progress_log = ProgressLog(self.step, steps)
            for batch in loader:
                with uninterrupted():
                    row = self._train_step(batch)
                    row["clips_per_s"] = batch_size / (time.perf_counter() - started)
                    self.unfinished = row
                if self.stopping:
                    raise KeyboardInterrupt
                started = time.perf_counter()
                shown = {"loss": f"{row['loss']:.3f}", "clips/s": f"{row['clips_per_s']:.0f}"}
                bar.set_postfix({**shown, **self._fitted(), **self.results()})
                bar.update()
                self._after_step(row)
                if self.main and not show:
                    progress_log.tell(self.step, {**shown, **self._fitted(), **self.results()})

    def _train_step(self, batch: Batch) -> dict[str, float]:
        """One update of the weights; returns what happened, as means over all processes."""
        optim, device, lr = self.recipe.optim, self.accelerator.device, self.lr_at(self.step)
        self._check_corrupt(batch)
        self._seed()
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        clips = normalise(batch.clips.to(device), self.recipe.spec)
        parts = list(zip(*(x.chunk(optim.accumulate) for x in self._inputs(batch, clips)),
                         strict=True))  # fmt: skip
        self.optimizer.zero_grad()
        seen: list[Tensor] = []
        why = ""
        for number, (some, targets, classes, *joints) in enumerate(parts, 1):
            alone = number < len(parts)  # gradients are exchanged once, with the last part
            with self.accelerator.no_sync(self.trained) if alone else contextlib.nullcontext():
                autocast = self.accelerator.autocast()
                losses = self.objective(self.trained, some, targets, autocast, *joints)
                seen.append(self._measured(losses, classes))
                if not torch.isfinite(seen[-1][0]):  # the same mean in every process
                    why = f"the loss is {seen[-1][0].item()}"
                    break
                self.accelerator.backward(losses.total / len(parts))
        self._update(why, batch, lr)
        self.step += 1
        loss, accuracy, task, kd, modulation, joints, asked = torch.stack(seen).mean(0).tolist()
        self.stopping = asked > 0
        self.recent.append(accuracy)
        row = {"step": self.step, "lr": lr, "loss": loss, "train_accuracy": accuracy}
        row["skipped"] = self.skipped.count
        if self.recipe.distill is not None:
            row |= {"task_loss": task, "kd_loss": kd, "modulation_loss": modulation}
        if self.recipe.optim.joints:
            row |= {"task_loss": task, "joint_loss": joints}
        return row

    def _inputs(self, batch: Batch, clips: Tensor) -> list[Tensor]:
        device = self.accelerator.device
        joints = [] if batch.joints is None else [batch.joints.to(device)]
        return [clips, batch.targets.to(device), batch.classes.to(device), *joints]

    def _seed(self) -> None:
        """Seeds stochastic depth by the step alone, so there is no generator state to keep."""
        rank = self.accelerator.process_index
        numbers = (self.recipe.seed, self.step, rank) if rank else (self.recipe.seed, self.step)
        torch.manual_seed(hash(numbers) % 2**31)  # hashes of integers are the same in all processes

    def _measured(self, losses: Losses, classes: Tensor) -> Tensor:
        right = (losses.logits.argmax(1) == classes).float().mean()
        parts = (losses.total, right, losses.task, losses.kd, losses.modulation, losses.joints)
        asked = right.new_tensor(float(asked_to_end()))
        values = torch.stack([part.detach().float() for part in (*parts, asked)])
        if self.accelerator.num_processes == 1:
            return values
        mean: Tensor = self.accelerator.reduce(values, "mean")
        return mean

    def _update(self, why: str, batch: Batch, lr: float) -> None:
        """Changes the weights, if the loss (else `why` says so) and gradient are finite."""
        scaled = self.accelerator.scaler is not None
        expected = False
        if not why:
            parameters = self.trained.parameters()
            norm = self.accelerator.clip_grad_norm_(parameters, self.recipe.optim.clip_grad)
            if not torch.isfinite(norm):
                why, expected = f"the gradient is {norm.item()}", scaled
            if scaled or not why:  # fp16's scaler leaves such a step out itself, and learns by it
                self.optimizer.step()
        if why:
            self.skipped.add(why, self.step, lr, list(batch.names), expected=expected)
            return
        self.skipped.finite()
        if self.averaged is not None:
            self.averaged.update_parameters(self.model)

    def _check_corrupt(self, batch: Batch) -> None:
        for clips in self.batches.files:
            marked = [text.partition("\t") for text in batch.corrupt]
            clips.corrupt.update(path for name, _, path in marked if name == clips.name)
            check_corrupt(clips.name, clips.corrupt, len(clips))

    def _after_step(self, row: dict[str, Any]) -> None:
        """Tests and writes what is due after a step."""
        recipe, done = self.recipe, self.step == self.recipe.optim.steps
        self.unfinished = row
        due = self.step % recipe.test_every == 0 or done
        if due:
            self.confusions = self._test()
            self._tell_fit()
        with uninterrupted():
            self.unfinished = None
            if not self.main:
                return
            if due and self.snapshots.is_best(self.results()):
                self.snapshots.save_best(self.deployed, self._training())
            texts = {k: f"{v:.4g}" if isinstance(v, float) else v for k, v in row.items()}
            names = [self.shown.name, *(test.name for test in self.tests)]
            found = {**self._fitted(), **self.results()} if due else {}
            self.metrics.append({**texts, **{name: found.get(name, "") for name in names}})
            if self.step % recipe.checkpoint_every == 0 or done:
                self._save_last()

    def _save_last(self) -> None:
        scaler = self.accelerator.scaler
        state: dict[str, Any] = {"skipped": self.skipped.count, "unfinished": self.unfinished}
        if scaler is not None:
            state["scaler"] = scaler.state_dict()
        if isinstance(self.learner, WithJoints):
            state["joints"] = self.learner.joints.state_dict()
        self.snapshots.save_last(self.step, self.model, self.optimizer, self.averaged, state)

    def results(self) -> dict[str, float]:
        """Accuracy on each test set at the last test, 0 to 1."""
        return {name: round(c.accuracy, 4) for name, c in self.confusions.items()}

    def _fitted(self) -> dict[str, float]:
        """Accuracy on training clips that are prepared like test clips, at the last test."""
        if self.fit is None or not self.fit.clips:
            return {}
        return {self.shown.name: round(self.fit.accuracy, 4)}

    def _test(self) -> dict[str, Confusion]:
        """Tests the weights to keep; each process runs its part of the clips."""
        self.fit = self._tested(self.shown)
        found = {}
        for test in self.tests:
            found[test.name] = total = self._tested(test)
            check_corrupt(test.name, total.skipped, len(test))
        return found

    def _tested(self, clips: ClipSet) -> Confusion:
        rank, world = self.accelerator.process_index, self.accelerator.num_processes
        part = slice(rank, None, world)
        mine = evaluate(self.deployed, clips, self.recipe.labels, self.recipe.spec, part)
        return reduce(add, gather_object([mine])) if world > 1 else mine

    def _tell_fit(self) -> None:
        """Logs both accuracies on training clips, and warns where they are far apart."""
        if not self.main or self.fit is None or not self.fit.clips or not self.recent:
            return
        batches = mean(self.recent)
        log.info(
            "step %d: accuracy %.1f %% in the last batches, %.1f %% on %d training clips that are "
            "prepared like test clips",
            *(self.step, 100 * batches, 100 * self.fit.accuracy, self.fit.clips),
        )
        settled = self.recipe.optim.ema**self.step < UNSETTLED
        if settled and (wrong := gap(batches, self.fit)):
            log.warning("%s", wrong)

    def _finish(self) -> dict[str, Confusion]:
        if self.fit is None:  # a finished run, resumed
            self.confusions = self._test()
        if not self.main:
            return self.confusions
        for name, confusion in self.confusions.items():
            title = f"{name}: {confusion.accuracy:.1%} of {confusion.clips} clips"
            confusion.save_png(self.folder / f"confusion_{name}.png", title)
        self.metrics.close()
        self.metrics.save_curves([self.shown.name, *(test.name for test in self.tests)])
        training = self._training()
        corrupt = {videos.name: sorted(videos.corrupt) for videos in self.batches.files}
        report = {
            **training,
            "doubts": self.doubts,
            self.shown.name: None if self.fit is None else self.fit.report(),
            "skipped_steps": self.skipped.count,
            "tests": {name: confusion.report() for name, confusion in self.confusions.items()},
            "leaks": [leak.report() for leak in self.leaks],
            "corrupt": corrupt,
            "data_sha256": self.snapshots.data,
        }
        with replacing(self.folder / "results.json") as part:
            part.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
        self.snapshots.save_final(self.deployed, training)
        return self.confusions

    def _training(self) -> dict[str, Any]:
        """What a checkpoint says of its making."""
        accuracy = {
            name: {"top1": round(c.accuracy, 4), "clips": c.clips}
            for name, c in self.confusions.items()
        }
        found: dict[str, Any] = {
            "recipe": self.recipe.name,
            "seed": self.recipe.seed,
            "steps": self.step,
            "data": [part.name for part in self.recipe.train],
            "accuracy": accuracy,
        }
        if leaks := [leak.report() for leak in self.leaks if leak.leaked]:
            found["leaks"] = leaks
        return found
