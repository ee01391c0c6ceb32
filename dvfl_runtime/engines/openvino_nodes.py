"""Reads the nodes of domain `dvfl` in OpenVINO, which does not expand the functions of a file.

Each node becomes the standard operators that its function consists of, in the formulation that
OpenVINO runs fastest. The contract of the nodes is in export/README.md.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, TypeAlias

import numpy as np

from dvfl_runtime.artifact import FUSED_DOMAIN

TO_PLANES, TO_TOKENS = [0, 3, 1, 2], [0, 2, 3, 1]  # (N, *plane, C) -> (N, C, *plane), and back

Conversion: TypeAlias = Callable[[Any], Any]  # a NodeContext -> the node that computes its output


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
        if conversion := CONVERSIONS.get(op_type.rstrip("0123456789")):
            frontend.add_extension(ConversionExtension(op_type, FUSED_DOMAIN, _reader(conversion)))
    return frontend.convert(frontend.load(path))


def _reader(conversion: Conversion) -> Callable[[Any], list[Any]]:
    return lambda node: conversion(node).outputs()


def bias_gelu(node: Any) -> Any:
    """Gelu(product + bias)."""
    from openvino import opset13 as ops

    return ops.gelu(ops.add(node.get_input(0), node.get_input(1)), "erf")


def spatial_context(node: Any) -> Any:
    """Depthwise convolutions over the pixels of each frame."""
    from openvino import opset13 as ops

    _, height, width, channels = _sizes(node)

    def convolve(x: Any, level: int) -> Any:
        kernel = node.get_input(2 + level)
        size = kernel.get_shape()[2]
        # (C, 1, k, k) -> (C, 1, 1, k, k)
        kernel = ops.reshape(kernel, np.array([channels, 1, 1, size, size]), False)
        padding = [size // 2] * 2
        return ops.group_convolution(x, kernel, [1, 1], padding, padding, [1, 1])

    levels = node.get_input_size() - 2
    return _context(node, (height, width), convolve, levels, np.array([2, 3]))


def temporal_context(node: Any) -> Any:
    """Dense convolutions over the frames of each pixel."""
    from openvino import opset13 as ops

    frames, height, width, _ = _sizes(node)

    def convolve(x: Any, level: int) -> Any:
        kernel = node.get_input(3 + level)
        padding = [kernel.get_shape()[2] // 2, 0]
        x = ops.convolution(x, kernel, [1, 1], padding, padding, [1, 1])
        return ops.add(x, node.get_input(2)) if level == 0 else x

    levels = node.get_input_size() - 3
    return _context(node, (frames, height * width), convolve, levels, np.array([2]))


def _context(
    node: Any,
    plane: tuple[int, int],
    convolve: Callable[[Any, int], Any],
    levels: int,
    mean_axes: Any,
) -> Any:
    """Return the gated sum of the levels of a context and of their mean.

    Args:
        node: of the file.
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
    x = _planes(node.get_input(0), plane, channels)
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


def _sizes(node: Any) -> tuple[int, ...]:
    """Return T, H, W and C of a node's tokens."""
    names = ("frames", "height", "width", "channels")
    return tuple(int(node.get_attribute(name)) for name in names)


CONVERSIONS: dict[str, Conversion] = {
    "BiasGelu": bias_gelu,
    "SpatialContext": spatial_context,
    "TemporalContext": temporal_context,
}
