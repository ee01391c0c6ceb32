"""What a teacher is worth where few clips, or all, are labelled: networks alone and their student.

The teacher is an ensemble: several networks that learn the labelled clips, each with a seed of its
own, from the same start. Their mean logits over some random forms of each clip to train on,
labelled or not, are its soft labels. A student of the same start learns the soft labels of all
clips and the labels that there are. The networks `alone`, with which it is compared, learn the
labelled clips in as many steps. Where the teacher's networks are of the student's variant, they are
the students alone of the first seeds.

Each network is a row of rows.jsonl as soon as it is tested, with its logits in a file, and
result.json is the summary. The same command goes on where one was ended.

python -m dvfl_models.studies.few_labels runs/few --index ../shared/data/ucf10/index.csv --folds 5 \
    --plan '{"labels": 8, "start": "runs/bundled.pth"}'
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import threading
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import active_children, get_context, parent_process
from pathlib import Path

import torch

from dvfl_models.network.checkpoint import read_checkpoint
from dvfl_models.studies.command import run_study
from dvfl_models.studies.frozen_stages import KeptTokens
from dvfl_models.studies.kept_clips import (
    Clips,
    RandomForms,
    draw_clips,
    load,
    read_clips,
    save,
)
from dvfl_models.studies.result_files import machine_and_date
from dvfl_models.studies.soft_labels import Experiment, Plan, Task, tasks_of
from dvfl_models.studies.students import ARMS, Row, grown_model, read_plan, summary
from dvfl_runtime.arguments import Parser, natural, whole
from dvfl_runtime.errors import RecipeError
from dvfl_runtime.files import write_json

log = logging.getLogger(__name__)

NAME = "few_labels"
_EXPERIMENT: list[Experiment] = []  # of a process that trains


def _begin(folder: Path, plan: Plan) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if not torch.cuda.is_available():
        torch.set_num_threads(1)
    _EXPERIMENT.append(Experiment(folder, load(folder / "clips.pt"), plan))


def _end_with_parent() -> None:
    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _run(task: Task) -> Row:
    return _EXPERIMENT[0].run(task)


def run_tasks(folder: Path, plan: Plan, tasks: list[Task], jobs: int) -> None:
    """Train networks in processes; write each one's row when it is tested."""
    with (
        ProcessPoolExecutor(jobs, get_context("spawn"), _begin, (folder, plan)) as pool,
        (folder / "rows.jsonl").open("a", encoding="utf-8") as file,
    ):
        for number, future in enumerate([pool.submit(_run, task) for task in tasks], 1):
            try:
                row = future.result()
            except BaseException:  # others would wait for its network for ever
                pool.shutdown(wait=False, cancel_futures=True)
                for child in active_children():
                    child.terminate()
                raise
            file.write(json.dumps(row) + "\n")
            file.flush()
            log.info(
                "%d of %d: fold %d, %s, seed %d: %.1f %% (its labelled clips %.1f %%) in %.0f s",
                *(number, len(tasks), row["fold"], row["arm"], row["seed"]),
                *(100 * row["accuracy"], 100 * row["labelled_accuracy"], row["seconds"]),
            )


def read_rows(folder: Path) -> list[Row]:
    """Return the rows of networks that are trained, none if there are none."""
    path = folder / "rows.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    rows = [json.loads(line) for line in lines]
    # two commands that share a folder may both have trained a network; its results are the same
    return [*{(row["fold"], row["arm"], row["seed"]): row for row in rows}.values()]


def write_result(folder: Path, clips: Clips, plan: Plan, path: Path, about: Row) -> Row:
    """Write the rows, those of the teachers too, and what they come to; return it."""
    experiment = Experiment(folder, clips, plan)
    rows = read_rows(folder)
    teachers = [experiment.teacher_row(fold) for fold in sorted({row["fold"] for row in rows})]
    rows += [row for row in teachers if row is not None]
    rows.sort(key=lambda row: (row["fold"], row["arm"], row["seed"]))
    found = {**about, "plan": plan.model_dump(exclude={"start"}), "clips": len(clips.classes),
             "groups": len(set(clips.groups)), "summary": summary(rows, clips),
             "rows": rows}  # fmt: skip
    write_json(path, {**found, **machine_and_date()})
    return found


def _open(args: argparse.Namespace, plan: Plan) -> Clips:
    """Return the clips, which are kept in the folder for the next time."""
    about = {"plan": plan.model_dump(), "index": str(args.index), "group": args.group,
             "folds": args.folds, "rendered": args.rendered}  # fmt: skip
    args.out.mkdir(parents=True, exist_ok=True)
    kept, path = args.out / "plan.json", args.out / "clips.pt"
    if kept.exists() and json.loads(kept.read_text(encoding="utf-8")) != json.loads(
        json.dumps(about)
    ):
        raise RecipeError(
            f"{args.out} holds an experiment of other settings; choose another folder"
        )
    if not path.exists():
        if args.rendered:
            clips = draw_clips(args.rendered[0], args.rendered[1], args.rendered[2])
        else:
            given = args.folds == 0
            clips = read_clips(args.index, args.folds, group=args.group, given=given)
        save(clips, path)
    clips = load(path)
    if plan.frozen and not (args.out / "tokens.pt").exists():
        _keep_tokens(args.out / "tokens.pt", clips, plan)
    write_json(kept, about)
    return clips


def _keep_tokens(path: Path, clips: Clips, plan: Plan) -> None:
    if not plan.start or plan.teacher != plan.student:
        raise RecipeError("frozen stages need a start, and teachers of the student's variant")
    start = read_checkpoint(plan.start).state_dict
    model = grown_model(plan.student, 1, start, 0.0)
    forms = RandomForms(clips, torch.device("cpu"), int(clips.classes.max()) + 1, crop=plan.crop)
    part = path.with_suffix(".part")
    KeptTokens.write(model, plan.frozen, clips, forms, plan.kept_forms, part)
    part.replace(path)


def main(argv: list[str] | None = None) -> int:
    """Run the command; return the exit status."""
    parser = Parser(
        prog=f"python -m dvfl_models.studies.{NAME}",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("out", type=Path, help="folder of the rows")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--index", type=Path, help="CSV of labelled videos")
    source.add_argument(
        "--rendered", type=whole, nargs=3, metavar=("TRAIN", "TEST", "PX"), help="hard scenes"
    )
    parser.add_argument("--group", default="group", help="column of what videos have in common")
    parser.add_argument("--folds", type=natural, default=0, help="by group; 0: the list's split")
    parser.add_argument("--only", nargs="+", type=whole, help="folds to run now (default: all)")
    parser.add_argument("--arms", nargs="+", choices=[*ARMS][1:], default=["kl_more"])
    parser.add_argument("--seeds", nargs="+", type=natural, default=[0])
    parser.add_argument("--jobs", type=whole, default=1, help="processes that train")
    parser.add_argument("--plan", default="{}", help="changed values, JSON")
    parser.add_argument("--json", type=Path, help="default: result.json in the folder")
    args = parser.parse_args(argv)

    def study() -> None:
        plan = read_plan(Plan, args.plan)
        clips = _open(args, plan)
        folds = args.only or ([*range(1, args.folds + 1)] if args.folds else [0])
        if args.only and max(args.only) > args.folds:
            raise RecipeError(f"--only {max(args.only)}: there are {args.folds} folds")
        tasks = tasks_of(plan, folds, args.arms, args.seeds, read_rows(args.out))
        if tasks:
            run_tasks(args.out, plan, tasks, args.jobs)
        about = {"part": NAME, "data": args.rendered or args.index.parent.name}
        path = args.json or args.out / "result.json"
        found = write_result(args.out, clips, plan, path, about)
        log.info("%s", json.dumps(found["summary"], indent=1))

    return run_study(NAME, study)


if __name__ == "__main__":
    sys.exit(main())
