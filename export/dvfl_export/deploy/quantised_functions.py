"""The bodies of the quantised `dvfl` nodes.

Each computes what the node of its name without the Q computes, and quantises the last output. The
contract is in export/README.md. The bodies take the type of the bytes from the `zero_point` that
they are given: uint8 and 128 in the file, int8 and 0 once an engine's loader has replaced it.

A node whose name begins with QLinear computes the products as well that its twin reads.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx
import onnx.parser

from dvfl_export.deploy.functions import (
    GATE,
    GATES,
    GLOBAL,
    LEVEL,
    MEAN,
    ROWS,
    SIZES,
    SPATIAL_CONV,
    SPATIAL_LAYOUT,
    TEMPORAL_LAYOUT,
    TOTAL,
    RowsBody,
)
from dvfl_export.deploy.fused_ops import PLUGIN_VERSIONS
from dvfl_runtime.artifact import FUSED_DOMAIN

FUNCTION = """
<domain: "dvfl", opset_import: ["" : 20]>
{name} <{attributes}plugin_namespace: string = "dvfl", plugin_version: string = "{version}">
    ({inputs}) => ({outputs})
{{{body}}}
"""
QUANTISE = """
    quantised = QuantizeLinear ({value}, output_scale, zero_point)
"""
SIZE_ATTRIBUTES = "frames, height, width, channels, levels, gate_offset, kernel_sizes, "

TOKENS = """
    context = DequantizeLinear (context_bytes, scale_1, zero_point)
"""
# the rounded sum is for onnxruntime, which has no integer convolution with a float32 result
TEMPORAL_CONV = """
    weight_{level} = DequantizeLinear <axis = 0> (kernel_{level}, kernel_scale_{level})
    exact_{level} = Conv <auto_pad = "SAME_UPPER"> ({rows}, weight_{level})
    sum_scale_{level} = Constant <value_float: float = @sum_scale_{level}> ()
    sum_bytes_{level} = QuantizeLinear (exact_{level}, sum_scale_{level}, zero_point)
    rounded_{level} = DequantizeLinear (sum_bytes_{level}, sum_scale_{level}, zero_point)
"""
FRAME_BIAS = """
    sum_1 = Add (rounded_1, frame_bias)
"""
NO_BIAS = """
    sum_{level} = Identity (rounded_{level})
"""
NEXT_INPUT = """
    bytes_{level} = QuantizeLinear (context_{before}, scale_{level}, zero_point)
    rows_{level} = DequantizeLinear (bytes_{level}, scale_{level}, zero_point)
"""


LINEAR = "QLinear"  # what the name of such a node begins with
LINEAR_VERSION = 4
PRODUCTS = ("product", "q", "spatial", "temporal")  # the inputs of ROWS that are products
PRODUCT_INPUTS = "{0}_bytes, {0}_scale, {0}_weight, {0}_weight_scale, {0}_weight_zero"
PRODUCT = """
    {0}_floats = DequantizeLinear ({0}_bytes, {0}_scale, zero_point)
    {0}_matrix = DequantizeLinear <axis = 1> ({0}_weight, {0}_weight_scale, {0}_weight_zero)
    {0} = MatMul ({0}_floats, {0}_matrix)
"""
BIAS = "Bias"  # the only one whose output is float32
BIAS_BODY = RowsBody("product, bias", "total", "\n    total = Add (product, bias)\n")


def inputs_of(kind: str) -> list[str]:
    """Return the inputs of a quantised node that computes each token on its own, () for others.

    Args:
        kind: its name, without the beginning.
    """
    if kind == BIAS:
        return [*BIAS_BODY.inputs.split(", "), "zero_point"]
    return [*ROWS[kind].inputs.split(", "), "output_scale", "zero_point"] if kind in ROWS else []


def quantised_version(kind: str) -> int:
    """Return the plugin_version of the quantised twin of a node; the first had 2."""
    return max(2, PLUGIN_VERSIONS.get(kind, LINEAR_VERSION))


def add_quantised_functions(model: onnx.ModelProto) -> None:
    """Add the body of every kind of quantised `dvfl` node in the graph."""
    levels: dict[str, int] = {}
    for node in model.graph.node:
        if node.domain == FUSED_DOMAIN and node.op_type.startswith("Q"):
            levels[node.op_type] = next((a.i for a in node.attribute if a.name == "levels"), 0)
    for name in sorted(levels):
        model.functions.append(onnx.parser.parse_function(function_text(name, levels[name])))


def function_text(name: str, levels: int = 0) -> str:
    """Return the function of a quantised node, in the textual syntax of ONNX.

    Args:
        name: of the function: that of the node, with or without a number after it.
        levels: of a context; 0 for other nodes.
    """
    kind = name.rstrip("0123456789").removeprefix(LINEAR).removeprefix("Q")
    if inputs := inputs_of(kind):
        return _rows_text(name, kind, inputs)
    names, attributes = _context_signature(kind, levels)
    return FUNCTION.format(
        name=name,
        attributes=attributes,
        version=quantised_version(kind),
        inputs=names,
        outputs="quantised",
        body=_context_body(kind, levels) + QUANTISE.format(value="modulator"),
    )


def _rows_text(name: str, kind: str, inputs: Sequence[str]) -> str:
    """Return the function of a node that computes each token on its own."""
    body, version = BIAS_BODY if kind == BIAS else ROWS[kind], quantised_version(kind)
    text, outputs = body.text, body.outputs.split(", ")
    if kind != BIAS:
        text += QUANTISE.format(value=outputs[-1])
        outputs[-1] = "quantised"
    if name.startswith(LINEAR):
        version = LINEAR_VERSION
        products = [each for each in inputs if each in PRODUCTS]
        text = "".join(PRODUCT.format(each) for each in products) + text
        inputs = [PRODUCT_INPUTS.format(each) if each in products else each for each in inputs]
    return FUNCTION.format(
        name=name,
        attributes=body.attributes,
        version=version,
        inputs=", ".join(inputs),
        outputs=", ".join(outputs),
        body=text,
    )


def _context_signature(kind: str, levels: int) -> tuple[str, str]:
    """Return the inputs and the attributes of a context."""
    numbers = range(1, levels + 1)
    if kind == "SpatialContext":
        kernels = (f"kernel_{n}" for n in numbers)
        return ", ".join(["context, gates, output_scale, zero_point", *kernels]), SIZE_ATTRIBUTES
    triples = (f"scale_{n}, kernel_{n}, kernel_scale_{n}" for n in numbers)
    inputs = ", ".join(["context_bytes, gates, frame_bias, output_scale, zero_point", *triples])
    return inputs, SIZE_ATTRIBUTES + "".join(f"sum_scale_{n}, " for n in numbers)


def _context_body(kind: str, levels: int) -> str:
    """Return the nodes that compute the modulator of a context in float32."""
    temporal = kind == "TemporalContext"
    body = SIZES.format(gates=2 * (levels + 1))
    body += TOKENS + TEMPORAL_LAYOUT if temporal else SPATIAL_LAYOUT
    body += GATES + "".join(GATE.format(number=n, before=n - 1) for n in range(1, levels + 2))
    before = "part_1"
    for n in range(1, levels + 1):
        body += _temporal_conv(n) if temporal else SPATIAL_CONV.format(level=n, before=n - 1)
        body += LEVEL.format(level=n)
        if n > 1:
            body += TOTAL.format(level=n, before=before)
            before = f"total_{n}"
    return body + (MEAN + GLOBAL).format(levels=levels, last=levels + 1, before=before)


def _temporal_conv(level: int) -> str:
    """Return the nodes of the convolution of a level, with what it adds in the first."""
    if level == 1:
        return TEMPORAL_CONV.format(level=1, rows="context_0") + FRAME_BIAS
    text = NEXT_INPUT + TEMPORAL_CONV + NO_BIAS
    return text.format(level=level, before=level - 1, rows=f"rows_{level}")
