"""The command `dvfl-export`.

PyTorch is loaded when the command line has been read and, for TensorRT, a GPU has been found.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dvfl_models.training.command import PACKAGES, new_parser, run_interruptible
from dvfl_runtime.arguments import Parser
from dvfl_runtime.clips.spec import ClipSpec
from dvfl_runtime.console.terminal import StandardOutput
from dvfl_runtime.engines.cuda import cuda_problem
from dvfl_runtime.errors import DvflError
from dvfl_runtime.files import check_places
from dvfl_runtime.recognizer import BUNDLED_MODEL

if TYPE_CHECKING:
    from dvfl_export.pipeline import Exported
    from dvfl_export.verify import Verification
    from dvfl_runtime.artifact import Artifact

EPILOG = """\
examples:
  dvfl-export runs/mine/final.pth -o mine.onnx
        a checkpoint of dvfl-train knows its variant, labels and clips
  dvfl-export ckpt_ucf101.pth -o ucf101.onnx --labels ucf101
        an official checkpoint: the variant is recognised by the weights' shapes
  dvfl-export student.pth -o student.onnx --labels names.txt --verify videos/
        verify against PyTorch on your own videos
  dvfl-export student.pth -o student_fp16.onnx --precision fp16
        for GPUs: TensorRT computes in the types that the file names
  dvfl-export student.pth -o student_int8.onnx --precision int8 --calibration videos/
        measures what each layer loses in int8 (--report has all), keeps the worst in fp32
  dvfl-export student.pth -o student.onnx --compress
        half the bytes: weights stored as float16, the arithmetic stays float32
  dvfl-export student.pth -o student.onnx --target tensorrt
        on the device itself: also build the TensorRT plan and compare it with ONNX Runtime
  dvfl-export student.onnx -o student.pth
        the way back: a checkpoint to train on from; 'bundled' is the bundled model

exit status: 0 written; 2 bad input; 3 the graph does not agree with PyTorch, nothing written
"""


def parser() -> Parser:
    """Return the parser of `dvfl-export`."""
    out = new_parser(
        "dvfl-export",
        "Write a checkpoint as one self-describing .onnx file, checked against PyTorch on clips "
        "before it is put in place.",
        EPILOG,
    )
    out.packages = (*PACKAGES, "onnx", "onnxscript", "onnxruntime")
    out.add_argument("checkpoint", type=Path, help="a .pth file: official, plain or of dvfl-train")
    out.add_argument(
        "-o", "--output", type=Path, required=True, metavar="FILE", help="a .onnx file (or .pth)"
    )
    out.add_argument(
        "--variant", default="", help="such as nano; the weights tell it where it is one of ours"
    )
    out.add_argument(
        "--labels",
        default="",
        help="names of the classes, where the checkpoint has none: a file with one on each line, "
        "or ucf50, ucf101, hmdb51, kinetics400, ssv2",
    )
    out.add_argument("--num-frames", type=int, help="pictures of a clip")
    out.add_argument("--size", type=int, nargs=2, metavar=("H", "W"), help="picture size, px")
    out.add_argument("--window-s", type=float, help="seconds that a clip spans in a stream")
    out.add_argument(
        "--target",
        choices=("onnx", "tensorrt"),
        default="onnx",
        help="onnx (default); tensorrt: on the device, also build its plan, keep it where the "
        "runtime looks for it and verify it; not yet run on a GPU",
    )
    _add_precision(out)
    out.add_argument("--ops", type=_removed_ops, help=argparse.SUPPRESS)
    out.add_argument(
        "--verify",
        type=Path,
        nargs="+",
        default=[],
        metavar="CLIPS",
        help="videos or folders to compare the file with PyTorch on (default: ten drawn clips)",
    )
    _add_confidence(out)
    out.add_argument(
        "--report",
        type=Path,
        metavar="FILE.json",
        help="write what the verification found, even if it fails",
    )
    return out


def _add_confidence(out: argparse.ArgumentParser) -> None:
    out.add_argument(
        "--held-back",
        type=Path,
        metavar="CLIPS",
        help="labelled videos that the model was not trained on, a folder per class or an index: "
        "the file's confidence is calibrated on them; or the folder of a cross-validation",
    )
    out.add_argument(
        "--negatives",
        type=Path,
        nargs="+",
        default=[],
        metavar="VIDEOS",
        help="with --held-back: videos or folders without any of the actions, from which the "
        "file learns what to call unknown. Take others for --negatives of dvfl-eval, which "
        "measures on them",
    )
    out.add_argument(
        "--measured",
        type=Path,
        metavar="RESULT.json",
        help="what dvfl-eval wrote with --json: accuracy and false alarms per hour go into the "
        "file's description",
    )


def _removed_ops(_value: str) -> str:
    """Refuse the option of earlier versions that chose between two forms of the graph."""
    raise argparse.ArgumentTypeError(
        "it was removed: every file has the fused operators and runs in every engine; leave it out"
    )


def _add_precision(out: argparse.ArgumentParser) -> None:
    out.add_argument(
        "--precision",
        choices=("fp32", "fp16", "int8"),
        default="fp32",
        help="fp32 (default); fp16: weights and activations in float16, for GPUs; int8: products "
        "and convolutions in int8, but for layers that lose too much; needs --calibration (bf16 is "
        "for running a file in fp32: --precision bf16 of dvfl-recognize)",
    )
    out.add_argument(
        "--calibration",
        type=Path,
        nargs="+",
        default=[],
        metavar="CLIPS",
        help="for int8: videos or folders of what the model will see, which give at least 64 "
        "clips; a quarter of the videos is held back to verify with",
    )
    out.add_argument(
        "--compress",
        action="store_true",
        help="store large weights as float16; verified with the thresholds of fp16",
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    command = parser()
    args = command.parse_args(argv)

    def work() -> int:
        _check(args)
        from dvfl_export.verify import VerificationFailed

        try:
            _restore(args) if args.output.suffix == ".pth" else _export(args)
        except VerificationFailed as err:
            print(f"dvfl-export: failed: {err}", file=sys.stderr)
            return 3
        return 0

    return run_interruptible(command, work, "stopped, nothing written")


def _check(args: argparse.Namespace) -> None:
    """Raise DvflError for everything that can be checked before PyTorch is loaded."""
    outputs = [("-o", args.output), ("--report", args.report)]
    check_places(outputs, [("the checkpoint", args.checkpoint)])
    if args.output.suffix == ".pth":
        return
    if args.output.suffix != ".onnx":
        raise DvflError(f"-o must end in .onnx (or .pth), got {args.output}")
    if args.target == "tensorrt" and (problem := cuda_problem()):
        raise DvflError(
            f"--target tensorrt builds on the device and needs its NVIDIA GPU: {problem}; "
            "leave it out, and the .onnx file builds its plan where it first runs"
        )


def _export(args: argparse.Namespace) -> None:
    """Write the model file of a checkpoint, and print a summary."""
    from dvfl_export.pipeline import ExportRequest, export, progress_bar

    request = ExportRequest(
        checkpoint=args.checkpoint,
        output=args.output,
        variant=args.variant,
        labels=args.labels,
        spec=_changed_spec(args),
        clips=tuple(args.verify),
        report=args.report,
        precision=args.precision,
        calibration=tuple(args.calibration),
        compress=args.compress,
        target=args.target,
        held_back=args.held_back,
        negatives=tuple(args.negatives),
        measured=args.measured,
    )
    with progress_bar(request) as (step, share):
        exported = export(request, step, share)
    _print_summary(exported, args.output)


def _restore(args: argparse.Namespace) -> None:
    """Write the checkpoint of a model file, and print how well it agrees with the file."""
    defaults = vars(parser().parse_args([str(args.checkpoint), "-o", str(args.output)]))
    if changed := [name for name, value in vars(args).items() if value != defaults[name]]:
        raise DvflError(
            f"--{changed[0].replace('_', '-')} says nothing of a .pth file; leave it out"
        )
    from dvfl_export.deploy.unfolding import restore_checkpoint

    source, output = args.checkpoint, args.output
    model = BUNDLED_MODEL if source == Path("bundled") else source
    artifact, verification = restore_checkpoint(model, output)
    out = StandardOutput()
    print(f"wrote {output}\n  {'model':12} {_model_line(artifact)}", file=out)
    print(f"agrees with {source} on {verification.clips} clips\n{verification.table()}", file=out)


def _changed_spec(args: argparse.Namespace) -> ClipSpec | None:
    """Return the spec of the checkpoint with the command line's changes; `None` without any."""
    changes = {
        "num_frames": args.num_frames,
        "size": tuple(args.size) if args.size else None,
        "window_s": args.window_s,
    }
    changes = {name: value for name, value in changes.items() if value is not None}
    if not changes:
        return None
    from dvfl_models.network.checkpoint import read_checkpoint
    from dvfl_models.recipe.labels import spec_of

    spec = spec_of(read_checkpoint(args.checkpoint))
    # the crop keeps its share of the resized picture
    if "size" in changes and spec.crop == "center":
        assert spec.resize is not None
        ratio = max(changes["size"]) / max(spec.size)
        changes["resize"] = round(spec.resize * ratio)
    try:
        return dataclasses.replace(spec, **changes)
    except ValueError as err:
        raise DvflError(str(err)) from err


def _model_line(artifact: Artifact) -> str:
    height, width = artifact.spec.size
    frames = artifact.spec.num_frames
    return f"{artifact.variant}, {len(artifact.labels)} classes, {frames}x{height}x{width}"


def _print_summary(exported: Exported, output: Path) -> None:
    artifact, verification = exported.artifact, exported.verification
    rows = {
        "file": f"{exported.size_bytes / 1e6:.1f} MB, opset {exported.opset}",
        "model": _model_line(artifact),
        "precision": artifact.precision,
        "MACs": f"{exported.artifact.macs / 1e9:.2f} G per clip",
        "ms per clip": ", ".join(f"{name} {ms:.1f}" for name, ms in exported.median_ms.items())
        + " (median on this machine)",
    }
    if (calibration := artifact.confidence_calibration) is not None:
        from dvfl_export.confidence.calibrating import in_words

        rows["confidence"] = in_words(calibration)
    if exported.sensitivity is not None:
        rows["precision"] += f", {exported.sensitivity.summary()}"
    if exported.gain is not None:
        kept = min(row.top1 for row in verification.engines)
        rows["int8 gained"] = f"{exported.gain.summary()}; same winner on {kept:.1%} of the clips"
        if warning := exported.gain.warning():
            print(f"dvfl-export: warning: {warning}", file=sys.stderr)
    out = StandardOutput()
    print(f"wrote {output}", file=out)
    for name, value in rows.items():
        print(f"  {name:12} {value}", file=out)
    print(f"agrees with PyTorch on {verification.clips} clips\n{verification.table()}", file=out)
    if exported.bf16 is not None:
        print(_in_bf16(exported.bf16), file=out)
    for name, why in verification.skipped.items():
        print(f"not verified in {name}: {why}", file=out)


def _in_bf16(found: Verification) -> str:
    """Return a line for each engine that computes the file in bf16: whether that is good enough."""
    limits = (
        f"the limits of fp16 ({found.threshold.max_difference:.0e}, {found.threshold.top1:.0%})"
    )
    lines = []
    for row in found.engines:
        verdict = f"within {limits}"
        if not row.passed:
            verdict = f"beyond {limits}; dvfl-eval --precision bf16 measures what that costs"
        differs = f"|difference| {row.max_difference:.1e}, top-1 {row.top1:.1%}"
        lines.append(f"in bf16 on {row.engine}: {differs}, {verdict}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
