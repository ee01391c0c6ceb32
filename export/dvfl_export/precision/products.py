"""Quantised `dvfl` nodes that compute the products they read, found in the graph in int8.

A product of bytes ends in float32 values that one node reads: a kernel for both keeps them in the
cache. The head stays as it is: another one may take its place.

x (bytes) -> DequantizeLinear -.
W (int8)  -> DequantizeLinear ---> MatMul -> QBiasGelu   ->  x, W -> dvfl::QLinearBiasGelu
                                  MatMul -> Add [b]      ->  x, W -> dvfl::QLinearBias
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx
from onnx import helper

from dvfl_export.deploy.functions import kind_of
from dvfl_export.deploy.quantised_functions import (
    LINEAR,
    LINEAR_VERSION,
    PRODUCTS,
    inputs_of,
)
from dvfl_runtime.artifact import FUSED_DOMAIN


def fuse_products(graph: onnx.GraphProto, zero_point: str) -> None:
    """Replace the patterns by nodes of domain `dvfl`; values keep their names.

    Args:
        graph: in int8, with nodes of domain `dvfl`.
        zero_point: the initializer that all quantised activations share.
    """
    found = _Graph(graph, zero_point)
    nodes = [found.linear(node) or node for node in graph.node]
    used = {value.name for value in graph.output}
    for node in reversed(nodes):  # in the order of the graph, so readers come before makers
        if used.intersection(node.output):
            used.update(node.input)
    weights = [weight for weight in graph.initializer if weight.name in used]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(node for node in nodes if used.intersection(node.output))
    graph.initializer.extend(weights)


class _Graph:
    """Who makes and who reads each value."""

    def __init__(self, graph: onnx.GraphProto, zero_point: str) -> None:
        self._zero_point = zero_point
        self._outputs = {value.name for value in graph.output}
        self._weights = {weight.name: weight for weight in graph.initializer}
        self._makers = {value: node for node in graph.node for value in node.output}
        self._readers: dict[str, int] = {value.name: 1 for value in graph.output}
        for value in (name for node in graph.node for name in node.input):
            self._readers[value] = self._readers.get(value, 0) + 1

    def linear(self, node: onnx.NodeProto) -> onnx.NodeProto | None:
        """Return the node that computes the same as another one and the products it reads."""
        kind = kind_of(node)
        if self._outputs.intersection(node.output):
            return None
        if kind == "Add" and len(self._shape(node.input[1])) == 1:
            return self._node("Bias", node, [*node.input, self._zero_point])
        if node.domain != FUSED_DOMAIN or not kind.startswith("Q"):
            return None
        return self._node(kind.removeprefix("Q"), node, node.input)

    def _node(self, kind: str, of: onnx.NodeProto, values: Sequence[str]) -> onnx.NodeProto | None:
        inputs: list[str] = []
        names = inputs_of(kind)
        if not any(name in PRODUCTS for name in names):
            return None
        for value, name in zip(values, names, strict=True):
            parts = self._product(value) if name in PRODUCTS else [value]
            if parts is None:
                return None
            inputs += parts
        node = helper.make_node(f"{LINEAR}{kind}", inputs, of.output, of.name, domain=FUSED_DOMAIN)
        node.attribute.extend(a for a in of.attribute if not a.name.startswith("plugin_"))
        plugin = {"plugin_namespace": FUSED_DOMAIN, "plugin_version": str(LINEAR_VERSION)}
        node.attribute.extend(helper.make_attribute(*item) for item in plugin.items())
        return node

    def _product(self, value: str) -> list[str] | None:
        """Return the bytes, weights and scales of a product that is read once."""
        product = self._makers.get(value)
        if product is None or product.op_type != "MatMul" or self._readers[value] > 1:
            return None
        x, w = (self._makers.get(name) for name in product.input)
        for part in (x, w):
            if part is None or part.op_type != "DequantizeLinear":
                return None
        assert x is not None
        assert w is not None
        if x.input[2] != self._zero_point or len(self._shape(w.input[0])) != 2:
            return None
        return [*x.input[:2], *w.input]

    def _shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of an initializer, () for anything else."""
        weight = self._weights.get(name)
        return () if weight is None else tuple(weight.dims)
