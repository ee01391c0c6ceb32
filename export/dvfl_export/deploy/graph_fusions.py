"""Fused nodes for what stands between products of different modules, found in the exported graph.

MatMul -> Add [b] -.
MatMul -> Add [b] ---> Mul -.
MatMul -> Add [b] -----------> Mul                            ->  dvfl::Modulate

x ---------------------.
MatMul -> Add [b] -------> Add (-> sum) -> LayerNormalization ->  dvfl::AddNorm
"""

from __future__ import annotations

from collections.abc import Iterable

import onnx
from onnx import helper

from dvfl_export.deploy.fused_ops import PLUGIN_VERSIONS
from dvfl_runtime.artifact import FUSED_DOMAIN


def fuse_elementwise(graph: onnx.GraphProto) -> None:
    """Replace the two patterns by nodes of domain `dvfl`; values keep their names."""
    found = _Graph(graph)
    replaced: dict[str, onnx.NodeProto] = {}  # the node in whose place the fused one stands
    dropped: set[str] = set()
    for node in graph.node:
        if node.op_type == "Mul" and (sums := found.three_sums(node)):
            replaced[node.name] = _modulate(node, sums)
            dropped.update(part.name for part in (*sums, found.makers[node.input[0]]))
        elif node.op_type == "LayerNormalization" and (parts := found.residual_sum(node)):
            total, branch = parts
            replaced[total.name] = _add_norm(node, total, branch)
            dropped.update((node.name, branch.name))
    nodes = [replaced.get(node.name, node) for node in graph.node if node.name not in dropped]
    del graph.node[:]
    graph.node.extend(nodes)


class _Graph:
    """Who makes and who reads each value."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.makers = {value: node for node in graph.node for value in node.output}
        self.weights = {weight.name for weight in graph.initializer}
        self.readers: dict[str, int] = {value.name: 1 for value in graph.output}
        for value in (name for node in graph.node for name in node.input):
            self.readers[value] = self.readers.get(value, 0) + 1

    def three_sums(self, node: onnx.NodeProto) -> list[onnx.NodeProto] | None:
        """Return the Adds of (a + b) * (c + d) * (e + f), whose last Mul is `node`."""
        first = self._only_read_here(node.input[0], "Mul")
        if first is None:
            return None
        sums = [self._biased_product(value) for value in (*first.input, node.input[1])]
        found = [part for part in sums if part is not None]
        return found if len(found) == len(sums) else None

    def residual_sum(self, norm: onnx.NodeProto) -> tuple[onnx.NodeProto, onnx.NodeProto] | None:
        """Return the Add of x + (product + bias) that a norm reads, and that of the brackets."""
        total = self.makers.get(norm.input[0])
        if total is None or total.op_type != "Add" or len(norm.input) != 3:
            return None
        branch = self._biased_product(total.input[1])
        if branch is None or total.input[0] in self.weights:
            return None
        return total, branch

    def _biased_product(self, value: str) -> onnx.NodeProto | None:
        """Return the Add of a product and a bias that makes a value, which is read once."""
        node = self._only_read_here(value, "Add")
        if node is None or node.input[1] not in self.weights:
            return None
        product = self.makers.get(node.input[0])
        return node if product is not None and product.op_type == "MatMul" else None

    def _only_read_here(self, value: str, op_type: str) -> onnx.NodeProto | None:
        node = self.makers.get(value)
        matches = node is not None and node.op_type == op_type and self.readers[value] == 1
        return node if matches else None


def _modulate(node: onnx.NodeProto, sums: Iterable[onnx.NodeProto]) -> onnx.NodeProto:
    products, biases = zip(*(part.input for part in sums), strict=True)
    name = f"{node.name.rpartition('/')[0]}/Modulate"
    inputs = [*products, *biases]
    return _node("Modulate", inputs, node.output, name)


def _add_norm(
    norm: onnx.NodeProto, total: onnx.NodeProto, branch: onnx.NodeProto
) -> onnx.NodeProto:
    epsilon = next((a.f for a in norm.attribute if a.name == "epsilon"), 1e-5)
    return _node(
        "AddNorm",
        [total.input[0], *branch.input, *norm.input[1:]],
        [*total.output, *norm.output],
        f"{norm.name.rpartition('/')[0]}/AddNorm",
        epsilon=epsilon,
    )


def _node(
    kind: str, inputs: Iterable[str], outputs: Iterable[str], name: str, **attributes: float
) -> onnx.NodeProto:
    plugin = {
        "plugin_namespace": FUSED_DOMAIN,
        "plugin_version": str(PLUGIN_VERSIONS[kind]),
    }
    node = helper.make_node(kind, list(inputs), list(outputs), name, domain=FUSED_DOMAIN)
    for key, value in (attributes | plugin).items():
        node.attribute.append(helper.make_attribute(key, value))
    return node
