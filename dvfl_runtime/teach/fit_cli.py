"""dvfl-teach fit: a model file for your own actions from recorded clips."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from dvfl_runtime.arguments import Parser, threads
from dvfl_runtime.artifact.calibration import MIN_CLIPS
from dvfl_runtime.clips.labelled import IDLE
from dvfl_runtime.clips.spec import Focus
from dvfl_runtime.engines import DEVICES, ENGINES
from dvfl_runtime.errors import DvflError
from dvfl_runtime.errors.packages import MEDIA, check_installed
from dvfl_runtime.files import check_places
from dvfl_runtime.interrupts import Requests
from dvfl_runtime.recognizer import BUNDLED_MODEL

if TYPE_CHECKING:
    from dvfl_runtime.teach.teaching import Taught

DESCRIPTION = """\
Learn the actions in FOLDER and write a model file that every engine runs.

FOLDER has a folder of clips for each action; about twelve clips of each, from several persons or
places, are a good start. What is held back to measure the accuracy is a whole group of clips that
belong together: by the column `group` of an index.csv (file,label,group), or by the beginning of
the file names (anna_01.mp4, anna_02.mp4, ben_01.mp4), or by folders of persons in those of actions.
Two kinds of features are tried: what the network sees, and how things move, which tells gestures
of a hand best; the kind that does better on what is held back is taken. The features of a clip are
kept in the cache: another run takes seconds.
"""
EXAMPLES = """\
examples:
  dvfl-teach fit clips -o mine.onnx
  dvfl-teach fit clips -o mine.onnx --negatives street/      street/ becomes the class idle
  dvfl-teach fit clips/index.csv -o mine.onnx --confusion confusion.png
  dvfl-teach fit clips -o mine.onnx --model kinetics_nano.onnx      on the features of this file
"""


def add_command(commands: Any) -> None:
    """Add the command to the subcommands of dvfl-teach."""
    parser: Parser = commands.add_parser(
        "fit",
        help="learn the actions in a folder and write a model file",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.packages = ("onnx", *MEDIA)
    parser.set_defaults(work=_work, parser=parser)
    add = parser.add_argument
    add("place", metavar="FOLDER", type=Path, help="a folder of clips per action, or an index.csv")
    add("-o", "--output", metavar="FILE", type=Path, required=True, help="the .onnx file to write")
    add(
        "--model",
        metavar="M",
        type=Path,
        default=BUNDLED_MODEL,
        help="whose features serve: any file of dvfl-export, in any precision; default: the "
        "bundled one",
    )
    add(
        "--negatives",
        metavar="FOLDER",
        type=Path,
        action="append",
        default=[],
        help="videos in which nothing in particular happens: they become clips of the action "
        "idle; may be given several times",
    )
    add(
        "--negative-label",
        metavar="NAME",
        default=IDLE,
        help=f"another name for that action; default: {IDLE}",
    )
    add("--focus", choices=get_args(Focus), help="what the model is shown; default: as --model")
    add("--name", default="", help="of the new model; default: that of the file")
    add("--confusion", metavar="FILE.png", type=Path, help="what was taken for what, as a picture")
    add("--engine", metavar="E", default="auto", help=f"auto (default), {', '.join(ENGINES)}")
    add("--device", metavar="D", default="auto", help=f"{', '.join(DEVICES)}")
    add("--threads", metavar="N", type=threads, help="CPU threads; default: all")


def _work(args: argparse.Namespace, _: Requests) -> int:
    """Teach, say what came of it, and return the exit status."""
    check_installed("teaching", "onnx", *MEDIA)
    from dvfl_runtime.teach.features import EngineChoice
    from dvfl_runtime.teach.teaching import TeachRequest, teach

    if args.output.suffix != ".onnx":
        raise DvflError(f"-o must end in .onnx, got {args.output}")
    check_places([("-o", args.output), ("--confusion", args.confusion)], [("--model", args.model)])
    request = TeachRequest(
        place=args.place,
        output=args.output,
        model=args.model,
        negatives=tuple(args.negatives),
        negative_label=args.negative_label,
        focus=args.focus,
        name=args.name,
        engine=EngineChoice(args.engine, args.device, args.threads),
    )
    taught = teach(request)
    if args.confusion:
        from dvfl_runtime.teach.picture import save_answers

        save_answers(taught.answers, args.confusion, f"{args.output.stem}: clips left out")
    _print(taught, args.output)
    return 0


def _print(taught: Taught, output: Path) -> None:
    found, groups = taught.found, len({video.group for video in taught.found.videos})
    of = f" of {groups} groups (by {found.grouped_by})" if found.grouped_by else ""
    print(f"{len(found.labels)} actions from {len(found.videos)} clips{of}")
    if IDLE not in found.labels:
        print(
            "no action is called idle, so other movements may be taken for these; record some, or "
            "pass --negatives FOLDER"
        )
    if taught.answers.clips:
        left_out = "groups" if found.grouped_by else "clips"
        print(f"accuracy on {left_out} that were left out in turn: {taught.answers.summary()}")
    else:
        print("accuracy: not measured, because there is nothing to leave out")
    if pair := taught.answers.most_confused():
        print(f"most confused: {pair[0]} and {pair[1]}, {pair[2]} clip{'s' * (pair[2] > 1)}")
    print(_features_in_words(taught))
    print(_confidence_in_words(taught))
    checked = taught.artifact.parity["head"]
    print(f"wrote {output}; {checked['engine']} gives what was taught on {checked['clips']} clips")
    print(f"try it: dvfl-recognize 0 --model {output}")


def _features_in_words(taught: Taught) -> str:
    """Tell what was learnt from, and how good the other features would have been."""
    from dvfl_runtime.teach.motion import FEATURES
    from dvfl_runtime.teach.motion import NAME as MOTION

    by_motion = taught.artifact.features == FEATURES
    mine = "how things move" if by_motion else "what the network sees"
    others = [
        f"from {'how things move' if name == MOTION else 'what the network sees'}: "
        f"{answers.accuracy:.1%}"
        for name, answers in taught.others.items()
        if answers.clips
    ]
    return "; ".join([f"learnt from {mine}", *others])


def _confidence_in_words(taught: Taught) -> str:
    found = taught.artifact.confidence_calibration
    if found is None:
        return (
            f"confidence: not calibrated, and nothing is called unknown: it takes {MIN_CLIPS} "
            f"clips that can be left out, and there are {taught.answers.clips}"
        )
    report = found.report
    return (
        f"confidence: {report['ece_after']:.1%} off on average, {report['ece_before']:.1%} before "
        f"it was calibrated\n"
        f"unknown: what is unlike all of these clips; of the clips left out "
        f"{1 - report['kept']:.1%} of the windows are"
    )
