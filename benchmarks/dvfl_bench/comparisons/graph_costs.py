"""What a model file has to do for one clip, node by node: multiply-adds, and bytes in and out.

Counted as engines run a graph at best: a fused node is one node, a bias is part of the product
before it, QuantizeLinear and DequantizeLinear are part of their neighbours, and a Reshape or the
Cast of the clip is nothing. Weights are read once a clip. Elementwise arithmetic counts as free.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

import onnx
from onnx import NodeProto, TensorProto, helper

from dvfl_runtime.artifact import FUSED_DOMAIN
from dvfl_runtime.errors import DvflError

VIEWS = {"Reshape", "Cast", "DequantizeLinear", "QuantizeLinear", "Identity"}
UNKNOWN = {"Conv", "Gemm", "Einsum", "MatMulInteger", "ConvInteger", "QLinearConv", "QLinearMatMul"}
FLOATS = {TensorProto.FLOAT, TensorProto.FLOAT16}
FLOAT_BYTES = 4
Shape = tuple[int, ...]


@dataclass(frozen=True)
class NodeCost:
    """One node of a graph.

    Attributes:
        operator: its kind.
        product_macs: multiply-adds of dense products and convolutions.
        depthwise_macs: of depthwise convolutions, for which matrix units are of no use.
        integer: whether the products multiply bytes.
        weight_bytes: of constant inputs.
        activation_bytes: of all other inputs, and of the outputs.
    """

    operator: str
    product_macs: int
    depthwise_macs: int
    integer: bool
    weight_bytes: int
    activation_bytes: int


class Graph:
    """The tensors of a graph: where their values really are, and how large they are.

    Args:
        model: with the input "clip", whose batch may be open.
        float_bytes: of a float: 4, or 2 as if the file were in fp16.
    """

    def __init__(self, model: onnx.ModelProto, float_bytes: int = FLOAT_BYTES) -> None:
        self.graph = model.graph
        self.float_bytes = float_bytes
        self.weights = {weight.name: weight for weight in model.graph.initializer}
        self.makers = {name: node for node in model.graph.node for name in node.output}
        self.types = _types(model)
        self.readers: dict[str, list[NodeProto]] = {}
        for node in model.graph.node:
            for name in node.input:
                self.readers.setdefault(name, []).append(node)

    def nodes(self) -> Iterator[NodeProto]:
        """Yield the nodes that do something."""
        for node in self.graph.node:
            constant = all(self.is_weight(name) for name in node.input if name)
            if node.op_type not in VIEWS and not constant and not self.is_bias(node):
                yield node

    def source(self, name: str) -> str:
        """Return the tensor whose bytes a reader of this one reads."""
        node = self.makers.get(name)
        while node is not None and node.op_type in VIEWS and node.op_type != "QuantizeLinear":
            name = node.input[0]
            node = self.makers.get(name)
        return name

    def written(self, name: str) -> list[str]:
        """Return the tensors that the maker of this one really writes.

        Bytes, where a QuantizeLinear reads it, and floats, where something else does.
        """
        found, wanted = [], False
        for reader in self.readers.get(name, []):
            if reader.op_type == "QuantizeLinear":
                found.append(reader.output[0])
            elif reader.op_type in ("Reshape", "Identity") or self.is_bias(reader):
                found += self.written(reader.output[0])
            else:
                wanted = True
        return list(dict.fromkeys([*found, name] if wanted or not found else found))

    def is_weight(self, name: str) -> bool:
        """Return whether a tensor is constant."""
        return self.source(name) in self.weights

    def is_bias(self, node: NodeProto) -> bool:
        """Return whether a node adds a constant to a product, as part of that product."""
        return node.op_type == "Add" and any(self.is_weight(name) for name in node.input)

    def shape(self, name: str) -> Shape:
        """Return the shape of a tensor."""
        if (weight := self.weights.get(name)) is not None:
            return tuple(weight.dims)
        return self.types[name][1]

    def size(self, name: str) -> int:
        """Return how many bytes a tensor has."""
        weight = self.weights.get(name)
        kind = weight.data_type if weight is not None else self.types[name][0]
        each = (
            self.float_bytes if kind in FLOATS else helper.tensor_dtype_to_np_dtype(kind).itemsize
        )
        return prod(self.shape(name)) * each

    def is_bytes(self, name: str) -> bool:
        """Return whether the values of a tensor are bytes that a DequantizeLinear reads."""
        made_by = self.makers.get(name)
        return made_by is not None and made_by.op_type == "DequantizeLinear"


def node_costs(model: onnx.ModelProto, *, float_bytes: int = FLOAT_BYTES) -> list[NodeCost]:
    """Return the cost of each node of a graph that dvfl-export wrote, for one clip.

    Args:
        model: in float32 or int8.
        float_bytes: 2 counts a file in float32 as if it were in fp16.

    Raises:
        DvflError: if a node is none of those that dvfl-export writes.
    """
    graph = Graph(model, float_bytes)
    read: set[str] = set()
    costs = []
    for node in graph.nodes():
        sources = dict.fromkeys(graph.source(name) for name in node.input if name)
        weights = [name for name in sources if name in graph.weights and name not in read]
        read.update(weights)
        outputs = [name for output in node.output for name in graph.written(output)]
        activations = [*(name for name in sources if name not in graph.weights), *outputs]
        products, depthwise = _macs(node, graph)
        costs.append(
            NodeCost(
                operator=node.op_type,
                product_macs=products,
                depthwise_macs=depthwise,
                integer=any(map(graph.is_bytes, node.input))
                or node.op_type.startswith(("QTemporal", "QLinear")),
                weight_bytes=sum(map(graph.size, weights)),
                activation_bytes=sum(map(graph.size, activations)),
            )
        )
    return costs


def _macs(node: NodeProto, graph: Graph) -> tuple[int, int]:
    """Return the multiply-adds of products and of depthwise convolutions, without the padding."""
    if node.op_type == "MatMul":
        return prod(graph.shape(node.output[0])) * graph.shape(node.input[0])[-1], 0
    if node.op_type in UNKNOWN:
        raise DvflError(f"{node.op_type} {node.name} cannot be counted; pass a file of dvfl-export")
    if node.op_type.startswith("QLinear"):
        return sum(_linear_macs(node, graph)), 0
    if node.domain != FUSED_DOMAIN or "Context" not in node.op_type:
        return 0, 0
    of = {each.name: helper.get_attribute_value(each) for each in node.attribute}
    frames, height, width, channels = (of[k] for k in ("frames", "height", "width", "channels"))
    if "Spatial" in node.op_type:
        taps = sum(_taps(height, k) * _taps(width, k) for k in of["kernel_sizes"])
        return 0, frames * taps * channels
    taps = sum(_taps(frames, k) for k in of["kernel_sizes"])
    return height * width * taps * channels**2, 0


def _linear_macs(node: NodeProto, graph: Graph) -> Iterator[int]:
    """Yield the multiply-adds of the products of a node; bytes and their scale precede a weight."""
    for x, weight in zip(node.input, node.input[2:], strict=False):
        found = graph.weights.get(weight)
        if found is not None and found.data_type == TensorProto.INT8 and len(found.dims) == 2:
            yield prod(graph.shape(x)[:-1]) * prod(found.dims)


def _taps(length: int, kernel: int) -> int:
    """Return how often a kernel meets a value along an axis that it pads with zeros."""
    reach = range(-(kernel // 2), kernel // 2 + 1)
    return sum(max(0, length - abs(step)) for step in reach)


def _told_shape(node: NodeProto) -> Shape:
    """Return the shape of the output of a node whose attributes tell it, () for any other."""
    of = {each.name: helper.get_attribute_value(each) for each in node.attribute}
    if node.domain == FUSED_DOMAIN and "Context" in node.op_type:
        return 1, of["frames"] * of["height"] * of["width"], of["channels"]
    if node.domain == FUSED_DOMAIN and node.op_type.endswith("AddPatches"):
        return 1, of["rows"] * of["columns"], of["stride"] ** 2 * of["channels"]
    return ()


def _types(model: onnx.ModelProto) -> dict[str, tuple[int, Shape]]:
    """Return the element type and the shape of every tensor, for a batch of one.

    Raises:
        DvflError: if one cannot be told.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    copy.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    for node in copy.graph.node:
        if shape := _told_shape(node):  # inference does not see it
            kind = TensorProto.UINT8 if node.op_type.startswith("Q") else TensorProto.FLOAT
            copy.graph.value_info.append(helper.make_tensor_value_info(node.output[0], kind, shape))
    inferred = onnx.shape_inference.infer_shapes(copy, data_prop=True).graph
    found = {}
    for value in (*inferred.input, *inferred.value_info, *inferred.output):
        dims = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        if value.name == inferred.output[0].name and not dims[0]:
            dims[0] = 1
        if not all(dims):
            raise DvflError(f"the shape of {value.name} is not known; pass a file of dvfl-export")
        found[value.name] = value.type.tensor_type.elem_type, tuple(dims)
    return found
