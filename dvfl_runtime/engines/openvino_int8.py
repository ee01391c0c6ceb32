"""int8 in OpenVINO on CPUs that have AVX2 and no instructions for dot products of bytes.

There OpenVINO (2026.4) multiplies int8 matrices no faster than float32 ones, but its int8
convolutions take half of the time. So each product with int8 weights becomes a 1x1 convolution:

    before  x -> FakeQuantize -> (B, N, I) -> MatMul [W int8] -> (B, N, O)
    after   x -> (B, I, T, N/T) -> FakeQuantize -> Convolution 1x1 [W int8] -> (B, N, O)

The transposes cost nothing, because OpenVINO computes with channels last. What convolutions give
is quantised in the file for onnxruntime's sake alone, and here it is not.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

WRAPPERS = ("Convert", "Reshape")  # around the constants that DequantizeLinear reads


class _Dequantised(NamedTuple):
    """A tensor that comes out of int8: what was quantised, or is int8 in the file, and how."""

    source: Any  # an output of a node
    scale: NDArray[np.float32]


class _Product(NamedTuple):
    """Tokens (B, N, I) times int8 weights (I, O)."""

    tokens: _Dequantised
    weight: NDArray[np.int8]
    scales: NDArray[np.float32]  # (O,), of the weight


def as_convolutions(model: Any) -> int:
    """Rewrites a model in place; what does not look as above stays.

    Args:
        model: an `openvino.Model` read from a file with QuantizeLinear and DequantizeLinear.

    Returns:
        how many products became convolutions.
    """
    from openvino import opset13 as ops

    frames = model.input(0).partial_shape[1].get_length()  # T
    inputs: dict[str, Any] = {}
    count = 0
    for node in model.get_ordered_ops():
        product = _product(node)
        if product is None:
            continue
        real, scale = product.tokens
        _, number, width = real.get_partial_shape()
        rows = frames if number.get_length() % frames == 0 else 1
        # what one tensor feeds is quantised once: the file has a copy for each reader
        name = f"{real.get_node().get_friendly_name()} {real.get_index()} {scale:.4g}"
        if name not in inputs:
            shape = [-1, rows, number.get_length() // rows, width.get_length()]
            x = ops.transpose(ops.reshape(real, np.array(shape), False), np.array([0, 3, 1, 2]))
            low, high = (np.float32(end) for end in (-128, 127))
            x = ops.fake_quantize(x, low * scale, high * scale, low, high, 256)
            x = ops.convert(ops.convert(x, "i8"), "f32")
            inputs[name] = ops.multiply(x, scale)
        kernel = ops.constant(np.ascontiguousarray(product.weight.T)[:, :, None, None])
        kernel = ops.multiply(ops.convert(kernel, "f32"), product.scales.reshape(-1, 1, 1, 1))
        y = ops.convolution(inputs[name], kernel, [1, 1], [0, 0], [0, 0], [1, 1])
        shape = [-1, number.get_length(), product.scales.size]
        y = ops.reshape(ops.transpose(y, np.array([0, 2, 3, 1])), np.array(shape), False)
        node.output(0).replace(y.output(0))
        count += 1
    _floats_from_convolutions(model)
    return count


def _floats_from_convolutions(model: Any) -> None:
    for node in model.get_ordered_ops():
        found = _dequantised(node)
        if found is not None and found.source.get_node().get_type_name() == "Convolution":
            node.output(0).replace(found.source)


def _product(node: Any) -> _Product | None:
    if node.get_type_name() != "MatMul" or any(node.get_attributes().values()):
        return None
    tokens, weight = (_dequantised(node.input_value(i).get_node()) for i in (0, 1))
    if tokens is None or weight is None or tokens.scale.size != 1:
        return None
    shape = tokens.source.get_partial_shape()
    values = _constant(weight.source)
    if len(shape) != 3 or shape[1].is_dynamic or shape[2].is_dynamic or values is None:
        return None
    if values.dtype != np.int8 or values.ndim != 2 or weight.scale.size != values.shape[1]:
        return None
    return _Product(tokens._replace(scale=tokens.scale.reshape(())), values, weight.scale)


def _dequantised(node: Any) -> _Dequantised | None:
    """Takes (Convert(int8) - 0) * scale apart, back to before FakeQuantize if there is one."""
    if node.get_type_name() != "Multiply":
        return None
    scale, subtract = _constant(node.input_value(1)), node.input_value(0).get_node()
    if scale is None or subtract.get_type_name() != "Subtract":
        return None
    zeros, source = _constant(subtract.input_value(1)), subtract.input_value(0)
    if zeros is None or zeros.any():
        return None
    while source.get_node().get_type_name() == "Convert":
        source = source.get_node().input_value(0)
    if source.get_node().get_type_name() == "FakeQuantize":
        source = source.get_node().input_value(0)
    return _Dequantised(source, scale.astype(np.float32))


def _constant(output: Any) -> NDArray[Any] | None:
    """Returns the values behind conversions and reshapes, None where they are not constant."""
    node = output.get_node()
    while node.get_type_name() in WRAPPERS:
        node = node.input_value(0).get_node()
    return node.data if node.get_type_name() == "Constant" else None
