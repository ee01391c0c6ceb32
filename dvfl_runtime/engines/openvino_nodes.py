"""Reads the nodes of domain `dvfl` in OpenVINO, which does not expand the functions of a file.

Each node becomes the standard operators that its function consists of, in the formulation that
OpenVINO runs fastest. The contract of the nodes is in export/README.md.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from dvfl_runtime.artifact import FUSED_DOMAIN

TO_PLANES, TO_TOKENS = [0, 3, 1, 2], [0, 2, 3, 1]  # (N, *plane, C) -> (N, C, *plane), and back

# a NodeContext, and whether it is of the quantised kind -> its outputs, all of them in float32
Conversion: TypeAlias = Callable[[Any, bool], list[Any]]


def read_onnx(path: str, op_types: Collection[str]) -> Any:
    """Return the `openvino.Model` of an ONNX file.

    The ONNX front end alone reads it: `Core.read_model` tries the others too and prints the
    objections of each.

    Args:
        path: of the file.
        op_types: of its `dvfl` nodes. A number at the end says how many levels such nodes have.

    Raises:
        Exception: if OpenVINO cannot read it; the front ends' exceptions share no base.
    """
    from openvino.frontend import FrontEndManager
    from openvino.frontend.onnx import ConversionExtension

    frontend = FrontEndManager().load_by_framework("onnx")
    for op_type in op_types:
        kind = op_type.rstrip("0123456789").removeprefix(LINEAR)
        linear = op_type.startswith(LINEAR)
        quantised = linear or kind.startswith("Q")
        kind = kind if linear else kind.removeprefix("Q")
        if conversion := CONVERSIONS.get(kind):
            scale = SCALES.get(kind) if quantised else None
            read = _reader(conversion, scale, PRODUCTS[kind] if linear else ())
            frontend.add_extension(ConversionExtension(op_type, FUSED_DOMAIN, read))
    return frontend.convert(frontend.load(path))


class _Linear:
    """A node that computes products, as the node that reads them.

    Args:
        node: of the file, whose inputs have five parts of each product in its place.
        products: which inputs of the node without the products are products.
    """

    def __init__(self, node: Any, products: Collection[int]) -> None:
        inputs = [node.get_input(i) for i in range(node.get_input_size())]
        self.get_attribute = node.get_attribute
        self._inputs: list[Any] = []
        zero_point = inputs[-1].get_node().data
        while inputs:
            taken = 5 if len(self._inputs) in products else 1
            parts, inputs = inputs[:taken], inputs[taken:]
            self._inputs.append(_product(parts, zero_point) if taken > 1 else parts[0])

    def get_input(self, index: int) -> Any:
        return self._inputs[index]


def _product(parts: list[Any], zero_point: NDArray[Any]) -> Any:
    """Return the product of bytes, whose inputs are those of two DequantizeLinear."""
    from openvino import opset13 as ops

    x, x_scale, weight, weight_scale, weight_zero = parts
    scales, zeros = (part.get_node().data[None, :] for part in (weight_scale, weight_zero))
    matrix = _dequantised(weight, scales, zeros)
    return ops.matmul(_dequantised(x, x_scale, zero_point), matrix, False, False).output(0)


def _reader(
    conversion: Conversion, scale: int | None, products: Collection[int]
) -> Callable[[Any], list[Any]]:
    """Return what reads a node.

    Args:
        conversion: of the node without a Q in its name.
        scale: the input of its quantised twin with the scale of the output; None for float32.
        products: the inputs that the node computes itself.
    """

    def read(node: Any) -> list[Any]:
        node = _Linear(node, products) if products else node
        *others, last = conversion(node, scale is not None)
        if scale is not None:
            zero_point = node.get_input(scale + 1).get_node().data
            last = _quantised(last, node.get_input(scale), zero_point)
        return [output for part in (*others, last) for output in part.outputs()]

    return read


def bias(node: Any, quantised: bool) -> list[Any]:
    """Product + bias."""
    from openvino import opset13 as ops

    return [ops.add(node.get_input(0), node.get_input(1))]


def bias_gelu(node: Any, quantised: bool) -> list[Any]:
    """Gelu(product + bias)."""
    from openvino import opset13 as ops

    return [ops.gelu(ops.add(node.get_input(0), node.get_input(1)), "erf")]


def modulate(node: Any, quantised: bool) -> list[Any]:
    """(q + its bias) * (spatial modulator + its bias) * (temporal modulator + its bias)."""
    from openvino import opset13 as ops

    terms = [ops.add(node.get_input(i), node.get_input(i + 3)) for i in range(3)]
    return [ops.multiply(ops.multiply(terms[0], terms[1]), terms[2])]


def add_norm(node: Any, quantised: bool) -> list[Any]:
    """Return x + (product + bias), and the layer normalisation of it."""
    from openvino import opset13 as ops

    x, product, bias = (node.get_input(i) for i in range(3))
    total = ops.add(x, ops.add(product, bias))
    return [total, _layer_norm(node, total, 3)]


def embed_norm(node: Any, quantised: bool) -> list[Any]:
    """Return the layer normalisation of product + bias, and that of the result."""
    from openvino import opset13 as ops

    tokens = _layer_norm(node, ops.add(node.get_input(0), node.get_input(1)), 2)
    return [tokens, _layer_norm(node, tokens, 4)]


def add_patches(node: Any, quantised: bool) -> list[Any]:
    """Return x + product, the k x k tokens of a patch side by side."""
    from openvino import opset13 as ops

    names = ("rows", "columns", "stride", "channels")
    rows, columns, stride, channels = (int(node.get_attribute(name)) for name in names)
    x = ops.add(node.get_input(0), node.get_input(1))
    # (B, T*H*W, C) -> (B*T*H', k, W', k*C) -> (B*T*H', W', k, k*C) -> (B, T*H'*W', k*k*C)
    x = ops.reshape(x, np.array([-1, stride, columns, stride * channels]), False)
    x = ops.transpose(x, np.array([0, 2, 1, 3]))
    return [ops.reshape(x, np.array([-1, rows * columns, stride**2 * channels]), False)]


def _layer_norm(node: Any, x: Any, scale: int) -> Any:
    """Return the layer normalisation of x; `scale` is the node's input before the shift."""
    from openvino import opset13 as ops

    epsilon = float(node.get_attribute("epsilon"))
    x = ops.mvn(x, np.array([-1]), True, epsilon, "inside_sqrt")
    return ops.add(ops.multiply(x, node.get_input(scale)), node.get_input(scale + 1))


def spatial_context(node: Any, quantised: bool) -> list[Any]:
    """Depthwise convolutions over the pixels of each frame."""
    from openvino import opset13 as ops

    _, height, width, channels = _sizes(node)
    first = 4 if quantised else 2  # of the kernels

    def convolve(x: Any, level: int) -> Any:
        kernel = node.get_input(first + level)
        size = kernel.get_shape()[2]
        # (C, 1, k, k) -> (C, 1, 1, k, k)
        kernel = ops.reshape(kernel, np.array([channels, 1, 1, size, size]), False)
        padding = [size // 2] * 2
        return ops.group_convolution(x, kernel, [1, 1], padding, padding, [1, 1])

    levels = node.get_input_size() - first
    x = node.get_input(0)
    return [_context(node, x, (height, width), convolve, levels, np.array([2, 3]))]


def temporal_context(node: Any, quantised: bool) -> list[Any]:
    """Dense convolutions over the frames of each pixel, of bytes in the quantised node."""
    from openvino import opset13 as ops

    frames, height, width, _ = _sizes(node)

    def convolve(x: Any, level: int) -> Any:
        kernel = node.get_input(3 + level)
        padding = [kernel.get_shape()[2] // 2, 0]
        return ops.convolution(x, kernel, [1, 1], padding, padding, [1, 1])

    def convolve_bytes(x: Any, level: int) -> Any:
        zero_point = node.get_input(4).get_node().data
        scale, kernel, kernel_scale = (node.get_input(5 + 3 * level + i) for i in range(3))
        if level > 0:
            x = _dequantised(_quantised(x, scale, zero_point), scale, zero_point)
        scales = kernel_scale.get_node().data.reshape(-1, 1, 1, 1)  # (C,) -> (C out, 1, 1, 1)
        weight = _dequantised(kernel, scales, np.zeros((), np.int8))
        padding = [kernel.get_shape()[2] // 2, 0]
        return ops.convolution(x, weight, [1, 1], padding, padding, [1, 1])

    def with_bias(x: Any, level: int) -> Any:
        x = (convolve_bytes if quantised else convolve)(x, level)
        return ops.add(x, node.get_input(2)) if level == 0 else x

    x, levels = node.get_input(0), node.get_input_size() - 3
    if quantised:
        # before it is moved, or OpenVINO convolves in float32
        x = _dequantised(x, node.get_input(5), node.get_input(4).get_node().data)
        levels = (node.get_input_size() - 5) // 3
    return [_context(node, x, (frames, height * width), with_bias, levels, np.array([2]))]


def _context(
    node: Any,
    x: Any,
    plane: tuple[int, int],
    convolve: Callable[[Any, int], Any],
    levels: int,
    mean_axes: Any,
) -> Any:
    """Return the gated sum of the levels of a context and of their mean.

    Args:
        node: of the file.
        x: the tokens (B, T*H*W, C) in float32.
        plane: the sizes of the two axes that a convolution sees.
        convolve: the convolution of a level, of (N, C, *plane).
        levels: how many there are.
        mean_axes: those axes of (N, C, *plane) that the mean runs over.
    """
    from openvino import opset13 as ops

    frames, height, width, channels = _sizes(node)
    first_gate = int(node.get_attribute("gate_offset"))
    gates = node.get_input(1)
    number = gates.get_partial_shape()[2].get_length()
    gates = _planes(gates, plane, number)
    x = _planes(x, plane, channels)
    parts = []
    for level in range(levels + 1):
        if level < levels:
            x = part = ops.gelu(convolve(x, level), "erf")
        else:
            part = ops.gelu(ops.reduce_mean(x, mean_axes, True), "erf")
        begin = first_gate + level
        gate = ops.slice(gates, *(np.array([place]) for place in (begin, begin + 1, 1, 1)))
        parts.append(ops.multiply(part, gate))
    total = parts[0]
    for part in parts[1:]:
        total = ops.add(total, part)
    # (N, C, *plane) -> (N, *plane, C) -> (B, T*H*W, C)
    tokens = ops.transpose(total, np.array(TO_TOKENS))
    return ops.reshape(tokens, np.array([-1, frames * height * width, channels]), False)


def _planes(x: Any, plane: tuple[int, int], channels: int) -> Any:
    """(B, T*H*W, C) -> (N, *plane, C) -> (N, C, *plane)."""
    from openvino import opset13 as ops

    x = ops.reshape(x, np.array([-1, *plane, channels]), False)
    return ops.transpose(x, np.array(TO_PLANES))


def _quantised(x: Any, scale: Any, zero_point: NDArray[Any]) -> Any:
    """Return x / scale + zero_point as bytes, like OpenVINO's own reading of QuantizeLinear."""
    from openvino import opset13 as ops

    step, kind = np.float32(scale.get_node().data), zero_point.dtype
    ends = [np.float32(end) for end in (np.iinfo(kind).min, np.iinfo(kind).max)]
    bounds = [(end - np.float32(zero_point)) * step for end in ends]
    return ops.convert(ops.fake_quantize(x, *bounds, *ends, 256), kind)


def _dequantised(x: Any, scale: Any, zero_point: NDArray[Any]) -> Any:
    """Return (x - zero_point) * scale, like OpenVINO's own reading of DequantizeLinear."""
    from openvino import opset13 as ops

    return ops.multiply(ops.subtract(ops.convert(x, "f32"), np.float32(zero_point)), scale)


def _sizes(node: Any) -> tuple[int, ...]:
    """Return T, H, W and C of a node's tokens."""
    names = ("frames", "height", "width", "channels")
    return tuple(int(node.get_attribute(name)) for name in names)


CONVERSIONS: dict[str, Conversion] = {
    "AddNorm": add_norm,
    "AddPatches": add_patches,
    "Bias": bias,
    "BiasGelu": bias_gelu,
    "EmbedNorm": embed_norm,
    "Modulate": modulate,
    "SpatialContext": spatial_context,
    "TemporalContext": temporal_context,
}
LINEAR = "QLinear"  # what the name of a node begins with that computes its products
# the input of a quantised twin with the scale of its output; the zero point is the next one
SCALES = {
    "AddNorm": 5,
    "AddPatches": 2,
    "BiasGelu": 2,
    "EmbedNorm": 6,
    "Modulate": 6,
    "SpatialContext": 2,
    "TemporalContext": 3,
}
# the inputs of a twin that are products
PRODUCTS = {
    "AddNorm": (1,),
    "AddPatches": (1,),
    "Bias": (0,),
    "BiasGelu": (0,),
    "EmbedNorm": (0,),
    "Modulate": (0, 1, 2),
}
