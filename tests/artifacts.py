"""Tiny model files whose answer is known: the logits are the mean red, green and blue of a clip."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from dvfl_runtime import Artifact, ClipSpec

LABELS = ("red", "green", "blue")
SPEC = ClipSpec(num_frames=4, size=(8, 8), resize=8, window_s=1.0)
COLOURS = {"red": (250, 5, 5), "green": (5, 250, 5), "blue": (5, 5, 250)}


def artifact(**changes: Any) -> Artifact:
    values: dict[str, Any] = {
        **{"name": "colours", "variant": "toy", "labels": LABELS, "spec": SPEC},
        **{"source_sha256": "0" * 64, "tools": {"dvfl": "0"}},
    }
    return Artifact(**{**values, **changes})


def colour_graph(spec: ClipSpec = SPEC, gain: float = 20.0) -> onnx.ModelProto:
    """clip: uint8 (B, T, H, W, 3) -> logits: gain * mean colour / 255, (B, 3)."""
    shape = ["B", spec.num_frames, *spec.size, 3]
    nodes = [
        helper.make_node("Cast", ["clip"], ["real"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["real", "axes"], ["mean"], keepdims=0),
        helper.make_node("Mul", ["mean", "gain"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "colours",
        [helper.make_tensor_value_info("clip", TensorProto.UINT8, shape)],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["B", 3])],
        [
            numpy_helper.from_array(np.array([1, 2, 3], np.int64), "axes"),
            numpy_helper.from_array(np.array(gain / 255, np.float32), "gain"),
        ],
    )
    opset = [helper.make_opsetid("", 18)]
    return helper.make_model(graph, opset_imports=opset, ir_version=9, producer_name="tests")


def save(model: onnx.ModelProto, path: Path, metadata: Mapping[str, str]) -> Path:
    helper.set_model_props(model, {"other": "kept", **metadata})
    path.write_bytes(model.SerializeToString())
    return path


def write_colour_model(path: Path, **changes: Any) -> Path:
    """Writes a model file; `changes` go into its Artifact."""
    described = artifact(**changes)
    return save(colour_graph(described.spec), path, {"dvfl": described.to_json()})


def coloured(*spans: tuple[str, int], height: int = 32, width: int = 48) -> list[NDArray[np.uint8]]:
    """Returns pictures of one colour each: `("red", 10)` gives ten red ones."""
    return [
        np.full((height, width, 3), COLOURS[colour], np.uint8)
        for colour, count in spans
        for _ in range(count)
    ]


def clips(batch, colour=(255, 0, 51)):
    return np.full((batch, SPEC.num_frames, *SPEC.size, 3), colour, np.uint8)
