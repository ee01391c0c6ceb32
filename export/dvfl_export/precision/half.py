"""fp16, strongly typed: the types in the file are the types that are computed with.

    before  x (float32) -> MatMul [W float32] -> ReduceMean -> ...
    after   x (float16) -> MatMul [W float16] -> Cast -> ReduceMean (float32) -> Cast -> ...

TensorRT 11 has no flags for precision, so the file has to say everything. In float32 stay

- the patch embedding up to its LayerNorm, because it sums over pixels of 0 to 255;
- the means over pixels and frames, those in the functions of `dvfl` nodes too: they have thousands
  of summands, and float16 ends at 65504;
- the logits. LayerNormalization computes in float32 inside (`stash_type`).

Experimental: run on CPUs, not yet run on a GPU.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper, shape_inference

from dvfl_export.deploy.functions import write_functions
from dvfl_export.precision.compress import LARGEST_FLOAT16
from dvfl_runtime.errors import ExportError

FLOAT32_OPERATORS = {"ReduceMean"}
SUFFIXES = {TensorProto.FLOAT: "float32", TensorProto.FLOAT16: "float16"}


def to_float16(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a model in float16; input and output keep their types.

    Args:
        model: a deploy form in float32; left unchanged.

    Raises:
        ExportError: if a weight is beyond the range of float16.
    """
    half = onnx.ModelProto()
    half.CopyFrom(model)
    graph = half.graph
    floats = _float_values(model)
    weights = {weight.name: weight for weight in model.graph.initializer}
    kept: dict[str, onnx.TensorProto] = {}
    stay = pixel_nodes(graph)
    holds: dict[str, int] = {}  # float value -> its type in the new graph
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        wanted = TensorProto.FLOAT16
        if node.name in stay or node.op_type in FLOAT32_OPERATORS:
            wanted = TensorProto.FLOAT
        for index, name in enumerate(node.input):
            if name in weights:
                weight = weights[name]
                if wanted == TensorProto.FLOAT16 and weight.data_type == TensorProto.FLOAT:
                    weight = _round(weight)  # a copy: a node in float32 may use the weight as well
                kept[weight.name] = weight
                node.input[index] = weight.name
            elif name in floats and holds[name] != wanted:
                cast = f"{name}.{SUFFIXES[wanted]}"
                if cast not in holds:
                    nodes.append(helper.make_node("Cast", [name], [cast], cast, to=wanted))
                    holds[cast] = wanted
                node.input[index] = cast
        nodes.append(node)
        holds.update(dict.fromkeys(node.output, wanted))
    # the output keeps its name and type, so the last node writes a value of another name
    for output in graph.output:
        short = f"{output.name}.float16"
        last = next(node for node in nodes if output.name in node.output)
        last.output[:] = [short if name == output.name else name for name in last.output]
        nodes.append(
            helper.make_node("Cast", [short], [output.name], f"{short}/Cast", to=TensorProto.FLOAT)
        )
    del graph.node[:], graph.initializer[:]
    graph.node.extend(nodes)
    graph.initializer.extend(kept.values())
    write_functions(half, half=True)
    return half


def pixel_nodes(graph: onnx.GraphProto) -> set[str]:
    """Return the nodes from the clip to the patch embedding's LayerNorm, the first of all."""
    norms = ("LayerNormalization", "EmbedNorm")
    first = next(i for i, node in enumerate(graph.node) if node.op_type in norms)
    return {node.name for node in graph.node[: first + 1]}


def _float_values(model: onnx.ModelProto) -> set[str]:
    """Return the names of the values that nodes compute in float32."""
    graph = shape_inference.infer_shapes(model, strict_mode=True).graph
    return {
        value.name
        for value in (*graph.value_info, *graph.output)
        if value.type.tensor_type.elem_type == TensorProto.FLOAT
    }


def _round(weight: onnx.TensorProto) -> onnx.TensorProto:
    """Return a weight as float16 under a name of its own.

    Raises:
        ExportError: if a value is beyond the range of float16.
    """
    values = numpy_helper.to_array(weight)
    if np.abs(values).max(initial=0) > LARGEST_FLOAT16:
        raise ExportError(
            f"weight {weight.name} holds {values.flat[np.abs(values).argmax()]:.3g}, beyond the "
            f"range of float16 ({LARGEST_FLOAT16:.0f}); export with --precision fp32"
        )
    return numpy_helper.from_array(values.astype(np.float16), f"{weight.name}.float16")
