"""The way back: an exported file becomes a checkpoint that training can go on from.

The folds of the deploy form are undone as far as possible. Where many training forms give the same
file, one is taken: LayerNorm's scale and shift stay in the linear after it, and the temporal input
projection is the identity. The weights differ from those before the export, but the function is
the same, which is verified against the file on clips before the checkpoint is written.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import NamedTuple

import onnx
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from dvfl_export.deploy.folding import Affine
from dvfl_export.deploy.form import DeployBlock, DeployVideoFocalNet, deploy_form
from dvfl_export.deploy.layers import (
    FoldedLinear,
    Modulation,
    Normalize,
    PatchProduct,
    TemporalContext,
    level_kernels,
)
from dvfl_export.sample_clips import cut_clips, rendered_videos
from dvfl_export.verify import (
    THRESHOLDS,
    Verification,
    VerificationFailed,
    pytorch_logits,
    verify,
)
from dvfl_models.network.checkpoint import mismatch, save_checkpoint
from dvfl_models.network.config import VARIANTS
from dvfl_models.network.video_focalnet import (
    Block,
    PatchEmbed,
    SpatioTemporalFocalModulation,
    Stage,
    VideoFocalNet,
    build_model,
)
from dvfl_runtime.artifact import Artifact, ModelFile
from dvfl_runtime.clips.spec import ClipSpec
from dvfl_runtime.engines import installed_engines, open_engine
from dvfl_runtime.errors import ArtifactError, ExportError
from dvfl_runtime.teach.graph import without_familiarity
from dvfl_runtime.teach.motion import NAME as MOTION


class Restored(NamedTuple):
    """The description of the file, and how well the checkpoint agrees with the file."""

    artifact: Artifact
    verification: Verification


def restore_checkpoint(source: Path, output: Path) -> Restored:
    """Write the checkpoint of an exported file, or nothing.

    Args:
        source: an .onnx file of dvfl-export in fp32, its weights compressed or not.
        output: path of the .pth file to write.

    Raises:
        ArtifactError: if the file cannot be read, or no engine can run it.
        ExportError: if its folds cannot be undone.
        VerificationFailed: if the checkpoint and the file differ on clips.
        OutputError: if the output cannot be written.
    """
    file = _with_linear_head(ModelFile(source))
    artifact = file.artifact
    open_engine("auto", file, device="cpu").close()  # raises where no engine can run the file
    try:
        proto = onnx.load_from_string(file.content)
    except Exception as err:  # protobuf's errors have no base of their own
        raise ArtifactError(f"cannot use model {source}: {err}; copy it again") from err
    model = unfold(proto, artifact)
    spec = artifact.spec
    clips = cut_clips(rendered_videos(spec), spec)
    found = verify(
        file,
        pytorch_logits(model, clips, spec),
        clips,
        installed_engines("cpu"),
        threshold=THRESHOLDS["fp32"],
    )
    if not found.passed:
        raise VerificationFailed(found)
    about = {
        "variant": artifact.variant,
        "labels": list(artifact.labels),
        "spec": spec.to_dict(),
        "training": dict(artifact.training),
    }
    save_checkpoint(output, model, about=about)
    return Restored(artifact, found)


def _with_linear_head(file: ModelFile) -> ModelFile:
    """Return a file that was taught without its rule for what is unfamiliar, others as they are."""
    content = without_familiarity(file.content)
    if content is file.content:
        return file
    with tempfile.TemporaryDirectory(prefix="dvfl-restore-") as folder:
        path = Path(folder) / file.path.name
        path.write_bytes(content)
        return ModelFile(path)


def unfold(proto: onnx.ModelProto, artifact: Artifact) -> VideoFocalNet:
    """Return a network of the same function as an exported graph, in eval mode.

    Raises:
        ExportError: if the graph is not in fp32, or does not have the layers of its variant.
    """
    if artifact.precision != "fp32":
        raise ExportError(
            f"{artifact.name} is in {artifact.precision}, which has lost what training needs; "
            f"take its fp32 file"
        )
    if artifact.variant == MOTION:
        raise ExportError(
            f"{artifact.name} was taught from how things move and holds no network; take a file "
            f"with one, such as the bundled model"
        )
    if artifact.variant not in VARIANTS:
        raise ExportError(
            f"{artifact.name} is of the unknown variant {artifact.variant!r}; only these can be "
            f"turned back: {', '.join(VARIANTS)}"
        )
    model = build_model(artifact.variant, num_classes=len(artifact.labels)).eval()
    deployed = deploy_form(model, artifact.spec)
    if problem := _load(deployed, proto):
        raise ExportError(
            f"{artifact.name} is not a plain {artifact.variant} ({problem}); a network with other "
            f"options cannot be told from its file: train on from its checkpoint"
        )
    with torch.no_grad():
        _fill(model, deployed, artifact.spec)
    return model


def _load(deployed: DeployVideoFocalNet, proto: onnx.ModelProto) -> str:
    """Load the weights of a graph; return the first that does not fit, "" if all do."""
    own = deployed.state_dict()
    norms = {
        name: layer for name, layer in deployed.named_modules() if isinstance(layer, Normalize)
    }
    kinds = {"LayerNormalization": 1, "AddNorm": 1, "EmbedNorm": 2}
    count = sum(kinds.get(node.op_type, 0) for node in proto.graph.node)
    if count != len(norms):
        return f"{count} normalisations instead of {len(norms)}"
    # the exporter writes equal tensors once: a normalisation without scale and shift of its own
    # keeps the ones and zeros that it begins with, like a linear whose bias the next one adds
    weights = {
        f"{name}.{kind}": own[f"{name}.{kind}"] for name in norms for kind in ("weight", "bias")
    }
    for name, layer in deployed.named_modules():
        if isinstance(layer, FoldedLinear) and not layer.adds_bias:
            weights[f"{name}.bias"] = own[f"{name}.bias"]
    for weight in proto.graph.initializer:
        name = weight.name.removesuffix(".float16")
        if name not in own:
            continue
        try:
            weights[name] = torch.from_numpy(numpy_helper.to_array(weight).copy())
        except (ValueError, TypeError) as err:
            return f"{name}: {err}"
    if report := mismatch(own, weights):
        return report
    deployed.load_state_dict(weights)
    for name, norm in norms.items():
        bare = bool((norm.weight == 1).all() and (norm.bias == 0).all())
        if name.endswith((".norm1", ".norm2")) and not bare:
            return f"{name} has a scale and a shift"
    return ""


def _fill(model: VideoFocalNet, deployed: DeployVideoFocalNet, spec: ClipSpec) -> None:
    """Copy the weights of the deploy form into the training form."""
    _fill_embedding(model.patch_embed, deployed.patch_embed, spec)
    layers = iter(deployed.layers)
    for stage in model.layers:
        assert isinstance(stage, Stage)
        for block in stage.blocks:
            folded = next(layers)
            assert isinstance(block, Block)
            assert isinstance(folded, DeployBlock)
            _fill_modulation(block.modulation, folded.modulation)
            _fill_linear(block.mlp.fc1, _affine(folded.mlp.fc1))
            _fill_linear(block.mlp.fc2, _affine(folded.mlp.fc2))
        if stage.downsample is not None:
            _fill_embedding(stage.downsample, next(layers), None)
    _fill_linear(model.head, _affine(deployed.head))


def _affine(folded: FoldedLinear) -> Affine:
    return Affine(folded.weight.T, folded.bias)


def _fill_linear(layer: nn.Linear | nn.Conv1d | nn.Conv2d, *parts: Affine) -> None:
    """Copy parts into one layer, whose outputs are those of all parts, one after the other."""
    layer.weight.copy_(torch.cat([part.weight for part in parts]).reshape(layer.weight.shape))
    assert layer.bias is not None
    layer.bias.copy_(torch.cat([part.bias for part in parts]))


def _fill_embedding(embed: PatchEmbed, folded: nn.Module, pixels: ClipSpec | None) -> None:
    assert isinstance(folded, PatchProduct)  # the variants' embeddings do not overlap
    weight, bias = (value.double() for value in _affine(folded.linear))
    # (O, k*k*I) -> (O, k, k, I) -> (O, I, k, k)
    weight = weight.reshape(len(weight), folded.stride, folded.stride, -1).permute(0, 3, 1, 2)
    if pixels is not None:  # W x + b = (W std) ((x - mean) / std) + (W mean + b)
        mean = torch.tensor(pixels.mean, dtype=torch.float64).view(-1, 1, 1)
        bias = bias + (weight * mean).flatten(1).sum(1)
        weight = weight * torch.tensor(pixels.std, dtype=torch.float64).view(-1, 1, 1)
    embed.proj.weight.copy_(weight)
    assert embed.proj.bias is not None
    embed.proj.bias.copy_(bias)
    embed.norm.weight.copy_(folded.norm.weight)
    embed.norm.bias.copy_(folded.norm.bias)


def _fill_modulation(layer: SpatioTemporalFocalModulation, folded: Modulation) -> None:
    gates, count = _affine(folded.gates), layer.levels + 1
    ctx = Affine(torch.eye(layer.dim), _shift(folded.temporal))
    q, spatial = _affine(folded.q), _affine(folded.spatial.ctx)
    _fill_linear(layer.f, q, spatial, gates.rows(0, count))
    _fill_linear(layer.f_temporal, ctx, gates.rows(count))
    _fill_kernels(layer.focal_layers, folded.spatial.kernels)
    _fill_kernels(layer.focal_layers_temporal, folded.temporal.kernels)
    _fill_linear(layer.h, _affine(folded.spatial.h))
    _fill_linear(layer.h_temporal, _affine(folded.temporal.h))
    _fill_linear(layer.proj, _affine(folded.proj))


def _fill_kernels(levels: nn.ModuleList, kernels: nn.ParameterList) -> None:
    for weight, kernel in zip(level_kernels(levels), kernels, strict=True):
        weight.copy_(kernel.reshape(weight.shape))  # `weight` shares its memory with the parameter


def _shift(folded: TemporalContext) -> Tensor:
    """Return the shift (C,) of each token from which the first convolution gets its biases.

    With the projection F x + b the bias of frame t is the sum of W_j b over the taps j inside the
    clip. With the identity for F, and K_j = W_j F, it is the sum of K_j c, where c = F^-1 b.
    """
    kernel, bias = folded.kernels[0].squeeze(-1).double(), folded.bias.squeeze().double()
    frames, width = bias.shape[1], kernel.shape[2]
    frame, tap = torch.arange(frames)[:, None], torch.arange(width) - width // 2
    inside = ((frame + tap >= 0) & (frame + tap < frames)).double()  # (T, k)
    # (O, I, k), (T, k) -> (T, O, I) -> (T*O, I)
    sums = torch.einsum("oij,tj->toi", kernel, inside).flatten(0, 1)
    shift: Tensor = torch.linalg.lstsq(sums, bias.T.flatten()[:, None]).solution
    return shift.flatten().float()
