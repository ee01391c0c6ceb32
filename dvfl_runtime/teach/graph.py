"""The graph of a model file without its head, and with another one.

    before  ... -> features (B, C) -> MatMul [W (C, N)] -> Add [b (N)] -> logits (B, N)

    unlike what was learnt, the logits go to zero (see `familiarity`):
            features -> MatMul [references (C, K)] -> TopK 1 -> / length -> Clip -> Mul -> logits

Whatever the precision of a file, the new head computes in float32; all before it stays as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dvfl_runtime.artifact import METADATA_KEY, OUTPUT, Artifact, ModelFile
from dvfl_runtime.errors import ArtifactError
from dvfl_runtime.errors.packages import needed
from dvfl_runtime.teach.familiarity import SHORTEST, Familiarity

if TYPE_CHECKING:
    import onnx

PRODUCTS = ("MatMul", "Gemm")
BYTES = ("QuantizeLinear", "DequantizeLinear")
AFTER = (
    "Add",
    "Mul",
    "Cast",
    "Identity",
    *BYTES,
)  # what may stand between the product and the logits
BEFORE = ("Cast", "Identity", *BYTES)  # what may stand between the features and the product
# of the old head, so that a file that has been taught can be turned back into a checkpoint
WEIGHT, BIAS = "head.weight", "head.bias"
PREFIX = "familiarity/"  # of the names of what takes logits back where features are unfamiliar
LINEAR = f"{PREFIX}logits"  # those of the head, before that


@dataclass(frozen=True, eq=False)
class Head:
    """A linear head: logits = features @ weight + bias, less where the features are unfamiliar.

    Attributes:
        weight: (C, N).
        bias: (N,).
        familiarity: how like what was learnt a clip must be; `None` where that does not matter.
    """

    weight: NDArray[np.float32]
    bias: NDArray[np.float32]
    familiarity: Familiarity | None = None

    def logits(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """(..., C) -> (..., N)."""
        logits = np.asarray(features @ self.weight + self.bias, np.float32)
        return logits if self.familiarity is None else logits * self.familiarity.share(features)


@dataclass(frozen=True)
class _Features:
    """The tensor that the head reads: its name, and whether it is in float16."""

    name: str
    half: bool


def without_head(file: ModelFile) -> bytes:
    """Return a model file whose logits are the features of another one, each with a label.

    Raises:
        ArtifactError: if the head is not one linear layer.
        DvflError: if onnx is not installed.
    """
    model = _load(file)
    features, width = _find_features(model.graph, file.artifact)
    _end_with(model.graph, features, None)
    labels = tuple(f"feature {number}" for number in range(width))
    bare = replace(file.artifact, labels=labels, confidence_calibration=None)
    return _described(model, bare, width)


def with_head(file: ModelFile, head: Head, artifact: Artifact) -> bytes:
    """Return a model file with another head.

    Args:
        file: whose features the head reads.
        head: the new one.
        artifact: the description of the result, but for the name of the features.

    Raises:
        ArtifactError: if the old head is not one linear layer.
        DvflError: if onnx is not installed.
    """
    model = _load(file)
    features, _ = _find_features(model.graph, file.artifact)
    name = _end_with(model.graph, features, head)
    return _described(model, replace(artifact, features=name), len(head.bias))


def with_familiarity(file: ModelFile, familiarity: Familiarity, artifact: Artifact) -> bytes:
    """Return a model file that keeps its head, but where the features are unlike what it knows.

    Args:
        file: any model file whose features are known or can be found.
        familiarity: how like them a clip must be; it takes the place of the file's own.
        artifact: the description of the result.

    Raises:
        ArtifactError: if the head is not one linear layer.
        DvflError: if onnx is not installed.
    """
    with needed("teaching", "onnx"):
        import onnx
    model = onnx.load_from_string(without_familiarity(file.content))
    features, _ = _find_features(model.graph, file.artifact)
    name, nodes = _in_float32(features)
    for node in model.graph.node:
        node.output[:] = [LINEAR if output == OUTPUT else output for output in node.output]
    model.graph.node.extend([*nodes, *_familiarity_nodes(name)])
    _add_weights(model.graph, _familiarity_weights(familiarity))
    return _described(model, artifact, len(artifact.labels))


def without_familiarity(content: bytes) -> bytes:
    """Return a model file whose logits are those of its linear head, whatever it is shown.

    Raises:
        DvflError: if onnx is not installed.
    """
    if PREFIX.encode() not in content:
        return content
    with needed("teaching", "onnx"):
        import onnx
    model = onnx.load_from_string(content)
    _keep_what_makes(LINEAR, model.graph)
    model.graph.node[-1].output[0] = OUTPUT
    plain: bytes = model.SerializeToString()
    return plain


def features_name(graph: onnx.GraphProto) -> str:
    """Return the name of the tensor that the last product of a graph reads.

    Raises:
        ArtifactError: if the graph does not end with one linear layer.
    """
    return _features_before(_last_product(graph), graph).name


def _load(file: ModelFile) -> onnx.ModelProto:
    with needed("teaching", "onnx"):
        import onnx
    try:
        return onnx.load_from_string(file.content)
    except Exception as err:  # protobuf's errors have no base of their own
        raise ArtifactError(f"cannot use model {file.path}: {err}; copy it again") from err


def _find_features(graph: onnx.GraphProto, artifact: Artifact) -> tuple[_Features, int]:
    """Return the features, those that the description names where it does, and their number C."""
    product = _last_product(graph)
    features = _features_before(product, graph)
    if artifact.features:
        made = {output for node in graph.node for output in node.output}
        if artifact.features not in made:
            raise ArtifactError(
                f"{artifact.name} has no tensor {artifact.features!r}, which its metadata names as "
                f"its features; export it again"
            )
        features = _Features(artifact.features, half=False)
    return features, _width(product, graph)


def _last_product(graph: onnx.GraphProto) -> onnx.NodeProto:
    makers = _makers(graph)
    node = makers.get(OUTPUT)
    while node is not None and node.op_type in AFTER:
        node = next((makers[name] for name in node.input if name in makers), None)
    if node is None or node.op_type not in PRODUCTS:
        found = "nothing" if node is None else node.op_type
        raise ArtifactError(
            f"the head of this model is no linear layer ({found} comes last), so another one "
            f"cannot take its place; use a file of dvfl-export"
        )
    return node


def _features_before(product: onnx.NodeProto, graph: onnx.GraphProto) -> _Features:
    """Return what a product reads, before it is rounded or quantised for it."""
    makers = _makers(graph)
    name, half = product.input[0], _is_half(product, graph)
    while (node := makers.get(name)) is not None and node.op_type in BEFORE:
        name, half = node.input[0], False
    return _Features(name, half)


def _is_half(product: onnx.NodeProto, graph: onnx.GraphProto) -> bool:
    from onnx import TensorProto

    types = {weight.name: weight.data_type for weight in graph.initializer}
    return bool(types.get(product.input[1]) == TensorProto.FLOAT16)


def _width(product: onnx.NodeProto, graph: onnx.GraphProto) -> int:
    """Return C, from the weight of a product that reads C features."""
    makers, name = _makers(graph), product.input[1]
    while (node := makers.get(name)) is not None and node.op_type in BEFORE:
        name = node.input[0]
    shapes = {weight.name: list(weight.dims) for weight in graph.initializer}
    turned = any(a.name == "transB" and a.i for a in product.attribute)
    if len(shapes.get(name, ())) != 2:
        raise ArtifactError("the weight of this model's head is not in the file; export it again")
    return int(shapes[name][1 if turned else 0])


def _end_with(graph: onnx.GraphProto, features: _Features, head: Head | None) -> str:
    """Let the features, or a head on them, be the logits; return the name of the features."""
    from onnx import helper

    _keep_what_makes(features.name, graph)
    name, nodes = _in_float32(features)
    weights: dict[str, NDArray[Any]] = {}
    if head is None:
        nodes.append(helper.make_node("Identity", [name], [OUTPUT], "features/Identity"))
    else:
        product, some = "head/MatMul:0", head.familiarity
        linear = OUTPUT if some is None else LINEAR
        nodes += [
            helper.make_node("MatMul", [name, WEIGHT], [product], "head/MatMul"),
            helper.make_node("Add", [product, BIAS], [linear], "head/Add"),
        ]
        weights = {WEIGHT: head.weight, BIAS: head.bias}
        if some is not None:
            nodes += _familiarity_nodes(name)
            weights |= _familiarity_weights(some)
    graph.node.extend(nodes)
    _add_weights(graph, weights)
    return name


def _in_float32(features: _Features) -> tuple[str, list[onnx.NodeProto]]:
    """Return the name of the features in float32, and the nodes that make them."""
    from onnx import TensorProto, helper

    if not features.half:
        return features.name, []
    name = f"{features.name}.float32"
    cast = helper.make_node("Cast", [features.name], [name], f"{name}/Cast", to=TensorProto.FLOAT)
    return name, [cast]


def _add_weights(graph: onnx.GraphProto, weights: Mapping[str, NDArray[Any]]) -> None:
    from onnx import numpy_helper

    graph.initializer.extend(
        numpy_helper.from_array(np.ascontiguousarray(value), name)
        for name, value in weights.items()
    )


def _familiarity_nodes(features: str) -> list[onnx.NodeProto]:
    """Return the nodes from features, and the logits of the linear head, to those of the file."""
    from onnx import helper

    steps = [
        ("MatMul", [features, "references"], "cosines"),
        ("TopK", ["cosines", "one"], "nearest"),
        ("Mul", [features, features], "squares"),
        ("MatMul", ["squares", "ones"], "sum"),
        ("Sqrt", ["sum"], "root"),
        ("Max", ["root", "shortest"], "length"),
        ("Div", ["nearest", "length"], "cosine"),
        ("Mul", ["cosine", "slope"], "sloped"),
        ("Add", ["sloped", "offset"], "shifted"),
        ("Clip", ["shifted", "zero", "full"], "share"),
    ]
    nodes = []
    for kind, inputs, output in steps:
        names = [name if name == features else f"{PREFIX}{name}" for name in inputs]
        outputs = [f"{PREFIX}{output}"] + [f"{PREFIX}which"] * (kind == "TopK")
        nodes.append(helper.make_node(kind, names, outputs, f"{PREFIX}{output}/{kind}"))
    share = f"{PREFIX}share"
    return [*nodes, helper.make_node("Mul", [LINEAR, share], [OUTPUT], f"{PREFIX}Mul")]


def _familiarity_weights(some: Familiarity) -> dict[str, NDArray[Any]]:
    slope = 1 / some.ramp
    numbers = {
        "slope": slope,
        "offset": 1 - slope * some.least,
        "shortest": SHORTEST,
        "zero": 0.0,
        "full": 1.0,
    }
    weights: dict[str, NDArray[Any]] = {
        "references": some.references,
        "ones": np.ones((len(some.references), 1), np.float32),
        "one": np.ones(1, np.int64),
        **{name: np.array(value, np.float32) for name, value in numbers.items()},
    }
    return {f"{PREFIX}{name}": value for name, value in weights.items()}


def _keep_what_makes(value: str, graph: onnx.GraphProto) -> None:
    """Take out the nodes and weights that a value does not depend on."""
    wanted, kept = {value}, []
    for node in reversed(graph.node):
        if wanted & {*node.output}:
            kept.append(node)
            wanted |= {*node.input}
    weights = [weight for weight in graph.initializer if weight.name in wanted]
    del graph.node[:], graph.initializer[:], graph.value_info[:]
    graph.node.extend(reversed(kept))
    graph.initializer.extend(weights)


def _makers(graph: onnx.GraphProto) -> dict[str, onnx.NodeProto]:
    """Return, for each value, the node that makes it."""
    return {output: node for node in graph.node for output in node.output}


def _described(model: onnx.ModelProto, artifact: Artifact, width: int) -> bytes:
    """Return the bytes of a model with these logits and this description."""
    shape = model.graph.output[0].type.tensor_type.shape
    if len(shape.dim) == 2:
        shape.dim[1].Clear()
        shape.dim[1].dim_value = width
    entries = [entry for entry in model.metadata_props if entry.key == METADATA_KEY]
    for entry in entries:
        entry.value = artifact.to_json()
    content: bytes = model.SerializeToString()
    return content
