"""The command `dvfl-eval`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dvfl_models.recipe.bundled import recipe_names
from dvfl_models.training.command import load_torch, new_recipe_parser, run_interruptible
from dvfl_runtime.arguments import Parser
from dvfl_runtime.clips.evaluation import Views
from dvfl_runtime.console.terminal import StandardOutput
from dvfl_runtime.engines import DEVICES, PRECISIONS
from dvfl_runtime.errors import DvflError, RecipeError
from dvfl_runtime.files import check_places, write_json
from dvfl_runtime.version import __version__

if TYPE_CHECKING:
    from dvfl_export.evaluation import Candidate
    from dvfl_models.data.clips import ClipSet
    from dvfl_models.recipe.recipe import Recipe
    from dvfl_models.recipe.tables import DataTable
    from dvfl_models.training.confusion import Confusion

EPILOG = """\
examples:
  dvfl-eval runs/ucf101_student/final.pth ucf101_student --views 4x3 --json result.json
        the test sets of a recipe, by the published protocol: 4 clips x 3 crops
  dvfl-eval model.onnx videos/index.csv
        an exported file on a CSV with columns file and label, beside the videos
  dvfl-eval model.onnx videos/
        a folder with a folder of videos per class
  dvfl-eval model.onnx videos/index.csv --negatives hours/ --alarms alarms.png
        how many false alarms an hour it raises on videos that show none of its actions, beside how
        many of the actions it finds, for each threshold
  dvfl-eval official.pth testlist01.txt --format ucf --root UCF-101 --labels ucf101
        an official checkpoint on an official list
  dvfl-eval model.onnx videos/index.csv --corruptions sheet.png
        the same videos darker, noisy, shaken, blurred, compressed ...
"""


def parser() -> Parser:
    """Return the parser of `dvfl-eval`."""
    description = "Accuracy of a checkpoint or of an exported file, with 95 % intervals."
    # an engine is needed for .onnx files alone
    out = new_recipe_parser("dvfl-eval", description, EPILOG)
    out.add_argument("model", type=Path, metavar="CHECKPOINT|FILE.onnx")
    out.add_argument("dataset", metavar="DATASET", help="a list, a folder, or a recipe's test sets")
    out.add_argument(
        "--views",
        default="1",
        help="4x3: 4 clips x 3 crops of a video; windows: up to 16 windows all over it (default 1)",
    )
    out.add_argument("--json", type=Path, metavar="FILE", help="write the results")
    out.add_argument("--confusion", type=Path, metavar="FILE.png", help="draw the confusion matrix")
    out.add_argument(
        "--corruptions",
        type=Path,
        metavar="FILE.png",
        help="also evaluate them darker, noisy, shaken, blurred, compressed ..., and draw it",
    )
    out.add_argument(
        "--format",
        help="index (a CSV; default), folders (default for a folder without index.csv), list, "
        "paths, ucf, hmdb, kinetics, ssv2",
    )
    out.add_argument("--root", default="", help="folder of the videos (default: that of the list)")
    out.add_argument("--split", type=int, default=1, help="number of a split (hmdb)")
    out.add_argument("--labels", default="", help="as in dvfl-export, for a checkpoint")
    out.add_argument(
        "--negatives",
        type=Path,
        nargs="+",
        default=[],
        metavar="VIDEOS",
        help="count false alarms per hour on these: videos without the actions, of 5 s or more, "
        "or folders of them; a CSV with columns file and scene joins clips of one scene. Take "
        "others than for --negatives of dvfl-export, which learns from them",
    )
    out.add_argument("--alarms", type=Path, metavar="FILE.png", help="draw the false alarms")
    out.add_argument("--engine", default="auto", help="engine for a .onnx file")
    out.add_argument("--device", choices=DEVICES, default="auto", help="for a .onnx file")
    out.add_argument(
        "--precision",
        choices=PRECISIONS,
        default="file",
        help="of a .onnx file in fp32: bf16 on a CPU with AVX512_BF16 or AMX, by openvino",
    )
    return out


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    command = parser()
    args = command.parse_args(argv)

    def work() -> int:
        _check_model_options(command, args)
        load_torch(command, args.threads)
        outputs = [
            (f"--{name}", getattr(args, name))
            for name in ("json", "confusion", "alarms", "corruptions")
        ]
        check_places(outputs, [("the model", args.model), ("the data set", args.dataset)])
        _evaluate(args)
        return 0

    return run_interruptible(command, work, "stopped")


def _check_model_options(command: Parser, args: argparse.Namespace) -> None:
    """Raise DvflError where an option of an exported file is given for a checkpoint."""
    for name, value in _engine_options(args).items():
        if args.model.suffix != ".onnx" and value != command.get_default(name):
            raise DvflError(
                f"--{name} {value} is for a .onnx file, and {args.model} is none; leave it out, or "
                f"export the checkpoint"
            )
    if absent := [place for place in args.negatives if not place.exists()]:
        raise DvflError(f"--negatives: there is no {absent[0]}; give videos or folders of them")
    if args.alarms and not args.negatives:
        raise DvflError("--alarms draws the false alarms on --negatives VIDEOS; pass both")


def _engine_options(args: argparse.Namespace) -> dict[str, Any]:
    """Return what was asked of the engine of a .onnx file."""
    return {name: getattr(args, name) for name in ("engine", "device", "precision")}


def _evaluate(args: argparse.Namespace) -> None:
    from dvfl_export.evaluation import open_candidate

    views = Views.parse(args.views)
    with open_candidate(args.model, args.labels, **_engine_options(args)) as candidate:
        report = _evaluate_on_all(args, candidate, views)
        if args.negatives:
            report["false_alarms"] = _count_alarms(args, candidate)
    if args.json:
        write_json(args.json, report)


def _evaluate_on_all(
    args: argparse.Namespace, candidate: Candidate, views: Views
) -> dict[str, Any]:
    """Evaluate on every test set, print its table and draw it; return all, ready for JSON."""
    from dvfl_export.evaluation import evaluate_on
    from dvfl_models.data.leaks import leak_in_words, leaked_videos

    leaks = candidate.about["leaks"]
    tests: dict[str, Any] = {}
    out = StandardOutput()
    for clips in _test_sets(args, candidate):
        confusion, took_s = evaluate_on(candidate, clips, views, progress=sys.stderr.isatty())
        print(_table(clips.name, confusion, leak_in_words(leaks, clips.name)), file=out)
        tests[clips.name] = {
            **confusion.report(),
            "leaked": leaked_videos(leaks, clips.name),
            "seconds": round(took_s, 2),
            "labels": list(candidate.labels),
            "confusion_counts": confusion.counts.tolist(),
        }
        if args.confusion:
            place = _picture_of(args.confusion, clips.name, len(tests))
            confusion.save_png(place, confusion.title(clips.name))
        if args.corruptions:
            tests[clips.name]["corruptions"] = _under_corruptions(args, candidate, clips, views)
    return {
        "model": Path(candidate.name).name,
        **candidate.about,
        "dataset": args.dataset,
        "views": args.views,
        "spec": candidate.spec.to_dict(),
        "tests": tests,
        "version": __version__,
    }


def _count_alarms(args: argparse.Namespace, candidate: Candidate) -> dict[str, Any]:
    """Count false alarms per hour beside the actions found in the first test set of videos."""
    from dvfl_export.confidence.alarms import (
        alarm_curve,
        in_words,
        save_png,
        watch_clips,
        watch_negatives,
    )
    from dvfl_export.evaluation import recognizer_of
    from dvfl_models.data.video_clips import VideoClips
    from dvfl_runtime import Recognizer

    tests = [clips for clips in _test_sets(args, candidate) if isinstance(clips, VideoClips)]
    if not tests:
        raise RecipeError(f"--negatives needs videos of the actions, and {args.dataset} has none")
    progress = sys.stderr.isatty()
    with (
        Recognizer(args.model, **_engine_options(args))
        if args.model.suffix == ".onnx"
        else recognizer_of(candidate)
    ) as recognizer:
        negatives = watch_negatives(recognizer, args.negatives, progress=progress)
        positives = watch_clips(recognizer, tests[0], progress=progress)
    found = alarm_curve(candidate.labels, negatives, positives)
    print(in_words(found), file=StandardOutput())
    if args.alarms:
        save_png(found, args.alarms, f"{Path(candidate.name).name}, {tests[0].name}")
    return {"test": tests[0].name, **found}


def _under_corruptions(
    args: argparse.Namespace, candidate: Candidate, clips: ClipSet, views: Views
) -> list[dict[str, Any]]:
    """Print and draw the robustness sheet of a test set; return its rows."""
    from dvfl_export.robustness.sheet import measure, report, save_png, table
    from dvfl_models.data.video_clips import VideoClips

    if not isinstance(clips, VideoClips):
        raise RecipeError(
            f"--corruptions is for videos, and the test set {clips.name!r} is drawn; give an index "
            f"or a folder of videos"
        )
    found = measure(candidate, clips, views, progress=sys.stderr.isatty())
    print(table(clips.name, found), file=StandardOutput())
    save_png(found, args.corruptions, f"{clips.name}, {Path(candidate.name).name}")
    return report(found)


def _picture_of(path: Path, test: str, number: int) -> Path:
    """Return where the picture of a test set goes: the first to `path`, others beside it."""
    return path if number == 1 else path.with_name(f"{path.stem}_{test}{path.suffix}")


def _test_sets(args: argparse.Namespace, candidate: Candidate) -> list[ClipSet]:
    """Return the test sets, opened with the labels and the clip spec of the model."""
    import pydantic

    from dvfl_models.data.opening import open_clips
    from dvfl_models.recipe.recipe import read_recipe
    from dvfl_models.recipe.tables import VideosTable

    parts: tuple[DataTable, ...]
    if args.dataset in recipe_names() or args.dataset.endswith(".toml"):
        recipe = read_recipe(args.dataset, args.set)
        if recipe.labels != candidate.labels:
            raise RecipeError(
                f"recipe {recipe.name} has the classes {_first_of(recipe.labels)}, "
                f"{candidate.name} has {_first_of(candidate.labels)}"
            )
        parts = recipe.test
        if not parts:
            raise RecipeError(f"recipe {recipe.name} has no test set")
    else:
        form, index = _form_of(args.dataset, args.format)
        values = {"kind": "videos", "name": Path(args.dataset).stem, "index": index,
                  "format": form, "root": args.root, "split": args.split,
                  "subset": "test"}  # fmt: skip
        try:
            parts = (VideosTable.model_validate(values),)
        except pydantic.ValidationError as err:
            first = err.errors()[0]
            raise RecipeError(f"--{first['loc'][0]}: {first['msg']}") from err
    opened = _as_recipe(candidate, parts)
    return [open_clips(part, opened) for part in parts]


def _form_of(dataset: str, form: str | None) -> tuple[str, str]:
    """Return the format of a data set, and its list; a folder may have an index.csv, or folders."""
    place = Path(dataset)
    if form is not None or not place.is_dir():
        return form or "index", dataset
    index = place / "index.csv"
    return ("index", str(index)) if index.is_file() else ("folders", dataset)


def _as_recipe(candidate: Candidate, parts: Sequence[DataTable]) -> Recipe:
    """Return a recipe with the labels and the clip spec of the model, as `open_clips` needs it."""
    from dvfl_models.recipe.recipe import recipe_from

    spec = {name: value for name, value in candidate.spec.to_dict().items() if value is not None}
    values = {
        "name": "evaluation",
        "labels": candidate.labels,
        "model": {"variant": "nano"},
        "clip": spec,
        "train": [part.model_dump() for part in parts],
        "optim": {"steps": 1},
    }
    return recipe_from(values, "evaluation")


def _first_of(labels: Sequence[str]) -> str:
    return f"{list(labels[:5])}{' and more' if len(labels) > 5 else ''}"


def _table(name: str, confusion: Confusion, leak: str) -> str:
    """Return accuracies with their 95 % intervals, of all classes together and of each.

    Args:
        name: of the test set.
        confusion: of its clips.
        leak: what to say of clips that share their source with training, or "".
    """
    report = confusion.report()
    width = max(map(len, (*report["classes"], name)))
    left_out = f", {report['skipped']} left out" if report["skipped"] else ""
    lines = [f"{name}: {report['clips']} clips{leak}{left_out}"]
    rows = {key: report[key] for key in ("top1", "top5") if key in report} | report["classes"]
    for label, row in rows.items():
        if row["value"] is not None:
            low, high = row["ci95"]
            lines.append(
                f"  {label:{width}}  {row['value']:6.1%}  ({low:.1%} to {high:.1%})  "
                f"{row['clips']} clips"
            )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
