"""Does a teacher make its student better? Cross-validated on real video, on a GPU in minutes.

A part of `make gpu-check`. In a fold a teacher learns the training clips and computes logits for a
fixed pool of augmented clips, some of them mixed. Students learn from the pool, alone and by each
loss, with several seeds. All networks start from the same small one, which is widened to the
student, and widened and deepened to the teacher. A student alone and a taught one of the same seed
see the same clips in the same order. It has run on one NVIDIA H200, with all folds at once.
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Iterator
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated, Literal

import pydantic
import torch
from torch import Tensor

from dvfl_models.network.checkpoint import StateDict, read_checkpoint
from dvfl_models.network.video_focalnet import VideoFocalNet
from dvfl_models.recipe.tables import Table
from dvfl_models.studies.kept_clips import Clips, RandomForms, centre_clips, load, save
from dvfl_models.studies.students import ARMS, Arm, Row, grown_model, logits_of, train

log = logging.getLogger(__name__)

GRACE_S = 30.0  # for the student that a fold has begun when its time ends
Count = Annotated[int, pydantic.Field(ge=1)]


class Plan(Table):
    """The numbers of the experiment.

    The defaults are computed to fill 240 s of an H200 with two folds, from the clips/s of single
    processes in models/results/h200/training.json: 50 s for the 300 steps of a teacher, 9 s for the
    200 of a student. Not yet run in this form. In the first experiment teachers of 150 steps were
    worse than students alone, so that nothing could be gained from them.

    Attributes:
        teacher: variant of the teacher.
        student: variant of the student.
        arms: names of `ARMS` in the order of their runs.
        seeds: number of students of each arm.
        epochs: of a student, over the training clips.
        teacher_epochs: of the teacher.
        views: number of augmented forms of each clip in the pool.
        batch: number of clips in a step.
        lr: of a student.
        teacher_lr: of the teacher.
    """

    teacher: str = "base"
    student: str = "nano"
    arms: tuple[Literal["alone", "kl", "kl_more", "kl_z", "dist"], ...] = ("alone", "kl")
    seeds: Count = 3
    epochs: Count = 66
    teacher_epochs: Count = 100
    views: Count = 20
    batch: Count = 128
    lr: float = 3e-4
    teacher_lr: float = 2e-4


def run_fold(
    clips: Clips,
    fold: int,
    plan: Plan,
    start: StateDict | None,
    device: torch.device,
    seconds: float = math.inf,
) -> Iterator[Row]:
    """Yield the rows of a fold: the teacher's, then those of the students while there is time."""
    began_s = time.perf_counter()
    num_classes = int(clips.classes.max()) + 1
    test = torch.tensor(clips.tests[fold], device=device)
    videos = torch.tensor(clips.trained(fold), device=device)
    augmented = RandomForms(clips, device, num_classes, mixed=0.5)
    tested = centre_clips(clips, test.cpu()).to(device)
    classes = augmented.classes[test]

    def row(model: VideoFocalNet, began_s: float, arm: str, seed: int) -> Row:
        seconds = round(time.perf_counter() - began_s, 1)
        right = (logits_of(model, tested).argmax(1) == classes).tolist()
        accuracy = round(sum(right) / len(right), 4)
        log.info(
            "fold %d, %s, seed %d: %.1f %% in %.1f s", fold, arm, seed, 100 * accuracy, seconds
        )
        return {
            "fold": fold,
            "arm": arm,
            "seed": seed,
            "seconds": seconds,
            "accuracy": accuracy,
            "right": "".join("1" if mark else "0" for mark in right),
        }

    def fresh_batches() -> Iterator[tuple[Tensor, Tensor, None]]:
        while True:
            for some in _shuffled_batches(videos, plan.batch):
                yield (*augmented(some), None)

    per_epoch = max(1, len(videos) // plan.batch)
    torch.manual_seed(100 + fold)
    teacher = grown_model(plan.teacher, num_classes, start, 0.2).to(device)
    run_began_s = time.perf_counter()
    teacher = train(
        teacher, fresh_batches(), plan.teacher_epochs * per_epoch, plan.teacher_lr, Arm()
    )
    yield row(teacher, run_began_s, "teacher", 0)
    pool = _augmented_pool(augmented, videos, plan.views, teacher)
    del teacher
    for seed in range(plan.seeds):
        for name in plan.arms:
            run_began_s = time.perf_counter()
            if run_began_s - began_s > seconds:
                return
            torch.manual_seed(seed)
            student = grown_model(plan.student, num_classes, start, 0.1).to(device)
            order = _batches_of_pool(pool, plan.batch, seed)
            student = train(student, order, plan.epochs * per_epoch, plan.lr, ARMS[name])
            yield row(student, run_began_s, name, seed)


def _shuffled_batches(videos: Tensor, batch: int) -> Iterator[Tensor]:
    """Yield all videos in a random order, in whole batches; the rest is left out of this round."""
    shuffled = videos[torch.randperm(len(videos), device=videos.device)]
    whole = max(batch, len(videos) // batch * batch)
    yield from shuffled[:whole].split(batch)


def _augmented_pool(
    augmented: RandomForms, videos: Tensor, views: int, teacher: VideoFocalNet
) -> tuple[Tensor, Tensor, Tensor]:
    """Return clips, targets and the teacher's logits of `views` augmented forms of each video."""
    made = [
        augmented(some)
        for _ in range(views)
        for some in _shuffled_batches(videos, min(256, len(videos)))
    ]
    pool = torch.cat([clips for clips, _ in made])
    return pool, torch.cat([targets for _, targets in made]), logits_of(teacher, pool).clone()


def _batches_of_pool(
    pool: tuple[Tensor, Tensor, Tensor], batch: int, seed: int
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield batches without end; the seed alone decides their order."""
    generator = torch.Generator().manual_seed(seed)
    clips, targets, wanted = pool
    while True:
        for some in torch.randperm(len(clips), generator=generator).split(batch):
            if len(some) == min(batch, len(clips)):
                here = some.to(clips.device)
                yield clips[here], targets[here], wanted[here]


def run_folds(
    clips: Clips, folder: Path, plan: Plan, start: Path | None, seconds: float
) -> tuple[list[Row], list[int]]:
    """Run the folds one after the other, each in a process of its own, the list's own split last.

    Several at once are no faster: small networks and clips keep a GPU busy as it is. Folds share
    the time; the list's own split is run if as much is left as the fold before it took.

    Args:
        clips: the data set.
        folder: gets the rows as they are measured, `distillation.jsonl`.
        plan: of the experiment.
        start: checkpoint of the small network that all networks start from.
        seconds: begin no student later; half a minute after its share a fold is stopped.

    Returns:
        The rows in the order of the folds, and the folds whose process failed or was stopped.
    """
    saved, rows_at = folder / "clips.pt", folder / "distillation.jsonl"
    save(clips, saved)
    rows_at.unlink(missing_ok=True)
    spawn = get_context("spawn")  # CUDA does not survive a fork
    folds = [*range(1, len(clips.tests)), 0]
    end_s, took_s, failed = time.perf_counter() + seconds, 0.0, []
    for number, fold in enumerate(folds):
        began_s = time.perf_counter()
        if fold == 0 and end_s - began_s < took_s:
            break
        share_s = max(0.0, end_s - began_s) / max(1, len(folds) - 1 - number)
        process = spawn.Process(
            target=_write_fold, args=(saved, rows_at, fold, plan, start, share_s), daemon=True
        )
        process.start()
        process.join(share_s + GRACE_S)
        if process.is_alive():
            process.kill()
            process.join()
        failed += [fold] if process.exitcode else []
        took_s = time.perf_counter() - began_s
    saved.unlink()
    lines = rows_at.read_text(encoding="utf-8").splitlines() if rows_at.exists() else []
    rows = sorted((json.loads(line) for line in lines), key=lambda row: int(row["fold"]))
    return rows, sorted(failed)


def _write_fold(
    saved: Path, rows_at: Path, fold: int, plan: Plan, start: Path | None, seconds: float
) -> None:
    """Run a fold in this process; append each of its rows to the file that all folds share."""
    logging.basicConfig(level=logging.INFO, format="gpu-check: %(message)s")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    weights = read_checkpoint(start).state_dict if start else None
    with rows_at.open("a", encoding="utf-8") as file:
        for row in run_fold(load(saved), fold, plan, weights, device, seconds):
            file.write(json.dumps(row) + "\n")
            file.flush()
