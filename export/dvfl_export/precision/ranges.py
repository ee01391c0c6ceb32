"""Ranges of activations, from clips that the float32 graph is run on."""

from __future__ import annotations

import contextlib
import io
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
import onnx
import onnx.inliner
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod
from onnxruntime.quantization.calibrate import create_calibrator

from dvfl_export.deploy.functions import kernels_of, kind_of
from dvfl_runtime.clips.spec import Clip

METHOD = CalibrationMethod.Percentile  # the best of those measured, see export/README.md
PERCENTILE = 99.999
OPERATORS = ("MatMul", "Conv")

# a value -> its largest magnitude; of a value inside of a temporal context by its `level_key`
Ranges: TypeAlias = dict[str, float]


def level_key(node: onnx.NodeProto, level: int, value: str) -> str:
    """Return the key in `Ranges` of a convolution of a temporal context: its "input" or "sum"."""
    return f"{node.name}/{value}_{level}"


class _OneClip(CalibrationDataReader):  # type: ignore[misc]
    """A reader of one clip: what onnxruntime keeps of all clips at once does not fit in memory."""

    def __init__(self, clip: Clip) -> None:
        self.rest: Iterator[dict[str, Clip]] = iter([{"clip": clip[None]}])

    def get_next(self) -> dict[str, Clip] | None:
        return next(self.rest, None)


def activation_ranges(
    model: onnx.ModelProto, clips: Sequence[Clip], method: CalibrationMethod = METHOD
) -> Ranges:
    """Measure the ranges of the activations.

    Args:
        model: a deploy form in float32.
        clips: to run it on, each (T, H, W, 3) uint8.
        method: how a range is chosen from the values seen.

    Returns:
        The ranges of all values that `quantise` needs.
    """
    # with the functions in their places, so that the values inside of them can be seen
    expanded = onnx.inliner.inline_local_functions(model) if model.functions else model
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "float.onnx"
        onnx.save(onnx.shape_inference.infer_shapes(expanded), file)
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
            found = calibrator.compute_data()
    ranges = {name: _magnitude(found[name].range_value) for name in found.keys()}  # noqa: SIM118
    return ranges | _inside_contexts(model, expanded, ranges)


def _inside_contexts(model: onnx.ModelProto, expanded: onnx.ModelProto, ranges: Ranges) -> Ranges:
    """Return the ranges of what temporal convolutions read and give; a kernel tells which it is."""
    convolutions = {node.input[1]: node for node in expanded.graph.node if node.op_type == "Conv"}
    inside: Ranges = {}
    for node in model.graph.node:
        if kind_of(node) != "TemporalContext":
            continue
        for level, kernel in enumerate(kernels_of(node), 1):
            found = convolutions[kernel]
            inside[level_key(node, level, "input")] = ranges[found.input[0]]
            inside[level_key(node, level, "sum")] = ranges[found.output[0]]
    return inside


def _magnitude(bounds: tuple[object, object]) -> float:
    """Return the largest magnitude between two bounds."""
    return max(float(np.abs(np.asarray(bound)).max()) for bound in bounds)
