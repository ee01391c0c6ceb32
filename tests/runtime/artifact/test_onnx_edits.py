"""Edits of a file's bytes, compared with the same edits by the onnx package."""

from itertools import count

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from dvfl_export.deploy.quantised_functions import add_quantised_functions
from dvfl_runtime.artifact.onnx_edits import with_own_functions, with_signed_bytes

OPSETS = [helper.make_opsetid("", 20), helper.make_opsetid("dvfl", 2)]


def quantised_graph(zero_point: object = np.uint8(128)) -> onnx.ModelProto:
    """Two quantised nodes, one after the other, beside weights that are no zero points."""
    weights = {
        "zero_point": np.asarray(zero_point),
        "zero_points": np.asarray(128, np.uint8),
        "scale": np.float32(0.1),
        "bias": np.arange(300, dtype=np.float32),  # lengths of more than one byte
    }
    nodes = [
        helper.make_node(
            "QBiasGelu", [source, "bias", "scale", "zero_point"], [result], name, domain="dvfl"
        )
        for source, result, name in (("x", "a", "first"), ("y", "b", "second"))
    ]
    floats = [helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, [1, 300]) for n in "xy"]
    results = [helper.make_tensor_value_info(n, onnx.TensorProto.UINT8, [1, 300]) for n in "ab"]
    tensors = [numpy_helper.from_array(np.asarray(v), name) for name, v in weights.items()]
    graph = helper.make_graph(nodes, "g", floats, results, tensors)
    model = helper.make_model(graph, opset_imports=OPSETS)
    add_quantised_functions(model)
    return model


def test_one_initializer_makes_all_bytes_signed() -> None:
    model = quantised_graph()
    content = model.SerializeToString()
    edited = with_signed_bytes(content)
    assert len(edited) == len(content)
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.int8(0), "zero_point"))
    assert onnx.load_from_string(edited) == model
    assert with_signed_bytes(edited) == edited


@pytest.mark.parametrize("zero_point", [np.uint8(0), np.int8(3), np.full(2, 128, np.uint8)])
def test_other_zero_points_stay(zero_point: object) -> None:
    content = quantised_graph(zero_point).SerializeToString()
    assert with_signed_bytes(content) == content


def test_each_quantised_node_gets_a_function_whose_nodes_have_names() -> None:
    model = quantised_graph()
    edited = onnx.load_from_string(with_own_functions(model.SerializeToString()))
    kinds = [node.op_type for node in edited.graph.node]
    assert len(set(kinds)) == 2
    assert [function.name for function in edited.functions] == ["QBiasGelu", *kinds]
    names = [node.name for function in edited.functions[1:] for node in function.node]
    assert all(names)
    assert len(set(names)) == len(names)
    onnx.checker.check_model(edited, full_check=True)
    # but for the names nothing has changed
    numbers = count()
    for node, function in zip(model.graph.node, edited.functions[1:], strict=True):
        node.op_type = kinds[next(numbers)]
        function.name = "QBiasGelu"
        for inner in function.node:
            inner.ClearField("name")
        assert function.node == model.functions[0].node
    assert edited.graph == model.graph


def test_a_file_without_quantised_nodes_stays_as_it_is() -> None:
    model = quantised_graph()
    for node in model.graph.node:
        node.op_type = "BiasGelu"
    model.functions[0].name = "BiasGelu"
    content = model.SerializeToString()
    assert with_own_functions(content) is content
