"""Weights in half the bytes: stored as float16, cast back to float32 where they are used.

    before  initializer W (float32) -> MatMul              after   W (float16) -> Cast -> MatMul

The graph computes in float32 as before. onnxruntime and OpenVINO do the casts once, at load.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from dvfl_export.deploy.functions import kernels_of

# the operators that multiply by weights; biases and scales are small
CONSUMERS = {"MatMul", "Conv", "Gemm"}
LEAST_VALUES = 256  # of a weight; a smaller one saves little beside its Cast node
LARGEST_FLOAT16 = float(np.finfo(np.float16).max)


def compress_weights(model: onnx.ModelProto) -> int:
    """Store the model's large weights as float16, in place; return how many they are.

    Weights beyond the range of float16 stay as they are.
    """
    graph = model.graph
    used = {name for node in graph.node for name in _multiplied(node)}
    casts = []
    for weight in graph.initializer:
        if weight.data_type != TensorProto.FLOAT or weight.name not in used:
            continue
        values = numpy_helper.to_array(weight)
        if values.size < LEAST_VALUES or np.abs(values).max() > LARGEST_FLOAT16:
            continue
        name, short = weight.name, f"{weight.name}.float16"
        weight.CopyFrom(numpy_helper.from_array(values.astype(np.float16), short))
        node = helper.make_node("Cast", [short], [name], f"{name}/Cast", to=TensorProto.FLOAT)
        casts.append(node)
    nodes = [*casts, *graph.node]  # a node comes after those whose output it reads
    del graph.node[:]
    graph.node.extend(nodes)
    return len(casts)


def _multiplied(node: onnx.NodeProto) -> Sequence[str]:
    """Return the inputs of a node that may be weights to multiply by."""
    if node.domain:
        return kernels_of(node)
    return node.input if node.op_type in CONSUMERS else ()
