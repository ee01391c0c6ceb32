"""The steps of an export: checkpoint -> deploy form -> ONNX -> verified artifact."""

from __future__ import annotations

import dataclasses
import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import onnx
from tqdm import tqdm

from dvfl_export.confidence.calibrating import calibrate_confidence
from dvfl_export.confidence.measured import read_measured
from dvfl_export.deploy.form import deploy_form
from dvfl_export.onnx_model import OPSET, onnx_from_model, save_model
from dvfl_export.plan import build_and_verify
from dvfl_export.precision.calibration import CalibrationSet, calibration_set
from dvfl_export.precision.compress import compress_weights
from dvfl_export.precision.gain import Gain, measure_gain
from dvfl_export.precision.half import to_float16
from dvfl_export.precision.quantise import quantise
from dvfl_export.precision.ranges import activation_ranges
from dvfl_export.precision.sensitivity import Sensitivity, measure_sensitivity
from dvfl_export.sample_clips import Video, cut_clips, rendered_videos, video_files
from dvfl_export.verify import (
    THRESHOLDS,
    Threshold,
    Verification,
    VerificationFailed,
    median_ms,
    pytorch_logits,
    verify,
    verify_bf16,
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
from dvfl_runtime.artifact import Artifact, ConfidenceCalibration, ModelFile, Precision
from dvfl_runtime.clips.spec import Clip, ClipSpec
from dvfl_runtime.engines import installed_engines
from dvfl_runtime.errors import ExportError
from dvfl_runtime.files import replacing, write_json
from dvfl_runtime.teach.graph import features_name
from dvfl_runtime.version import __version__

log = logging.getLogger(__name__)

# the steps from float32 to a lower precision
LOWER: dict[Precision, tuple[str, ...]] = {
    "fp32": (),
    "fp16": ("round",),
    "int8": ("calibrate", "measure layers", "quantise"),
}
# packages whose versions the file names
TOOLS = ("torch", "onnx", "onnxscript", "onnxruntime")


@dataclass(frozen=True)
class ExportRequest:
    """What to export, and how.

    Attributes:
        checkpoint: path of a .pth file.
        output: path of the .onnx file to write.
        variant: needed only where neither the file nor the shapes of its weights tell it.
        labels: name of a data set, or a file; needed where the checkpoint does not hold them.
        spec: of the clips; by default that of the checkpoint, or of the official recipe.
        clips: videos or folders to verify with; if empty, the videos that the calibration holds
            back, or rendered ones.
        name: of the model; the output's stem by default.
        report: a .json file for the findings of the verification, written even if it fails.
        precision: "fp32"; "fp16" for GPUs: weights and activations in float16; or "int8".
        calibration: videos or folders, for int8 alone; a quarter of the videos is held back.
        compress: whether large weights are stored as float16; the graph still computes in float32.
        target: "onnx", or "tensorrt" to build and verify a plan on this device as well.
        held_back: labelled clips that were not trained on, to calibrate the confidence with.
        negatives: videos of none of the actions, from which the file knows what is unknown.
        confidence: a calibration that has been fitted already; in place of `held_back`.
        measured: a result of dvfl-eval, which goes into the file's description.
    """

    checkpoint: Path
    output: Path
    variant: str = ""
    labels: str = ""
    spec: ClipSpec | None = None
    clips: tuple[Path, ...] = ()
    name: str = ""
    report: Path | None = None
    precision: Precision = "fp32"
    calibration: tuple[Path, ...] = ()
    compress: bool = False
    target: str = "onnx"
    held_back: Path | None = None
    negatives: tuple[Path, ...] = ()
    confidence: ConfidenceCalibration | None = None
    measured: Path | None = None

    def steps(self) -> tuple[str, ...]:
        """Return the names of the steps that `export` will announce."""
        lower: tuple[str, ...] = LOWER[self.precision]
        lower += ("compress",) if self.compress else ()
        build: tuple[str, ...] = ("build the plan",) if self.target == "tensorrt" else ()
        build += ("calibrate confidence",) if self.held_back else ()
        return ("load", "fuse", "export", *lower, "verify", *build, "time", "write")

    @property
    def threshold(self) -> Threshold:
        """What every engine must reach; compressed weights are rounded as those of fp16."""
        return THRESHOLDS["fp16" if self.compress else self.precision]


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        artifact: its description.
        verification: how every engine agrees with PyTorch.
        median_ms: engine -> time for one clip on this machine.
        size_bytes: of the file.
        opset: of the file.
        sensitivity: for int8, what each layer loses and which layers stay in float32.
        bf16: how a file in fp32 agrees with PyTorch when it is computed in bf16, where this machine
            can. It decides nothing: the file is right, even if bf16 is not good enough for it.
        gain: for int8, its size and time over those in float32.
    """

    artifact: Artifact
    verification: Verification
    median_ms: dict[str, float]
    size_bytes: int
    opset: int
    sensitivity: Sensitivity | None = None
    bf16: Verification | None = None
    gain: Gain | None = None


@dataclass(frozen=True)
class Samples:
    """The videos that an export needs besides the checkpoint.

    Attributes:
        videos: to verify with.
        views: how many clips along time are cut from each of them.
        calibration: for int8, clips of other videos.
    """

    videos: Sequence[Video]
    views: int = 1
    calibration: CalibrationSet | None = None

    def clips(self, spec: ClipSpec) -> list[Clip]:
        """Cut the clips to verify with, each (T, H, W, 3)."""
        return cut_clips(self.videos, spec, views=self.views)


def export(
    request: ExportRequest,
    step: Callable[[str], None] = log.info,
    share: Callable[[float], None] = lambda _done: None,
) -> Exported:
    """Write a verified artifact, or nothing.

    Args:
        request: what to export.
        step: called with the name of each step as it begins.
        share: called with the share of a long step that is done, 0 to 1.

    Raises:
        EngineUnavailable: if the target is TensorRT and this device has none.
        CheckpointError: if the checkpoint or its labels cannot be used.
        ExportError: if clips cannot be read or are too few, or a precision cannot be had.
        VerificationFailed: if the graph and PyTorch differ; the old output stays.
        OutputError: if the output or the report cannot be written.
    """
    check_request(request)
    # opened first: a folder that is not writable shows before the work
    with replacing(request.output) as part:
        step("load")
        checkpoint = read_checkpoint(request.checkpoint)
        model = model_of(checkpoint, request.variant)
        artifact = describe(request, checkpoint, model)
        spec = artifact.spec
        samples = _samples(request, spec)
        clips = samples.clips(spec)
        step("fuse")
        deployed = deploy_form(model, spec)
        step("export")
        plain = onnx_from_model(deployed, spec)
        graph, sensitivity = _in_precision(plain, request, samples.calibration, step, share)
        save_model(graph, artifact, part)

        step("verify")
        wanted = pytorch_logits(model, clips, spec)
        # cut again by the spec in the file, as a device will cut them
        file = ModelFile(part)
        clips = samples.clips(file.artifact.spec)
        engines = installed_engines("cpu")
        verification = verify(file, wanted, clips, engines, threshold=request.threshold)
        if request.target == "tensorrt" and verification.passed:
            step("build the plan")
            rows = build_and_verify(file, clips, request.threshold, share).engines
            verification = dataclasses.replace(verification, engines=(*verification.engines, *rows))
        bf16 = verify_bf16(file, wanted, clips, engines) if verification.passed else None
        parity = _parity(verification, sensitivity, bf16)
        _report_and_judge(verification, parity, request.report)

        artifact = _calibrated(artifact, file, request, parity, (step, share))
        step("time")
        times = _times(file, clips[0], verification, bf16)
        gain = _gain(plain, file, verification, clips[0]) if sensitivity else None
        step("write")
        artifact = dataclasses.replace(artifact, parity=parity, features=features_name(plain.graph))
        save_model(graph, artifact, part)
        size = len(ModelFile(part).content)  # raises where the runtime would refuse the file
    return Exported(artifact, verification, times, size, OPSET, sensitivity, bf16, gain)


@contextmanager
def progress_bar(
    request: ExportRequest,
) -> Iterator[tuple[Callable[[str], None], Callable[[float], None]]]:
    """Show the steps on a terminal, nothing in a pipe; yield `step` and `share` for `export`."""
    form = "{desc}: step {n:.1f} of {total_fmt} |{bar:20}| {elapsed}"
    begun = 0
    with tqdm(
        total=len(request.steps()), bar_format=form, disable=None, leave=False, file=sys.stderr
    ) as bar:

        def step(name: str) -> None:
            nonlocal begun
            bar.set_description_str(name, refresh=False)
            bar.n = begun  # all before this one are done
            begun += 1
            bar.refresh()

        def share(done: float) -> None:
            bar.n = begun - 1 + done
            bar.refresh()

        yield step, share


def check_request(request: ExportRequest) -> None:
    """Refuse options that contradict each other, before any work.

    Raises:
        ExportError: naming both.
    """
    if request.precision == "int8" and not request.calibration:
        raise ExportError(
            "precision int8 needs clips to calibrate on; pass --calibration with videos or folders "
            "of what the model will see"
        )
    if request.negatives and request.held_back is None:
        raise ExportError("--negatives calibrate the confidence with --held-back CLIPS; pass both")
    if request.calibration and request.precision != "int8":
        raise ExportError(
            f"precision {request.precision} takes no calibration; leave out --calibration, or pass "
            f"--precision int8"
        )
    if request.compress and request.precision != "fp32":
        raise ExportError(
            f"--compress is for precision fp32; leave it out: a file in {request.precision} is "
            f"small already"
        )


def describe(request: ExportRequest, checkpoint: Checkpoint, model: VideoFocalNet) -> Artifact:
    """Return the description of the exported model, still without its parity."""
    spec = request.spec or spec_of(checkpoint)
    check_size(spec.size)
    labels, training = labels_of(checkpoint, request.labels), dict(checkpoint.training)
    if request.measured:
        training["measured"] = read_measured(request.measured, labels)
    return Artifact(
        name=request.name or request.output.stem,
        variant=request.variant or variant_of(checkpoint),
        labels=labels,
        spec=spec,
        precision=request.precision,
        source_sha256=checkpoint.sha256,
        training=training,
        tools={"dvfl": __version__, **{tool: metadata.version(tool) for tool in TOOLS}},
        macs=count_macs(model, (spec.num_frames, 3, *spec.size)),
        confidence_calibration=request.confidence,
    )


def _samples(request: ExportRequest, spec: ClipSpec) -> Samples:
    """Choose the videos to verify with: those asked for, held back ones, or rendered ones."""
    calibration = calibration_set(request.calibration, spec) if request.calibration else None
    if request.clips:
        return Samples(video_files(request.clips), calibration=calibration)
    if calibration is not None:
        return Samples(calibration.held_back, calibration.views, calibration)
    return Samples(rendered_videos(spec))


def _in_precision(
    graph: onnx.ModelProto,
    request: ExportRequest,
    calibration: CalibrationSet | None,
    step: Callable[[str], None],
    share: Callable[[float], None],
) -> tuple[onnx.ModelProto, Sensitivity | None]:
    """Return a float32 graph in the requested precision, and for int8 the loss of each layer.

    The videos that the calibration holds back are not looked at.
    """
    sensitivity = None
    if request.precision == "fp16":
        step("round")
        graph = to_float16(graph)
    if calibration is not None:
        step("calibrate")
        ranges = activation_ranges(graph, calibration.clips)
        step("measure layers")
        sensitivity = measure_sensitivity(graph, ranges, calibration.clips, share)
        step("quantise")
        graph = quantise(graph, ranges, sensitivity.floats)
    if request.compress:
        step("compress")
        compress_weights(graph)
    return graph, sensitivity


def _times(
    file: ModelFile, clip: Clip, verification: Verification, bf16: Verification | None
) -> dict[str, float]:
    """Return the time of each engine for one clip on this machine, ms; those in bf16 too."""
    times = median_ms(file, [row.engine for row in verification.engines], clip)
    if bf16 is not None:
        names = [row.engine for row in bf16.engines]
        in_bf16 = median_ms(file, names, clip, precision="bf16")
        times |= {f"{name} bf16": ms for name, ms in in_bf16.items()}
    return times


def _gain(plain: onnx.ModelProto, file: ModelFile, found: Verification, clip: Clip) -> Gain:
    """Compare a file in int8 with its float32 graph, in the engines of the verification."""
    # a plan of the float32 graph would take minutes
    names = [row.engine for row in found.engines if row.engine != "tensorrt"]
    return measure_gain(plain, file, names, clip)


def _parity(
    verification: Verification, sensitivity: Sensitivity | None, bf16: Verification | None
) -> dict[str, Any]:
    """Return the findings for the file and the report: see export/README.md."""
    found = verification.report()
    found |= sensitivity.report() if sensitivity else {}
    return found | ({"bf16": bf16.report()} if bf16 else {})


def _calibrated(
    artifact: Artifact,
    file: ModelFile,
    request: ExportRequest,
    parity: dict[str, Any],
    announce: tuple[Callable[[str], None], Callable[[float], None]],
) -> Artifact:
    """Return the description with the calibration of its confidence; add it to the report.

    Without clips that were held back it stays as it is.
    """
    if request.held_back is None:
        return artifact
    step, share = announce
    step("calibrate confidence")
    found = calibrate_confidence(file, request.held_back, request.negatives, share)
    if request.report is not None:
        write_json(request.report, parity | {"confidence_calibration": found.to_dict()})
    return dataclasses.replace(artifact, confidence_calibration=found)


def _report_and_judge(
    verification: Verification, parity: dict[str, Any], path: Path | None
) -> None:
    """Write the report, if there is a path for it, and then raise if an engine failed."""
    if path is not None:
        write_json(path, parity)
    if not verification.passed:
        raise VerificationFailed(verification)
