"""int8 as QuantizeLinear and DequantizeLinear (QDQ) around operators that multiply by weights.

    before  x (float32) -> MatMul [W float32]
    after   x -> QuantizeLinear -> DequantizeLinear -> MatMul [W int8 -> DequantizeLinear]

Engines fuse the three into one integer product; an engine that does not still computes the same.

- Weights: symmetric, one scale for each output channel.
- Activations: symmetric with zero point 0, one scale for each tensor: TensorRT takes no other.
- Weights have 7 bits, -64 to 63: CPUs without VNNI add two 8-bit products in 16 bits, which would
  saturate with 8-bit weights.
- The output of a convolution is quantised too: onnxruntime has no integer convolution with a
  float32 result, and computes in float32 where it cannot fuse.
- Products that use each value they read less than 4 times stay in float32, such as depthwise
  convolutions: quantising the value costs as much as the integer product gains. The gates use each
  value six times; they are in int8 so that nothing reads the normalised tokens in float32.
"""

from __future__ import annotations

import contextlib
import io
import tempfile
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
import onnx
from onnx import numpy_helper
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantType
from onnxruntime.quantization.calibrate import TensorsData, create_calibrator
from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

from dvfl_runtime.clips.spec import Clip

OPERATORS = ("MatMul", "Conv")
LEAST_USES = 4  # of each value that a product reads
METHOD = CalibrationMethod.Percentile  # the best of those measured, see export/README.md
PERCENTILE = 99.999

Ranges: TypeAlias = TensorsData


class _OneClip(CalibrationDataReader):  # type: ignore[misc]
    """A reader of one clip: what onnxruntime keeps of all clips at once does not fit in memory."""

    def __init__(self, clip: Clip) -> None:
        self.rest: Iterator[dict[str, Clip]] = iter([{"clip": clip[None]}])

    def get_next(self) -> dict[str, Clip] | None:
        return next(self.rest, None)


def layers_of(model: onnx.ModelProto) -> tuple[str, ...]:
    """Return the names of the nodes that can be quantised, in the order of the graph."""
    shapes = {weight.name: tuple(weight.dims) for weight in model.graph.initializer}
    names = []
    for node in model.graph.node:
        if node.op_type not in OPERATORS or node.input[1] not in shapes:
            continue
        shape, groups = shapes[node.input[1]], 1
        if node.op_type == "Conv":  # (O, I / groups, k, k); of a MatMul (I, O)
            groups = next((a.i for a in node.attribute if a.name == "group"), 1)
        if shape[0 if node.op_type == "Conv" else 1] // groups >= LEAST_USES:
            names.append(node.name)
    return tuple(names)


def activation_ranges(
    model: onnx.ModelProto, clips: Sequence[Clip], method: CalibrationMethod = METHOD
) -> Ranges:
    """Measure the ranges of the activations.

    Args:
        model: a deploy form of standard operators in float32.
        clips: to run it on, each (T, H, W, 3) uint8.
        method: how a range is chosen from the values seen.

    Returns:
        Tensor name -> its range, for all tensors that `quantise` needs.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "float.onnx"
        onnx.save(onnx.shape_inference.infer_shapes(model), file)
        calibrator = create_calibrator(
            file,
            OPERATORS,
            str(Path(folder) / "augmented.onnx"),
            calibrate_method=method,
            extra_options={"percentile": PERCENTILE} if method == METHOD else {},
        )
        with contextlib.redirect_stdout(io.StringIO()):  # it prints a line for each clip
            for clip in clips:
                calibrator.collect_data(_OneClip(clip))
            return calibrator.compute_data()


def quantise(
    model: onnx.ModelProto, ranges: Ranges, floats: Collection[str] = ()
) -> onnx.ModelProto:
    """Return a quantised copy.

    Args:
        model: a deploy form of standard operators in float32; left unchanged.
        ranges: of its activations.
        floats: names of `layers_of(model)` that stay in float32.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    layers = [name for name in layers_of(model) if name not in floats]
    if not layers:
        return copy
    quantizer = QDQQuantizer(
        copy,
        per_channel=True,
        reduce_range=True,
        weight_qType=QuantType.QInt8,
        activation_qType=QuantType.QInt8,
        tensors_range=ranges,
        nodes_to_quantize=layers,
        nodes_to_exclude=[],
        op_types_to_quantize=list(OPERATORS),
        extra_options={
            "ActivationSymmetric": True,
            "WeightSymmetric": True,
            "OpTypesToExcludeOutputQuantization": ["MatMul"],
            "DedicatedQDQPair": True,
        },
    )
    quantizer.quantize_model()
    quantizer.model.topological_sort()
    quantised: onnx.ModelProto = quantizer.model.model
    _reconnect_float_readers(quantised, set(layers))
    _make_scales_differ(quantised)
    return quantised


def _reconnect_float_readers(model: onnx.ModelProto, layers: Collection[str]) -> None:
    """Let nodes that stay in float32 read the values from before they were quantised for others."""
    makers = {name: node for node in model.graph.node for name in node.output}
    for node in model.graph.node:
        if node.name in layers:
            continue
        for index, name in enumerate(node.input):
            pair = makers.get(name)
            if pair is None or pair.op_type != "DequantizeLinear":
                continue
            source = makers[pair.input[0]].input[0]
            if source not in makers or makers[source].name not in layers:
                node.input[index] = source


def _make_scales_differ(model: onnx.ModelProto) -> None:
    """Make the scales of a tensor that is quantised for several layers differ by one float32.

    onnxruntime (1.32) merges equal QuantizeLinear nodes, and then computes the MatMuls after the
    merged one in float32.
    """
    weights = {weight.name: weight for weight in model.graph.initializer}
    readers = {node.input[0]: node for node in model.graph.node}
    seen: dict[str, int] = {}
    for node in [node for node in model.graph.node if node.op_type == "QuantizeLinear"]:
        times = seen[node.input[0]] = seen.get(node.input[0], -1) + 1
        if not times:
            continue
        scale = numpy_helper.to_array(weights[node.input[1]])
        for _ in range(times):
            scale = np.nextafter(scale, np.float32(np.inf))
        name = f"{node.input[1]}_{times}"
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(scale), name))
        node.input[1] = readers[node.output[0]].input[1] = name
