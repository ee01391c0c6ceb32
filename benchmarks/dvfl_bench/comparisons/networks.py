"""Our networks with random weights, exported for comparisons that are about time alone."""

from __future__ import annotations

import onnx
import torch

from dvfl_export.deploy.form import deploy_form
from dvfl_export.onnx_model import onnx_from_model
from dvfl_export.precision.quantise import layers_of
from dvfl_models import build_model
from dvfl_models.network.video_focalnet import VideoFocalNet, init_weights
from dvfl_runtime.artifact import METADATA_KEY, Artifact
from dvfl_runtime.clips.spec import ClipSpec
from dvfl_runtime.version import __version__

FRAMES = 8
# the layers that the sensitivity analyses of our trained models keep in float32 (precision_*.json)
FLOATS: dict[str, tuple[str, ...]] = {
    "femto": ("patch_embed", "layers.7.modulation.proj/"),
    "nano": (),
}
FLOATS["bundled"] = FLOATS["femto"]


def square_spec(frames: int, size: int) -> ClipSpec:
    """Return the spec of clips of so many frames, `size` x `size` px."""
    return ClipSpec(num_frames=frames, size=(size, size), resize=size)


def random_network(variant: str, *, num_classes: int = 101) -> VideoFocalNet:
    """Return a variant whose activations have the size that trained weights give, in eval mode."""
    torch.manual_seed(0)
    net = build_model(variant, num_classes=num_classes).eval()
    init_weights(net, "xavier")
    return net


def deploy_graph(net: VideoFocalNet, spec: ClipSpec, *, fused: bool = True) -> onnx.ModelProto:
    """Return the deploy form of a network as dvfl-export writes it, or in standard operators."""
    graph = onnx_from_model(deploy_form(net, spec), spec, fused=fused)
    labels = tuple(f"class {k}" for k in range(net.config.num_classes))
    described = Artifact(
        name="random weights", variant="", labels=labels, spec=spec, tools={"dvfl": __version__}
    )
    graph.metadata_props.add(key=METADATA_KEY, value=described.to_json())
    return graph


def floats_of(model: onnx.ModelProto, variant: str) -> list[str]:
    """Return the layers that int8 keeps in float32, as in trained models of the variant."""
    parts = FLOATS.get(variant, FLOATS["nano"])
    return [name for name in layers_of(model) if any(part in name for part in parts)]
