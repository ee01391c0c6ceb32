"""onnxsim would not improve the exported graph."""

from collections import Counter

import onnx
import pytest

from dvfl_runtime.recognizer import BUNDLED_MODEL


def test_onnxsim_finds_nothing_but_another_spelling_of_the_products() -> None:
    """MatMul + Add become Reshape + Gemm + Reshape, which runs slower: see export/README.md."""
    onnxsim = pytest.importorskip("onnxsim")
    model = onnx.load(BUNDLED_MODEL)
    simplified, same = onnxsim.simplify(model)
    assert same
    before, after = (Counter(n.op_type for n in m.graph.node) for m in (model, simplified))
    products = after["Gemm"]
    makers = {value: node.op_type for node in model.graph.node for value in node.output}
    biased = [n for n in model.graph.node if n.op_type == "Add" and makers[n.input[0]] == "MatMul"]
    assert products == len(biased) - 1  # the head's has no frames
    before.subtract({"MatMul": products, "Add": products})
    before.update({"Gemm": products})
    before |= {kind: after[kind] for kind in ("Reshape", "Shape", "Slice", "Concat")}
    assert +before == +after
    assert len(simplified.graph.node) > len(model.graph.node)
