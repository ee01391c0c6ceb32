"""Fused nodes for what stands between products of different modules, found in the exported graph.

MatMul -> Add [b] -.
MatMul -> Add [b] ---> Mul -.
MatMul -> Add [b] -----------> Mul                            ->  dvfl::Modulate

x ---------------------.
MatMul -> Add [b] -------> Add (-> sum) -> LayerNormalization ->  dvfl::AddNorm

MatMul -> Add [b] -> LayerNormalization (-> tokens)
                     -> LayerNormalization                    ->  dvfl::EmbedNorm

x -------.
MatMul ---> Add -> Reshape -> Transpose -> Reshape            ->  dvfl::AddPatches
"""

from __future__ import annotations

from collections.abc import Iterable

import onnx
from onnx import helper, numpy_helper

from dvfl_export.deploy.fused_ops import PLUGIN_VERSIONS
from dvfl_runtime.artifact import FUSED_DOMAIN


def fuse_elementwise(graph: onnx.GraphProto) -> None:
    """Replace the four patterns by nodes of domain `dvfl`; values keep their names."""
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
        elif node.op_type == "LayerNormalization" and (parts := found.embedding(node)):
            embed, biased = parts
            replaced[embed.name] = _embed_norm(node, embed, biased)
            dropped.update((node.name, biased.name))
        elif node.op_type == "Reshape" and (chain := found.patches(node)):
            replaced[node.name] = _add_patches(node, chain, found.sizes)
            dropped.update(part.name for part in chain)
    nodes = [replaced.get(node.name, node) for node in graph.node if node.name not in dropped]
    used = {name for node in nodes for name in node.input}  # not the shapes of Reshapes that went
    weights = [weight for weight in graph.initializer if weight.name in used]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(nodes)
    graph.initializer.extend(weights)


class _Graph:
    """Who makes and who reads each value."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.makers = {value: node for node in graph.node for value in node.output}
        self.weights = {weight.name for weight in graph.initializer}
        self.sizes = {
            weight.name: numpy_helper.to_array(weight).tolist()
            for weight in graph.initializer
            if weight.data_type == onnx.TensorProto.INT64
        }
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

    def embedding(self, norm: onnx.NodeProto) -> tuple[onnx.NodeProto, onnx.NodeProto] | None:
        """Return the norm of product + bias that a norm reads, and the Add of those."""
        embed = self.makers.get(norm.input[0])
        if embed is None or embed.op_type != norm.op_type or _epsilon(embed) != _epsilon(norm):
            return None
        biased = self._biased_product(embed.input[0])
        if biased is None or not len(embed.input) == len(norm.input) == 3:
            return None
        return embed, biased

    def patches(self, reshape: onnx.NodeProto) -> list[onnx.NodeProto] | None:
        """Return what a Reshape to patches reads: Transpose, Reshape, and Add of a product."""
        chain, node = [], reshape
        for op_type in ("Transpose", "Reshape", "Add"):
            before = self._only_read_here(node.input[0], op_type)
            if before is None:
                return None
            chain.append(before)
            node = before
        moved, lines, total = chain
        product = self.makers.get(total.input[1])
        if product is None or product.op_type != "MatMul" or total.input[0] in self.weights:
            return None
        order = next((list(a.ints) for a in moved.attribute if a.name == "perm"), [])
        known = [len(self.sizes.get(n.input[1], ())) for n in (lines, reshape)]
        return chain if order == [0, 2, 1, 3] and known == [4, 3] else None

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
    return _node(
        "AddNorm",
        [total.input[0], *branch.input, *norm.input[1:]],
        [*total.output, *norm.output],
        f"{norm.name.rpartition('/')[0]}/AddNorm",
        epsilon=_epsilon(norm),
    )


def _embed_norm(
    norm: onnx.NodeProto, embed: onnx.NodeProto, biased: onnx.NodeProto
) -> onnx.NodeProto:
    return _node(
        "EmbedNorm",
        [*biased.input, *embed.input[1:], *norm.input[1:]],
        [*embed.output, *norm.output],
        f"{embed.name.rpartition('/')[0]}/EmbedNorm",
        epsilon=_epsilon(norm),
    )


def _add_patches(
    reshape: onnx.NodeProto, chain: list[onnx.NodeProto], sizes: dict[str, list[int]]
) -> onnx.NodeProto:
    _, lines, total = chain
    # (-1, k, W', k*C) and (-1, T*H'*W', k*k*C)
    (_, stride, columns, row), (_, patches, _) = (sizes[n.input[1]] for n in (lines, reshape))
    return _node(
        "AddPatches",
        total.input,
        reshape.output,
        f"{reshape.name.rpartition('/')[0]}/AddPatches",
        rows=patches // columns,
        columns=columns,
        stride=stride,
        channels=row // stride,
    )


def _epsilon(norm: onnx.NodeProto) -> float:
    return next((a.f for a in norm.attribute if a.name == "epsilon"), 1e-5)


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
