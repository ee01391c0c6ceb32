"""The bodies of the `dvfl` nodes: model-local functions of standard operators, in the file itself.

An engine without a kernel for a node runs its body. The contract is in export/README.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import onnx
import onnx.parser

from dvfl_export.deploy.fused_ops import PLUGIN_VERSIONS
from dvfl_runtime.artifact import FUSED_DOMAIN

FIXED_INPUTS = {"SpatialContext": 2, "TemporalContext": 3}  # before those of the kernels

CONTEXT_SIGNATURE = """
<domain: "dvfl", opset_import: ["" : 20]>
{name} <frames, height, width, channels, levels, gate_offset, kernel_sizes,
        plugin_namespace: string = "dvfl", plugin_version: string = "{version}">
    ({inputs}) => (modulator)
"""

ROWS_SIGNATURE = """
<domain: "dvfl", opset_import: ["" : 20]>
{name} <{attributes}plugin_namespace: string = "dvfl", plugin_version: string = "{version}">
    ({inputs}) => ({outputs})
"""


class RowsBody(NamedTuple):
    """The body of a node that computes each token on its own."""

    inputs: str
    outputs: str
    text: str
    attributes: str = ""


# node -> its body; the last output is the one that the quantised twin of the node gives as bytes
ROWS = {
    "BiasGelu": RowsBody(
        "product, bias",
        "activation",
        """
    total = Add (product, bias)
    activation = Gelu (total)
""",
    ),
    "Modulate": RowsBody(
        "q, spatial, temporal, q_bias, spatial_bias, temporal_bias",
        "modulated",
        """
    q_sum = Add (q, q_bias)
    spatial_sum = Add (spatial, spatial_bias)
    temporal_sum = Add (temporal, temporal_bias)
    modulated_in_space = Mul (q_sum, spatial_sum)
    modulated = Mul (modulated_in_space, temporal_sum)
""",
    ),
    "AddNorm": RowsBody(
        "x, product, bias, norm_scale, norm_shift",
        "total, normalised",
        """
    branch = Add (product, bias)
    total = Add (x, branch)
    normalised = LayerNormalization <axis = -1, epsilon: float = @epsilon>
        (total, norm_scale, norm_shift)
""",
        attributes="epsilon, ",
    ),
    "EmbedNorm": RowsBody(
        "product, bias, embed_scale, embed_shift, norm_scale, norm_shift",
        "tokens, normalised",
        """
    embedded = Add (product, bias)
    tokens = LayerNormalization <axis = -1, epsilon: float = @epsilon>
        (embedded, embed_scale, embed_shift)
    normalised = LayerNormalization <axis = -1, epsilon: float = @epsilon>
        (tokens, norm_scale, norm_shift)
""",
        attributes="epsilon, ",
    ),
    # (B, T*H*W, C) -> (B*T*H', k, W', k*C) -> (B*T*H', W', k, k*C) -> (B, T*H'*W', k*k*C)
    "AddPatches": RowsBody(
        "x, product",
        "patches",
        """
    any = Constant <value_ints = [-1]> ()
    scalar_r = Constant <value_int: int = @rows> ()
    r = Reshape (scalar_r, any)
    scalar_w = Constant <value_int: int = @columns> ()
    w = Reshape (scalar_w, any)
    scalar_k = Constant <value_int: int = @stride> ()
    k = Reshape (scalar_k, any)
    scalar_c = Constant <value_int: int = @channels> ()
    c = Reshape (scalar_c, any)
    row = Mul (k, c)
    patch = Mul (k, row)
    tokens = Mul (r, w)
    lines_shape = Concat <axis = 0> (any, k, w, row)
    shape = Concat <axis = 0> (any, tokens, patch)
    total = Add (x, product)
    lines = Reshape (total, lines_shape)
    columns_first = Transpose <perm = [0, 2, 1, 3]> (lines)
    patches = Reshape (columns_first, shape)
""",
        attributes="rows, columns, stride, channels, ",
    ),
}

# sizes as tensors of one element, and the first of this node's own gates
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
    all_gates = Constant <value_ints = [{gates}]> ()
    pixels = Mul (h, w)
    tokens = Mul (t, pixels)
    shape = Concat <axis = 0> (any, tokens, c)
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
    context_shape = Concat <axis = 0> (any, t, pixels, c)
    gates_shape = Concat <axis = 0> (any, t, pixels, all_gates)
    mean_axes = Constant <value_ints = [2]> ()
    rows = Reshape (context, context_shape)
    context_0 = Transpose <perm = [0, 3, 1, 2]> (rows)
"""

# (B, T*H*W, G) -> (N, G, *plane)
GATES = """
    gate_axis = Constant <value_ints = [1]> ()
    gate_rows = Reshape (gates, gates_shape)
    gate_planes = Transpose <perm = [0, 3, 1, 2]> (gate_rows)
"""

# (N, G, *plane) -> (N, 1, *plane)
GATE = """
    before_{number} = Constant <value_ints = [{before}]> ()
    begin_{number} = Add (first_gate, before_{number})
    until_{number} = Constant <value_ints = [{number}]> ()
    end_{number} = Add (first_gate, until_{number})
    gate_{number} = Slice (gate_planes, begin_{number}, end_{number}, gate_axis)
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
    everywhere = Gelu (mean)
    part_{last} = Mul (everywhere, gate_{last})
    total_{last} = Add ({before}, part_{last})
    channels_last = Transpose <perm = [0, 2, 3, 1]> (total_{last})
    modulator = Reshape (channels_last, shape)
"""

# a mean has thousands of summands, and float16 ends at 65504
MEAN = """
    mean = ReduceMean <keepdims = 1> (context_{levels}, mean_axes)
"""
MEAN_OF_HALF = """
    wide = Cast <to = 1> (context_{levels})
    wide_mean = ReduceMean <keepdims = 1> (wide, mean_axes)
    mean = Cast <to = 10> (wide_mean)
"""


def write_functions(model: onnx.ModelProto, *, half: bool = False) -> None:
    """Put the body of every kind of `dvfl` node in the file, in place of those before.

    Args:
        model: a graph whose nodes have the names of `number_levels`.
        half: whether its nodes compute in float16; the means stay in float32.
    """
    levels = {
        node.op_type: len(kernels_of(node))
        for node in _nodes(model)
        if kind_of(node) in PLUGIN_VERSIONS  # not the quantised ones
    }
    del model.functions[:]
    for name in sorted(levels):
        text = function_text(name, levels[name], half=half)
        model.functions.append(onnx.parser.parse_function(text))


def number_levels(model: onnx.ModelProto) -> None:
    """Name nodes after their number of levels where it is not the same in all stages.

    A function has a fixed number of inputs, and engines know it by its name alone.
    """
    nodes = [node for node in _nodes(model) if node.op_type in FIXED_INPUTS]
    levels = [len(kernels_of(node)) for node in nodes]
    for node, count in zip(nodes, levels, strict=True):
        if len(set(levels)) > 1:
            node.op_type = f"{node.op_type}{count}"


def function_text(name: str, levels: int, *, half: bool = False) -> str:
    """Return the function of a node with so many levels, in the textual syntax of ONNX.

    Args:
        name: of the function: that of the node, with or without a number after it.
        levels: of a context; 0 for other nodes.
        half: whether the node computes in float16.
    """
    kind = name.rstrip("0123456789")
    version = PLUGIN_VERSIONS[kind]
    if kind in ROWS:
        inputs, outputs, body, attributes = ROWS[kind]
        signature = ROWS_SIGNATURE.format(
            name=name, attributes=attributes, version=version, inputs=inputs, outputs=outputs
        )
        return f"{signature}{{{body}}}"
    temporal = kind == "TemporalContext"
    numbers = range(1, levels + 1)
    names = ["context", "gates", *(["frame_bias"] if temporal else [])]
    names += [f"kernel_{level}" for level in numbers]
    body = SIZES.format(gates=2 * (levels + 1))
    body += TEMPORAL_LAYOUT if temporal else SPATIAL_LAYOUT
    body += GATES
    for number in range(1, levels + 2):
        body += GATE.format(number=number, before=number - 1)
    before = "part_1"
    for level in numbers:
        conv = TEMPORAL_CONV if temporal else SPATIAL_CONV
        if temporal and level == 1:
            conv = TEMPORAL_FIRST_CONV
        body += (conv + LEVEL).format(level=level, before=level - 1)
        if level > 1:
            body += TOTAL.format(level=level, before=before)
            before = f"total_{level}"
    body += (MEAN_OF_HALF if half else MEAN).format(levels=levels)
    body += GLOBAL.format(last=levels + 1, before=before)
    signature = CONTEXT_SIGNATURE.format(name=name, version=version, inputs=", ".join(names))
    return f"{signature}{{{body}}}"


def kernels_of(node: onnx.NodeProto) -> Sequence[str]:
    """Return the names of the kernels of a context's node, () for any other node."""
    first = FIXED_INPUTS.get(kind_of(node), len(node.input))
    return list(node.input)[first:]


def _nodes(model: onnx.ModelProto) -> Iterable[onnx.NodeProto]:
    return (node for node in model.graph.node if node.domain == FUSED_DOMAIN)


def kind_of(node: onnx.NodeProto) -> str:
    """Return the operator of a node, without the number of levels that some have in their names."""
    return node.op_type.rstrip("0123456789")
