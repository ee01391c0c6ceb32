"""int8 as QuantizeLinear and DequantizeLinear (QDQ) around what multiplies by weights.

    before  x (float32) -> MatMul [W float32]
    after   x -> QuantizeLinear -> DequantizeLinear -> MatMul [W int8 -> DequantizeLinear]

An engine fuses the three into one integer product; one that does not computes the same in float32.

- Weights: symmetric, one scale per output channel.
- Activations: symmetric with zero point 0, one scale per tensor: TensorRT takes no other.
- Weights have 7 bits, -64 to 63: CPUs without VNNI add two products of 8 bits in 16, which
  saturate with 8-bit weights.
"""

from __future__ import annotations

import contextlib
import io
import tempfile
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import TypeAlias

import onnx
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantType
from onnxruntime.quantization.calibrate import TensorsData, create_calibrator
from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

from dvfl_export.clips import Images

OPERATORS = ("MatMul", "Conv")
METHOD = CalibrationMethod.Percentile  # the best of those measured, see export/README.md
PERCENTILE = 99.999

Ranges: TypeAlias = TensorsData


class _One(CalibrationDataReader):  # type: ignore[misc]
    """Gives one clip: what onnxruntime would keep of all clips at once does not fit in memory."""

    def __init__(self, clip: Images) -> None:
        self.rest: Iterator[dict[str, Images]] = iter([{"clip": clip[None]}])

    def get_next(self) -> dict[str, Images] | None:
        return next(self.rest, None)


def layers_of(model: onnx.ModelProto) -> tuple[str, ...]:
    """The names of the nodes that can be quantised, in the order of the graph."""
    return tuple(node.name for node in model.graph.node if node.op_type in OPERATORS)


def activation_ranges(
    model: onnx.ModelProto, clips: Sequence[Images], method: CalibrationMethod = METHOD
) -> Ranges:
    """Measures between which values the activations lie.

    Args:
        model: a deploy form of standard operators in float32.
        clips: to run it on, each (T, H, W, 3) uint8.
        method: which range is taken of what was seen.

    Returns:
        Tensor name -> its range, of all that `quantise` needs.
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
        with contextlib.redirect_stdout(io.StringIO()):  # it prints a line per clip
            for clip in clips:
                calibrator.collect_data(_One(clip))
            return calibrator.compute_data()


def quantise(
    model: onnx.ModelProto, ranges: Ranges, floats: Collection[str] = ()
) -> onnx.ModelProto:
    """Returns a quantised copy.

    Args:
        model: a deploy form of standard operators in float32; left unchanged.
        ranges: of its activations.
        floats: names of `layers_of(model)` that stay in float32.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    if set(layers_of(model)) <= set(floats):
        return copy
    quantizer = QDQQuantizer(
        copy,
        per_channel=True,
        reduce_range=True,
        weight_qType=QuantType.QInt8,
        activation_qType=QuantType.QInt8,
        tensors_range=ranges,
        nodes_to_quantize=[],
        nodes_to_exclude=list(floats),
        op_types_to_quantize=list(OPERATORS),
        extra_options={
            "ActivationSymmetric": True,
            "WeightSymmetric": True,
            "OpTypesToExcludeOutputQuantization": list(OPERATORS),
        },
    )
    quantizer.quantize_model()
    quantised: onnx.ModelProto = quantizer.model.model
    return quantised
