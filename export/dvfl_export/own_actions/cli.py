"""The command `dvfl-train`: folders of clips are trained on here, recipes by `dvfl_models`.

PyTorch and ONNX are loaded after the command line has been read; recipes need no ONNX.
"""

from __future__ import annotations

import argparse
import logging
import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dvfl_models.recipe.bundled import recipe_names
from dvfl_models.training import cli as recipes
from dvfl_models.training.command import load_torch, run_interruptible
from dvfl_runtime.arguments import Parser, at_least
from dvfl_runtime.artifact.calibration import MIN_CLIPS
from dvfl_runtime.clips.labelled import IDLE
from dvfl_runtime.console.terminal import StandardOutput
from dvfl_runtime.errors import DvflError
from dvfl_runtime.files import check_places
from dvfl_runtime.recognizer import BUNDLED_MODEL

if TYPE_CHECKING:
    from dvfl_export.own_actions.making import Made

EPILOG = """\
examples:
  dvfl-train clips -o mine.onnx
        your own actions: clips/wave/anna_01.mp4, clips/wave/ben_01.mp4, clips/fall/anna_01.mp4 ...
        Begin the names with the person or place, then the accuracy is that on other ones. Ten
        clips or more of each action; as long as the action, about 1 to 6 s
  dvfl-train clips/index.csv -o mine.onnx
        the same with a CSV: file,label and, if you know it, group (or person, sequence)
  dvfl-train clips -o mine.onnx --negatives street/ --minutes 10
        videos of nothing in particular become the class 'idle'; ten minutes at most
  dvfl-train clips -o mine.onnx --precision int8
        calibrated on the same clips
  dvfl-recognize 0 --model mine.onnx
"""
FOLDERS = ("output", "model", "negatives", "minutes", "precision")  # options for clips alone


def parser() -> Parser:
    """Return the parser of `dvfl-train`."""
    out = recipes.parser()
    out.description = (
        "Learn your own actions from a folder of videos per class and write a verified .onnx file, "
        "or train a Video-FocalNet from a TOML recipe."
    )
    out.epilog = EPILOG + str(out.epilog).removeprefix("examples:\n")
    for action in out._actions:
        if action.dest == "recipe":
            action.metavar = "FOLDER|INDEX.csv|RECIPE"
            action.help = (
                "a folder with a folder of videos per class, or a CSV; or the name of a bundled "
                "recipe, or a .toml file"
            )
    own = out.add_argument_group("with a folder of clips or an index")
    own.add_argument("-o", "--output", type=Path, metavar="FILE.onnx", help="the file to write")
    own.add_argument(
        "--model",
        type=Path,
        metavar="FILE",
        help="where to start: a .onnx file in fp32, or a checkpoint (default: the bundled model)",
    )
    own.add_argument(
        "--negatives",
        type=Path,
        nargs="+",
        metavar="CLIPS",
        help="videos or folders in which nothing in particular happens: they become clips of the "
        f"action {IDLE!r}",
    )
    own.add_argument(
        "--minutes", type=at_least(0.5), metavar="M", help="bound of the whole work (default: none)"
    )
    own.add_argument(
        "--precision",
        choices=("fp32", "fp16", "int8"),
        help="of the file (default: fp32); int8 is calibrated on the clips, fp16 is for GPUs",
    )
    return out


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    began_s = time.monotonic()
    command = parser()
    args = command.parse_args(argv)
    try:
        own = _is_own_clips(args)
    except DvflError as err:
        return command.fail(err)
    if not own:
        return recipes.main(argv)
    command.packages = (*command.packages, "onnx", "onnxscript", "onnxruntime")
    for name in ("dvfl_export.own_actions", "dvfl_models.training.metrics"):
        logging.getLogger(name).setLevel(logging.INFO)

    def work() -> int:
        _check(args)
        load_torch(command, args.threads)
        from dvfl_export.verify import VerificationFailed

        try:
            return _make(args, began_s)
        except VerificationFailed as err:
            print(f"dvfl-train: failed: {err}", file=sys.stderr)
            return 3

    return run_interruptible(command, work, "stopped, nothing written")


def _is_own_clips(args: argparse.Namespace) -> bool:
    """Return whether clips are named, not a recipe.

    Raises:
        DvflError: if both may be meant, or the options are of the other one.
    """
    name = args.recipe
    place = Path(name)
    if place.is_dir() and name in recipe_names():
        raise DvflError(
            f"{name!r} is a bundled recipe and a folder here; write ./{name} for the folder, or "
            f"train the recipe from elsewhere"
        )
    if place.is_dir() or place.suffix.lower() == ".csv":
        return True
    given = [option for option in FOLDERS if getattr(args, option) is not None]
    if not given:
        return False
    option = "-o" if given[0] == "output" else f"--{given[0]}"
    if name in recipe_names() or place.suffix == ".toml":
        raise DvflError(
            f"{option} is for a folder of clips, and {name} is a recipe, whose results are in "
            f"--out; leave it out, or write ./{name} if you mean a folder"
        )
    what = f"{name} is a file" if place.is_file() else f"there is no folder {name}"
    raise DvflError(f"{what}; give a folder with a folder of videos per class, or a .csv")


def _check(args: argparse.Namespace) -> None:
    """Raise DvflError for what can be checked before PyTorch is loaded."""
    if args.output is None:
        raise DvflError(f"{args.recipe} is a folder of clips; say where to write: -o FILE.onnx")
    if args.output.suffix != ".onnx":
        raise DvflError(f"-o must end in .onnx, got {args.output}")
    if args.strict_split:
        raise DvflError("--strict-split is for recipes; clips are always divided by their groups")
    inputs = [("the clips", args.recipe)] + ([("--model", args.model)] if args.model else [])
    check_places([("-o", args.output)], inputs)


def _make(args: argparse.Namespace, began_s: float) -> int:
    """Train, write the file, and print what has become of it."""
    from dvfl_export.own_actions.making import OwnActions, make
    from dvfl_models.training.launch import TrainOptions

    spent = (time.monotonic() - began_s) / 60
    wanted = OwnActions(
        place=Path(args.recipe),
        output=args.output,
        model=args.model or BUNDLED_MODEL,
        negatives=tuple(args.negatives or ()),
        folder=args.out or _folder(args.output.stem, resume=args.resume),
        precision=args.precision or "fp32",
        minutes=math.inf if args.minutes is None else args.minutes - spent,
        settings=tuple(args.set),
        workers=args.workers,
        options=TrainOptions(args.resume, cpu=args.cpu, tensorboard=args.tensorboard),
    )
    made = make(wanted)
    out = StandardOutput()
    for line in _last_lines(made, wanted.folder, wanted.output):
        print(line, file=out)
    if made.stopped is not None and made.stopped.number:
        raise made.stopped
    return 0


def _folder(name: str, *, resume: bool) -> Path:
    """Return runs/NAME, or the first of runs/NAME-2, runs/NAME-3 ... that is free.

    To resume, it is the last one that is not free.
    """
    folder, number = Path("runs") / name, 1
    while folder.exists():
        last, number = folder, number + 1
        folder = Path("runs") / f"{name}-{number}"
        if resume and not folder.exists():
            return last
    return folder


def _last_lines(made: Made, folder: Path, output: Path) -> list[str]:
    """Return the accuracy, the two classes most confused, the confidence, and the file."""
    from dvfl_export.confidence.calibrating import in_words

    lines, confusion = [], made.confusion
    if confusion is None:
        lines.append("accuracy not measured: no clips could be held back")
    else:
        low, high = confusion.report()["top1"]["ci95"]
        then = "then trained on all clips" if made.on_all else "trained on the others alone"
        lines.append(
            f"accuracy {confusion.accuracy:.1%} on {confusion.clips} clips held back "
            f"(95 % interval {low:.1%} to {high:.1%}); {then}"
        )
        pair, picture = confusion.most_confused(), folder / "confusion.png"
        confused = "no clip was confused"
        if pair is not None:
            first, second, times = pair
            confused = f"most confused: {first} and {second}, {times} clip{'s' * (times > 1)}"
        lines.append(f"{confused} ({picture})")
    exported = made.exported
    if calibration := exported.artifact.confidence_calibration:
        lines.append(f"confidence: {in_words(calibration)}")
    else:
        held = 0 if confusion is None else confusion.clips
        lines.append(
            f"confidence: not calibrated, because {held} clips are held back and it takes "
            f"{MIN_CLIPS}"
        )
    lines.append(
        f"wrote {output}: {exported.size_bytes / 1e6:.1f} MB, {exported.artifact.precision}, "
        f"verified on {exported.verification.clips} clips; the run is in {folder}"
    )
    return lines


if __name__ == "__main__":
    sys.exit(main())
