"""checkpoint -> deploy form -> ONNX -> verified artifact."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import onnx

from dvfl_export.deploy import deploy_form
from dvfl_export.onnx_model import onnx_from_model
from dvfl_export.verify import (
    Agreement,
    VerificationFailed,
    compare_with_pytorch,
    rendered_clips,
    video_clips,
)
from dvfl_models.checkpoint import (
    Checkpoint,
    load_checkpoint,
    matching_variant,
    num_classes_of,
    read_checkpoint,
)
from dvfl_models.labels import read_labels
from dvfl_models.video_focalnet import VARIANTS, VideoFocalNet
from dvfl_runtime.artifact import METADATA_KEY, Artifact, read_artifact
from dvfl_runtime.errors import CheckpointError
from dvfl_runtime.files import replacing
from dvfl_runtime.spec import ClipSpec
from dvfl_runtime.version import __version__

log = logging.getLogger(__name__)

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
        clips: videos or folders to verify with; rendered clips if empty.
        name: of the model; the output's stem by default.
        ops: "standard" or "fused", see export/README.md.
    """

    checkpoint: Path
    output: Path
    variant: str = ""
    labels: str = ""
    spec: ClipSpec | None = None
    clips: tuple[Path, ...] = ()
    name: str = ""
    ops: str = "standard"


@dataclass(frozen=True)
class Exported:
    """What was written: the artifact's description and how it agrees with PyTorch."""

    artifact: Artifact
    agreement: Agreement
    size_bytes: int


def export(request: ExportRequest, step: Callable[[str], None] = log.info) -> Exported:
    """Writes a verified artifact, or nothing.

    Args:
        request: what to export.
        step: called with the name of each step as it begins.

    Raises:
        CheckpointError: if the checkpoint or its labels cannot be used.
        ExportError: if the clips to verify with cannot be read.
        VerificationFailed: if the graph and PyTorch differ; the old output stays.
        OutputError: if the output cannot be written.
    """
    with replacing(request.output) as part:  # a folder that is not writable shows before the work
        step("load")
        checkpoint = read_checkpoint(request.checkpoint)
        model, variant = _build(request, checkpoint)
        labels = _labels(request, checkpoint)
        spec = request.spec or checkpoint.spec or ClipSpec()
        clips = video_clips(request.clips, spec) if request.clips else rendered_clips(spec)
        step("fuse")
        deployed = deploy_form(model, spec, ops=request.ops)
        step("export")
        proto = onnx_from_model(deployed, spec)
        artifact = Artifact(
            name=request.name or request.output.stem,
            variant=variant,
            labels=labels,
            spec=spec,
            source_sha256=checkpoint.sha256,
            training=checkpoint.training,
            tools={"dvfl": __version__, **{tool: metadata.version(tool) for tool in TOOLS}},
        )
        step("verify")
        _write(proto, artifact, part)
        agreement = compare_with_pytorch(part, model, clips, spec)
        if not agreement.passed:
            raise VerificationFailed(
                f"{agreement.engine} and PyTorch differ by {agreement.max_difference:.2g} on "
                f"{agreement.clips} clips, same top-1 on {agreement.top1:.0%}; nothing was written"
            )
        step("write")
        artifact = dataclasses.replace(artifact, parity=dataclasses.asdict(agreement))
        _write(proto, artifact, part)
        read_artifact(part)
        size = part.stat().st_size
    return Exported(artifact, agreement, size)


def _build(request: ExportRequest, checkpoint: Checkpoint) -> tuple[VideoFocalNet, str]:
    """The network with its weights, in eval mode, and the variant's name."""
    num_classes = num_classes_of(checkpoint.state_dict)
    if num_classes is None:
        raise CheckpointError(f"{request.checkpoint} has no classification head (head.weight)")
    variant = request.variant or checkpoint.variant or matching_variant(checkpoint.state_dict)
    config = checkpoint.config
    if request.variant or config is None:
        if variant not in VARIANTS:
            what = f"unknown variant {variant!r}" if variant else "these weights fit no variant"
            raise CheckpointError(
                f"{request.checkpoint}: {what}; pass --variant with one of: {', '.join(VARIANTS)}"
            )
        config = dataclasses.replace(VARIANTS[variant], num_classes=num_classes)
    model = VideoFocalNet(config)
    load_checkpoint(model, request.checkpoint)
    return model.eval(), variant


def _labels(request: ExportRequest, checkpoint: Checkpoint) -> tuple[str, ...]:
    labels = read_labels(request.labels) if request.labels else checkpoint.labels
    width = num_classes_of(checkpoint.state_dict)
    if not labels:
        raise CheckpointError(
            f"{request.checkpoint} holds no class names; pass --labels with a data set's name or "
            f"a file of {width} names"
        )
    if len(labels) != width:
        raise CheckpointError(
            f"{len(labels)} labels for a checkpoint with {width} classes; pass the right --labels"
        )
    return labels


def _write(proto: onnx.ModelProto, artifact: Artifact, path: Path) -> None:
    described = onnx.ModelProto()
    described.CopyFrom(proto)
    entry = described.metadata_props.add()
    entry.key, entry.value = METADATA_KEY, artifact.to_json()
    onnx.save(described, str(path))
