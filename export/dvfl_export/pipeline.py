"""checkpoint -> deploy form -> ONNX -> verified artifact."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import onnx

from dvfl_export.deploy.form import deploy_form
from dvfl_export.onnx_model import onnx_from_model
from dvfl_export.plan import build_and_verify
from dvfl_export.precision.calibration import CalibrationSet, calibration_set
from dvfl_export.precision.compress import compress_weights
from dvfl_export.precision.half import to_float16
from dvfl_export.precision.quantise import activation_ranges, quantise
from dvfl_export.precision.sensitivity import Sensitivity, measure_sensitivity
from dvfl_export.sample_clips import Video, clips_of, rendered_videos, video_files
from dvfl_export.verify import (
    THRESHOLDS,
    Threshold,
    Verification,
    VerificationFailed,
    engines_for,
    median_ms,
    pytorch_logits,
    verify,
    write_report,
)
from dvfl_models.network.checkpoint import (
    Checkpoint,
    model_of,
    read_checkpoint,
    variant_of,
)
from dvfl_models.network.config import check_size
from dvfl_models.network.video_focalnet import VideoFocalNet, count_macs
from dvfl_models.recipe.labels import labels_of, spec_of
from dvfl_runtime.artifact import METADATA_KEY, Artifact, ModelFile, Precision
from dvfl_runtime.clips.spec import ClipSpec
from dvfl_runtime.errors import ExportError
from dvfl_runtime.files import replacing
from dvfl_runtime.version import __version__

log = logging.getLogger(__name__)

LOWER: dict[Precision, tuple[str, ...]] = {
    "fp32": (),
    "fp16": ("round",),
    "int8": ("calibrate", "measure layers", "quantise"),
}
TOOLS = ("torch", "onnx", "onnxscript", "onnxruntime")


@dataclass(frozen=True)
class ExportRequest:
    """What to export, and how.

    Attributes:
        checkpoint: path of a .pth file.
        output: path of the .onnx file to write.
        variant: needed only where neither the file nor the weights' shapes tell.
        labels: a data set's name or a file; needed where the checkpoint does not hold them.
        spec: of the clips; the checkpoint's own, or the official recipe's, by default.
        clips: videos or folders to verify with; if empty, the videos of the calibration that are
            held back, or rendered ones.
        name: of the model; the output's stem by default.
        ops: "standard" or "fused", see export/README.md.
        report: a .json file for the findings of the verification, written even if it fails.
        precision: "fp32"; "fp16" for GPUs: weights and activations in float16; or "int8".
        calibration: videos or folders, for int8 alone; a quarter of the videos is held back.
        compress: store large weights as float16; the graph computes in float32 all the same.
        target: "onnx", or "tensorrt" for a plan besides, built and verified on this device.
    """

    checkpoint: Path
    output: Path
    variant: str = ""
    labels: str = ""
    spec: ClipSpec | None = None
    clips: tuple[Path, ...] = ()
    name: str = ""
    ops: str = "standard"
    report: Path | None = None
    precision: Precision = "fp32"
    calibration: tuple[Path, ...] = ()
    compress: bool = False
    target: str = "onnx"

    def steps(self) -> tuple[str, ...]:
        """Returns the names of the steps that `export` will announce."""
        lower: tuple[str, ...] = LOWER[self.precision]
        lower += ("compress",) if self.compress else ()
        build = ("build the plan",) if self.target == "tensorrt" else ()
        return ("load", "fuse", "export", *lower, "verify", *build, "time", "write")


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        artifact: its description.
        verification: how every engine agrees with PyTorch.
        median_ms: engine -> time for one clip on this machine.
        size_bytes: of the file.
        opset: of the file.
        sensitivity: of int8: what each layer loses, and which stay in float32.
    """

    artifact: Artifact
    verification: Verification
    median_ms: dict[str, float]
    size_bytes: int
    opset: int
    sensitivity: Sensitivity | None = None


def export(
    request: ExportRequest,
    step: Callable[[str], None] = log.info,
    share: Callable[[float], None] = lambda _done: None,
) -> Exported:
    """Writes a verified artifact, or nothing.

    Args:
        request: what to export.
        step: called with the name of each step as it begins.
        share: called with the share that is done of a long step.

    Raises:
        EngineUnavailable: if the target is TensorRT and this device has none.
        CheckpointError: if the checkpoint or its labels cannot be used.
        ExportError: if the clips to verify with or to calibrate on cannot be read or are too few,
            or the precision cannot be had.
        VerificationFailed: if the graph and PyTorch differ; the old output stays.
        OutputError: if the output or the report cannot be written.
    """
    _check(request)
    with replacing(request.output) as part:  # a folder that is not writable shows before the work
        step("load")
        checkpoint = read_checkpoint(request.checkpoint)
        model = model_of(checkpoint, request.variant)
        artifact = _artifact(request, checkpoint)
        spec = artifact.spec
        check_size(spec.size)
        macs = count_macs(model, (spec.num_frames, 3, *spec.size))
        artifact = dataclasses.replace(artifact, macs=macs)
        calibration = calibration_set(request.calibration, spec) if request.calibration else None
        videos, views = _videos(request, spec, calibration)
        clips = clips_of(videos, spec, views=views)
        proto = _graph(request, model, spec, step)
        sensitivity = None
        if calibration is not None:
            proto, sensitivity = _int8(proto, calibration, step, share)
        _write(proto, artifact, part)
        engines, skipped = engines_for(proto)
        threshold = _threshold(request)
        step("verify")
        wanted = pytorch_logits(model, clips, spec)
        # as a device will make them
        again = clips_of(videos, ModelFile(part).artifact.spec, views=views)
        verification = verify(part, wanted, again, engines, skipped=skipped, threshold=threshold)
        if request.target == "tensorrt" and verification.passed:
            step("build the plan")
            rows = build_and_verify(part, again, threshold, share).engines
            verification = dataclasses.replace(verification, engines=(*verification.engines, *rows))
        parity = verification.report() | (sensitivity.report() if sensitivity else {})
        _judge(verification, parity, request.report)
        step("time")
        times = median_ms(part, [row.engine for row in verification.engines], again[0])
        step("write")
        artifact = dataclasses.replace(artifact, parity=parity)
        _write(proto, artifact, part)
        ModelFile(part)  # raises unless a device can read it
        size = part.stat().st_size
    opset = proto.opset_import[0].version
    return Exported(artifact, verification, times, size, opset, sensitivity)


def _check(request: ExportRequest) -> None:
    """Refuses what does not go together, before any work.

    Raises:
        ExportError: naming both.
    """
    if request.precision == "int8" and not request.calibration:
        raise ExportError(
            "precision int8 needs clips to calibrate on; pass --calibration with videos or folders "
            "of what the model will see"
        )
    if request.calibration and request.precision != "int8":
        raise ExportError(
            f"precision {request.precision} takes no calibration; leave out --calibration, or pass "
            f"--precision int8"
        )
    if request.precision == "fp32":
        return
    if request.ops == "fused":
        raise ExportError(
            f"precision {request.precision} is not available with fused operators, whose contract "
            f"is float32; leave out --ops fused"
        )
    if request.compress:
        raise ExportError(
            f"--compress is for precision fp32; leave it out: a file in {request.precision} is "
            f"small already"
        )


def _graph(
    request: ExportRequest, model: VideoFocalNet, spec: ClipSpec, step: Callable[[str], None]
) -> onnx.ModelProto:
    """Rewrites the network and exports it."""
    step("fuse")
    deployed = deploy_form(model, spec, ops=request.ops)
    step("export")
    proto = onnx_from_model(deployed, spec)
    if request.precision == "fp16":
        step("round")
        proto = to_float16(proto)
    if request.compress:
        step("compress")
        compress_weights(proto)
    return proto


def _videos(
    request: ExportRequest, spec: ClipSpec, calibration: CalibrationSet | None
) -> tuple[list[Video], int]:
    """What to verify with, and how many clips of each."""
    if request.clips:
        return video_files(request.clips), 1
    if calibration is not None:
        return calibration.held_back, calibration.views
    return rendered_videos(spec), 1


def _int8(
    model: onnx.ModelProto,
    calibration: CalibrationSet,
    step: Callable[[str], None],
    share: Callable[[float], None],
) -> tuple[onnx.ModelProto, Sensitivity]:
    """Quantises all layers but those that lose too much; what is held back is not looked at."""
    step("calibrate")
    ranges = activation_ranges(model, calibration.clips)
    step("measure layers")
    sensitivity = measure_sensitivity(model, ranges, calibration.clips, share)
    step("quantise")
    return quantise(model, ranges, sensitivity.floats), sensitivity


def _judge(verification: Verification, parity: dict[str, Any], report: Path | None) -> None:
    """Writes the report, if one is wanted, and raises if an engine failed."""
    if report is not None:
        write_report(parity, report)
    if not verification.passed:
        raise VerificationFailed(verification)


def _tools() -> dict[str, str]:
    return {"dvfl": __version__, **{tool: metadata.version(tool) for tool in TOOLS}}


def _threshold(request: ExportRequest) -> Threshold:
    """Returns what every engine must reach; rounded weights are measured as fp16 is."""
    return THRESHOLDS["fp16" if request.compress else request.precision]


def _artifact(request: ExportRequest, checkpoint: Checkpoint) -> Artifact:
    """Describes what is exported; how well it agrees is added in the end."""
    return Artifact(
        name=request.name or request.output.stem,
        variant=request.variant or variant_of(checkpoint),
        labels=labels_of(checkpoint, request.labels),
        spec=request.spec or spec_of(checkpoint),
        precision=request.precision,
        source_sha256=checkpoint.sha256,
        training=checkpoint.training,
        tools=_tools(),
    )


def _write(proto: onnx.ModelProto, artifact: Artifact, path: Path) -> None:
    described = onnx.ModelProto()
    described.CopyFrom(proto)
    entry = described.metadata_props.add()
    entry.key, entry.value = METADATA_KEY, artifact.to_json()
    onnx.save(described, str(path))
