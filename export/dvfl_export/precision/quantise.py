"""int8: the operators that multiply by weights read and multiply bytes.

    before  x (float32) -> MatMul [W float32]
    after   x -> QuantizeLinear -> DequantizeLinear -> MatMul [W int8 -> DequantizeLinear]

Engines fuse the last three into one integer product; an engine that does not still computes the
same. A node of domain `dvfl` that only such products read becomes its quantised twin, which writes
the bytes itself, so that no QuantizeLinear stands after it:

    before  MatMul -> BiasGelu -> MatMul
    after   MatMul -> QBiasGelu -> DequantizeLinear -> MatMul

Then `products` puts the products into the nodes that read them.

- Weights: symmetric, one scale for each output channel, 7 bits, -64 to 64: CPUs without VNNI add
  two 8-bit products in 16 bits, which would saturate with 8-bit weights.
- Activations: symmetric, one scale and one QuantizeLinear for each tensor, however many layers
  read it. In the file they are uint8 with the zero point 128, one initializer for all of them:
  onnxruntime (1.32) multiplies int8 in float32 where several layers read it, or where a node of
  `dvfl` made it. The runtime replaces that initializer for engines that want signed bytes.
- The result of a convolution outside of these nodes is quantised too: onnxruntime has no integer
  convolution with a float32 result, and computes in float32 where it cannot fuse.
- Products that use each value they read less than 4 times stay in float32, such as depthwise
  convolutions: quantising the value costs as much as the integer product gains. The gates use each
  value six times; they are in int8 so that nothing reads the normalised tokens in float32.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from dvfl_export.deploy.functions import kernels_of, kind_of, write_functions
from dvfl_export.deploy.quantised_functions import add_quantised_functions, quantised_version
from dvfl_export.precision.products import fuse_products
from dvfl_export.precision.ranges import Ranges, level_key
from dvfl_runtime.artifact import FUSED_DOMAIN

LEAST_USES = 4  # of each value that a product reads
ZERO_POINT = "zero_point"  # the initializer that all quantised activations share
LARGEST = 127  # of an activation
LARGEST_WEIGHT = 64
# nodes of domain `dvfl` that have a quantised twin, whatever comes before them
TWINS = ("SpatialContext", "BiasGelu", "Modulate", "AddNorm", "EmbedNorm", "AddPatches")
OUTPUT_AXIS = {"MatMul": 1, "Conv": 0}


def layers_of(model: onnx.ModelProto) -> tuple[str, ...]:
    """Return the names of the nodes that can be quantised, in the order of the graph."""
    shapes = {weight.name: tuple(weight.dims) for weight in model.graph.initializer}
    return tuple(node.name for node in model.graph.node if _is_layer(node, shapes))


def _is_layer(node: onnx.NodeProto, shapes: dict[str, tuple[int, ...]]) -> bool:
    if kind_of(node) == "TemporalContext":
        return True
    if node.op_type not in OUTPUT_AXIS or node.input[1] not in shapes:
        return False
    groups = next((a.i for a in node.attribute if a.name == "group"), 1)
    # (O, I / groups, k, k) of a Conv, (I, O) of a MatMul
    return shapes[node.input[1]][OUTPUT_AXIS[node.op_type]] // groups >= LEAST_USES


def quantise(
    model: onnx.ModelProto, ranges: Ranges, floats: Collection[str] = ()
) -> onnx.ModelProto:
    """Return a quantised copy.

    Args:
        model: a deploy form in float32; left unchanged.
        ranges: of its activations.
        floats: names of `layers_of(model)` that stay in float32.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    layers = {name for name in layers_of(model) if name not in floats}
    if layers:
        _Quantiser(copy.graph, ranges, layers).run()
        if any(node.domain == FUSED_DOMAIN for node in copy.graph.node):
            fuse_products(copy.graph, ZERO_POINT)
        write_functions(copy)
        add_quantised_functions(copy)
    return copy


class _Quantiser:
    """Writes the nodes of a graph anew, some of them quantised."""

    def __init__(self, graph: onnx.GraphProto, ranges: Ranges, layers: Collection[str]) -> None:
        self._graph, self._ranges, self._layers = graph, ranges, layers
        self._weights = {weight.name: weight for weight in graph.initializer}
        self._nodes: list[onnx.NodeProto] = []
        self._added: dict[str, onnx.TensorProto] = {}
        self._bytes: dict[str, str] = {}  # float value -> its bytes
        self._floats: dict[str, str] = {}  # float value -> the same, dequantised
        self._bytes_alone: set[str] = set()  # values that no node writes in float32
        self._read_as_floats: set[str] = set()

    def run(self) -> None:
        """Replace the nodes and initializers of the graph."""
        self._add(ZERO_POINT, np.array(128, np.uint8))
        self._read_as_floats = {
            name
            for node in self._graph.node
            for index, name in enumerate(node.input)
            if index or node.name not in self._layers
        }
        for node in list(self._graph.node):
            self._write(node)
        used = {name for node in self._nodes for name in node.input}
        initializers = [w for w in self._graph.initializer if w.name in used]
        del self._graph.node[:], self._graph.initializer[:]
        self._graph.node.extend(self._nodes)
        self._graph.initializer.extend([*initializers, *self._added.values()])

    def _write(self, node: onnx.NodeProto) -> None:
        """Write a node as it is, or quantised."""
        kind = kind_of(node)
        if node.name in self._layers:
            write = {
                "MatMul": self._product,
                "Conv": self._convolution,
                "TemporalContext": self._temporal_context,
            }
            write[kind](node)
        elif kind in TWINS and node.output[-1] not in self._read_as_floats:
            self._quantised_twin(node, list(kernels_of(node)))
        else:
            self._plain(node)

    def _plain(self, node: onnx.NodeProto) -> None:
        """Write a node in float32; values that exist as bytes alone are dequantised for it."""
        for index, name in enumerate(node.input):
            if name in self._bytes_alone:
                node.input[index] = self._dequantised(name)
        self._nodes.append(node)

    def _product(self, node: onnx.NodeProto) -> None:
        """Write a product, or a convolution, of bytes."""
        axis = OUTPUT_AXIS[node.op_type]
        node.input[0] = self._dequantised(node.input[0])
        weight = node.input[1]
        name = f"{weight}.dequantised"
        if weight not in self._floats:
            self._floats[weight] = name
            integers, scales = self._kernel(weight, axis)
            outputs = self._added[scales].dims[0]
            # onnxruntime 1.21 fails on products whose weights have scales and no zero points
            zeros = self._add(f"zeros.{outputs}", np.zeros(outputs, np.int8))
            inputs = [integers, scales, zeros]
            pair = helper.make_node("DequantizeLinear", inputs, [name], name, axis=axis)
            self._nodes.append(pair)
        node.input[1] = self._floats[weight]
        self._nodes.append(node)

    def _convolution(self, node: onnx.NodeProto) -> None:
        """Write a convolution of bytes, and round its result to bytes."""
        out = node.output[0]
        exact = f"{out}.exact"
        self._product(node)
        node.output[0] = exact
        scale = self._scale(out)
        rounded = f"{out}.bytes"
        self._nodes += [
            helper.make_node("QuantizeLinear", [exact, scale, ZERO_POINT], [rounded], rounded),
            helper.make_node(
                "DequantizeLinear", [rounded, scale, ZERO_POINT], [out], f"{out}.float"
            ),
        ]

    def _temporal_context(self, node: onnx.NodeProto) -> None:
        """Write a QTemporalContext in the place of a TemporalContext."""
        levels: list[str] = []
        for level, kernel in enumerate(kernels_of(node), 1):
            value = node.input[0] if level == 1 else level_key(node, level, "input")
            levels += [self._scale(value), *self._kernel(kernel, 0)]
            scale = self._scale_of(level_key(node, level, "sum"))
            node.attribute.append(helper.make_attribute(f"sum_scale_{level}", float(scale)))
        node.input[0] = self._quantised(node.input[0])
        self._quantised_twin(node, levels)

    def _quantised_twin(self, node: onnx.NodeProto, levels: list[str]) -> None:
        """Write the node that computes the same as another one and quantises its last output.

        Args:
            node: of domain `dvfl`.
            levels: the inputs that take the place of its kernels.
        """
        value, kind = node.output[-1], kind_of(node)
        fixed = node.input[: len(node.input) - len(kernels_of(node))]
        node.op_type = f"Q{node.op_type}"
        node.input[:] = [*fixed, self._scale(value), ZERO_POINT, *levels]
        node.output[-1] = self._bytes[value] = f"{value}.bytes"
        self._bytes_alone.add(value)
        version = next(a for a in node.attribute if a.name == "plugin_version")
        version.s = str(quantised_version(kind)).encode()
        self._nodes.append(node)

    def _quantised(self, value: str) -> str:
        """Return the bytes of a value."""
        if value not in self._bytes:
            name = self._bytes[value] = f"{value}.bytes"
            inputs = [value, self._scale(value), ZERO_POINT]
            self._nodes.append(helper.make_node("QuantizeLinear", inputs, [name], name))
        return self._bytes[value]

    def _dequantised(self, value: str) -> str:
        """Return a value that was rounded to bytes, in float32."""
        if value not in self._floats:
            name = f"{value}.dequantised"
            inputs = [self._quantised(value), self._scale(value), ZERO_POINT]
            self._nodes.append(helper.make_node("DequantizeLinear", inputs, [name], name))
            self._floats[value] = name
        return self._floats[value]

    def _scale(self, value: str) -> str:
        """Return the initializer of a value's scale."""
        return self._add(f"{value}.scale", self._scale_of(value))

    def _scale_of(self, key: str) -> NDArray[np.float32]:
        # a tensor of zeros has any scale
        return np.asarray((self._ranges[key] or 1.0) / LARGEST, np.float32)

    def _kernel(self, weight: str, axis: int) -> tuple[str, str]:
        """Return a weight's initializers in int8: the integers, and a scale for each output."""
        integers, scales = quantised_weight(numpy_helper.to_array(self._weights[weight]), axis)
        return self._add(f"{weight}.int8", integers), self._add(f"{weight}.scale", scales)

    def _add(self, name: str, values: NDArray[Any]) -> str:
        if name not in self._added:
            self._added[name] = numpy_helper.from_array(values, name)
        return name


def quantised_weight(
    values: NDArray[np.float32], axis: int
) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Return integers, and the scale of each output along an axis."""
    others = tuple(i for i in range(values.ndim) if i != axis)
    scales = (np.abs(values).max(axis=others) / LARGEST_WEIGHT).astype(np.float32)
    scales[scales == 0] = 1
    column = np.expand_dims(scales, others)
    integers = np.clip(np.rint(values / column), -LARGEST_WEIGHT, LARGEST_WEIGHT)
    return integers.astype(np.int8), scales
