"""`--ops fused`: a context aggregation as one node of domain `dvfl`, with its body in the file.

The nodes are `dvfl::SpatialContext` and `dvfl::TemporalContext`. Their contract (inputs, layouts,
attributes) is in export/README.md. Kernels are written for it, so a change needs a new `VERSION`.
Each node has a model-local function of the same name: an engine without the kernel expands it and
runs the standard operators. Experimental: no kernel for them has run yet.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from dvfl_export.deploy.layers import Context, SpatialContext, TemporalContext
from dvfl_models.network.config import VideoFocalNetConfig
from dvfl_runtime.errors import ExportError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import TypeAlias

    import onnx

    Attributes: TypeAlias = dict[
        str,
        int | float | str | bool | Sequence[int] | Sequence[float] | Sequence[str] | Sequence[bool],
    ]

DOMAIN = "dvfl"
VERSION = 1  # of the contract: the opset of the domain, and the nodes' plugin_version
FIXED_INPUTS = {"SpatialContext": 2, "TemporalContext": 3}  # before those of the kernels

SIGNATURE = """
<domain: "dvfl", opset_import: ["" : 20]>
{name} <frames, height, width, channels, levels, gate_offset, kernel_sizes,
        plugin_namespace: string = "dvfl", plugin_version: string = "{version}">
    ({inputs}) => (modulator)
"""

# sizes as tensors of one element, and the range of this node's own gates
SIZES = """
    any = Constant <value_ints = [-1]> ()
    scalar_t = Constant <value_int: int = @frames> ()
    t = Reshape (scalar_t, any)
    scalar_h = Constant <value_int: int = @height> ()
    h = Reshape (scalar_h, any)
    scalar_w = Constant <value_int: int = @width> ()
    w = Reshape (scalar_w, any)
    scalar_c = Constant <value_int: int = @channels> ()
    c = Reshape (scalar_c, any)
    scalar_first = Constant <value_int: int = @gate_offset> ()
    first_gate = Reshape (scalar_first, any)
    number_of_gates = Constant <value_ints = [{gates}]> ()
    end_gate = Add (first_gate, number_of_gates)
    all_gates = Shape <start = 2> (gates)
"""

# (B, T*H*W, C) -> (B*T, H, W, C) -> (B*T, C, H, W)
SPATIAL_LAYOUT = """
    context_shape = Concat <axis = 0> (any, h, w, c)
    gates_shape = Concat <axis = 0> (any, h, w, all_gates)
    mean_axes = Constant <value_ints = [2, 3]> ()
    rows = Reshape (context, context_shape)
    context_0 = Transpose <perm = [0, 3, 1, 2]> (rows)
"""

# (B, T*H*W, C) -> (B, T, H*W, C) -> (B, C, T, H*W)
TEMPORAL_LAYOUT = """
    pixels = Mul (h, w)
    context_shape = Concat <axis = 0> (any, t, pixels, c)
    gates_shape = Concat <axis = 0> (any, t, pixels, all_gates)
    mean_axes = Constant <value_ints = [2]> ()
    rows = Reshape (context, context_shape)
    context_0 = Transpose <perm = [0, 3, 1, 2]> (rows)
"""

# (B, T*H*W, G) -> (N, G, *plane) -> (N, levels + 1, *plane) -> one (N, 1, *plane) per gate
GATES = """
    gate_axis = Constant <value_ints = [1]> ()
    gate_rows = Reshape (gates, gates_shape)
    gate_planes = Transpose <perm = [0, 3, 1, 2]> (gate_rows)
    own_gates = Slice (gate_planes, first_gate, end_gate, gate_axis)
    {outputs} = Split <axis = 1, num_outputs = {gates}> (own_gates)
"""

# kernels are odd, so SAME_UPPER pads (k - 1) / 2 on both sides, and nothing where k is 1
SPATIAL_CONV = """
    sum_{level} = Conv <group: int = @channels, auto_pad = "SAME_UPPER">
        (context_{before}, kernel_{level})
"""
TEMPORAL_CONV = """
    sum_{level} = Conv <auto_pad = "SAME_UPPER"> (context_{before}, kernel_{level})
"""
TEMPORAL_FIRST_CONV = """
    taps_1 = Conv <auto_pad = "SAME_UPPER"> (context_0, kernel_1)
    sum_1 = Add (taps_1, frame_bias)
"""

LEVEL = """
    context_{level} = Gelu (sum_{level})
    part_{level} = Mul (context_{level}, gate_{level})
"""
TOTAL = """
    total_{level} = Add ({before}, part_{level})
"""

# (N, C, *plane) -> (N, *plane, C) -> (B, T*H*W, C)
GLOBAL = """
    mean = ReduceMean <keepdims = 1> (context_{levels}, mean_axes)
    everywhere = Gelu (mean)
    part_{last} = Mul (everywhere, gate_{last})
    total_{last} = Add ({before}, part_{last})
    channels_last = Transpose <perm = [0, 2, 3, 1]> (total_{last})
    shape = Shape (context)
    modulator = Reshape (channels_last, shape)
"""


def function_text(name: str, levels: int) -> str:
    """Return the function of a node with so many levels, in the textual syntax of ONNX."""
    temporal = name == "TemporalContext"
    numbers = range(1, levels + 1)
    inputs = ["context", "gates", *(["frame_bias"] if temporal else [])]
    inputs += [f"kernel_{level}" for level in numbers]
    outputs = ", ".join(f"gate_{level}" for level in range(1, levels + 2))
    body = SIZES.format(gates=levels + 1)
    body += TEMPORAL_LAYOUT if temporal else SPATIAL_LAYOUT
    body += GATES.format(outputs=outputs, gates=levels + 1)
    before = "part_1"
    for level in numbers:
        conv = TEMPORAL_CONV if temporal else SPATIAL_CONV
        if temporal and level == 1:
            conv = TEMPORAL_FIRST_CONV
        body += (conv + LEVEL).format(level=level, before=level - 1)
        if level > 1:
            body += TOTAL.format(level=level, before=before)
            before = f"total_{level}"
    body += GLOBAL.format(levels=levels, last=levels + 1, before=before)
    signature = SIGNATURE.format(name=name, version=VERSION, inputs=", ".join(inputs))
    return f"{signature}{{{body}}}"


def add_functions(model: onnx.ModelProto) -> None:
    """Add the function of every kind of `dvfl` node in the graph; without such nodes, nothing."""
    import onnx.parser

    levels = {
        node.op_type: len(node.input) - FIXED_INPUTS[node.op_type]
        for node in model.graph.node
        if node.domain == DOMAIN
    }
    for name in sorted(levels):
        model.functions.append(onnx.parser.parse_function(function_text(name, levels[name])))


def check_fused(config: VideoFocalNetConfig) -> None:
    """Refuse networks and versions of torch that cannot be written with fused nodes.

    Raises:
        ExportError: if the stages differ in their number of levels, because the body of a function
            has a fixed number of inputs; or if torch is too old to write such nodes.
    """
    if len(set(config.focal_levels)) > 1:
        raise ExportError(
            f"focal_levels={config.focal_levels}: fused nodes need the same number of levels in "
            "all stages; export with --ops standard"
        )
    if not hasattr(torch.onnx, "ops"):
        raise ExportError(
            f"torch {torch.__version__} cannot write custom nodes; install torch >= 2.8 or export "
            "with --ops standard"
        )


def context_node(name: str, layer: Context, *inputs: Tensor) -> Tensor:
    """Return the output of a node of domain `dvfl`, in the shape (B, T*H*W, C) of its first input.

    It computes only in an exported file; in PyTorch it holds zeros.
    """
    frames, height, width = layer.grid
    attributes: Attributes = {
        "frames": frames,
        "height": height,
        "width": width,
        "channels": layer.dim,
        "levels": layer.levels,
        "gate_offset": layer.first_gate,
        "kernel_sizes": [kernel.shape[2] for kernel in layer.kernels],
        "plugin_namespace": DOMAIN,
        "plugin_version": str(VERSION),
    }
    return torch.onnx.ops.symbolic(
        f"{DOMAIN}::{name}",
        [*inputs, *layer.kernels],
        attributes,
        dtype=inputs[0].dtype,
        shape=inputs[0].shape,
        version=VERSION,
    )


class FusedSpatialContext(SpatialContext):
    """The spatial modulator with its aggregation as one node of the exported graph."""

    def aggregate(self, ctx: Tensor, gates: Tensor) -> Tensor:
        """Projected tokens (B, T*H*W, C), all gates (B, T*H*W, G) -> (B, T*H*W, C)."""
        if not torch.onnx.is_in_onnx_export():
            return super().aggregate(ctx, gates)
        return context_node("SpatialContext", self, ctx, gates)


class FusedTemporalContext(TemporalContext):
    """The temporal modulator with its aggregation as one node of the exported graph."""

    def aggregate(self, ctx: Tensor, gates: Tensor) -> Tensor:
        """Normalised tokens (B, T*H*W, C), all gates (B, T*H*W, G) -> (B, T*H*W, C)."""
        if not torch.onnx.is_in_onnx_export():
            return super().aggregate(ctx, gates)
        return context_node("TemporalContext", self, ctx, gates, self.bias)
