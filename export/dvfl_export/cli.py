"""The command `dvfl-export`."""

from __future__ import annotations

import argparse
import dataclasses
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from dvfl_export.deploy import CONTEXTS
from dvfl_export.export import Exported, ExportRequest, export
from dvfl_export.verify import VerificationFailed
from dvfl_models.checkpoint import read_checkpoint
from dvfl_models.labels import DATASETS
from dvfl_models.video_focalnet import VARIANTS
from dvfl_runtime.errors import DvflError
from dvfl_runtime.spec import ClipSpec
from dvfl_runtime.version import __version__

EPILOG = """\
examples:
  dvfl-export runs/mine/final.pth -o mine.onnx
        a checkpoint of dvfl-train knows its variant, labels and clips
  dvfl-export ckpt_ucf101.pth -o ucf101.onnx --labels ucf101
        an official checkpoint: the variant is recognised by the weights' shapes
  dvfl-export student.pth -o student.onnx --labels names.txt --verify videos/
        verify against PyTorch on your own videos

exit status: 0 written; 2 bad input; 3 the graph does not agree with PyTorch, nothing written
"""


def parser() -> argparse.ArgumentParser:
    """The command line of `dvfl-export`."""
    out = argparse.ArgumentParser(
        prog="dvfl-export",
        description="Write a checkpoint as one self-describing .onnx file, checked against PyTorch "
        "on clips before it is put in place.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    out.add_argument("checkpoint", type=Path, help="a .pth file: official, plain or of dvfl-train")
    out.add_argument("-o", "--output", type=Path, required=True, metavar="FILE.onnx")
    out.add_argument("--variant", default="", help=f"one of: {', '.join(VARIANTS)}")
    out.add_argument(
        "--labels", default="", help=f"a file of names, or one of: {', '.join(DATASETS)}"
    )
    out.add_argument("--num-frames", type=int, help="T of a clip")
    out.add_argument("--size", type=int, nargs=2, metavar=("H", "W"), help="picture size, px")
    out.add_argument("--window-s", type=float, help="span of a clip in a stream, seconds")
    out.add_argument(
        "--ops",
        choices=tuple(CONTEXTS),
        default="standard",
        help="standard (default): standard ONNX operators only, runs in every engine; fused: one "
        "node of domain dvfl per context aggregation, for kernels of your own; runs without them "
        "in ONNX Runtime, which expands the function in the file, but not in OpenVINO",
    )
    out.add_argument(
        "--verify", type=Path, nargs="+", default=[], metavar="CLIPS", help="videos or folders"
    )
    out.add_argument(
        "--report",
        type=Path,
        metavar="FILE.json",
        help="write what the verification found, even if it fails",
    )
    out.add_argument("--version", action="version", version=f"dvfl {__version__}")
    return out


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    args = parser().parse_args(argv)
    if args.output.suffix != ".onnx":
        print(f"dvfl-export: error: -o must end in .onnx, got {args.output}", file=sys.stderr)
        return 2
    started = time.perf_counter()

    def step(name: str) -> None:
        print(f"[{time.perf_counter() - started:6.1f} s] {name}", file=sys.stderr)

    try:
        request = ExportRequest(
            checkpoint=args.checkpoint,
            output=args.output,
            variant=args.variant,
            labels=args.labels,
            spec=_spec(args),
            clips=tuple(args.verify),
            ops=args.ops,
            report=args.report,
        )
        exported = export(request, step)
    except VerificationFailed as err:
        print(f"dvfl-export: failed: {err}", file=sys.stderr)
        return 3
    except DvflError as err:
        print(f"dvfl-export: error: {err}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("dvfl-export: stopped, nothing written", file=sys.stderr)
        return 130
    _summary(exported, args.output)
    return 0


def _spec(args: argparse.Namespace) -> ClipSpec | None:
    """The checkpoint's spec, or the official one, with the command line's changes."""
    changes = {
        "num_frames": args.num_frames,
        "size": tuple(args.size) if args.size else None,
        "window_s": args.window_s,
    }
    changes = {name: value for name, value in changes.items() if value is not None}
    if not changes:
        return None
    spec = read_checkpoint(args.checkpoint).spec or ClipSpec()
    if "size" in changes and spec.crop == "center":
        assert spec.resize is not None
        ratio = max(changes["size"]) / max(spec.size)
        changes["resize"] = round(spec.resize * ratio)
    try:
        return dataclasses.replace(spec, **changes)
    except ValueError as err:
        raise DvflError(str(err)) from err


def _summary(exported: Exported, output: Path) -> None:
    artifact, verification = exported.artifact, exported.verification
    height, width = artifact.spec.size
    print(
        f"wrote {output}: {exported.size_bytes / 1e6:.1f} MB, {artifact.variant}, "
        f"{artifact.precision}, {artifact.spec.num_frames}x{height}x{width}, "
        f"{len(artifact.labels)} classes\n"
        f"agrees with PyTorch on {verification.clips} clips\n{verification.table()}"
    )
    times = ", ".join(f"{name} {ms:.1f}" for name, ms in exported.median_ms.items())
    print(f"median ms per clip on this machine: {times}")
    for name, why in verification.skipped.items():
        print(f"not verified in {name}: it {why}")


if __name__ == "__main__":
    sys.exit(main())
