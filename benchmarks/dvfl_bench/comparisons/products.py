"""What a CPU can do at most, in practice: a large matrix product by each library, and a copy.

numpy's and torch's libraries know new AMD processors as AVX2 and reach half the rate there that the
engines' own products have, so no library alone is a floor: the fastest one counts.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from dvfl_bench.comparisons.bare_engines import onnxruntime_run, openvino_run
from dvfl_bench.device.timing import Times, Work

SIDE = 1024  # rows and columns of the matrices: at 2048 the rates were lower, in fp32 and in int8
PRODUCT_MACS = SIDE**3
COPIED = 1 << 28  # bytes that are read, and as many written: more than caches hold

Name = tuple[str, str]  # precision, library


def product_runs(folder: Path, threads: int, *precisions: str) -> dict[Name, Work]:
    """Return products of two matrices of SIDE x SIDE, by precision and library.

    Args:
        folder: for files.
        threads: of the engines; torch has its own setting.
        precisions: "fp32", "bf16", "int8".
    """
    left, right = np.random.default_rng(0).random((2, SIDE, SIDE), dtype=np.float32)
    runs: dict[Name, Work] = {}
    for precision in precisions:
        if precision != "int8":
            kind = torch.bfloat16 if precision == "bf16" else torch.float32
            factors = [torch.from_numpy(matrix).to(kind) for matrix in (left, right)]
            runs[precision, "torch"] = partial(torch.matmul, *factors)
        for engine in ("onnxruntime", "openvino"):
            if (precision, engine) == ("bf16", "onnxruntime"):
                continue
            # each engine is faster with one kind of bytes, which the runtime gives it
            clip = _bytes(left[None], engine) if precision == "int8" else left[None]
            path = folder / f"product_{precision}_{engine}.onnx"
            onnx.save(_product(clip, right), path)
            if engine == "onnxruntime":
                runs[precision, engine] = onnxruntime_run(path, clip, threads)
            else:
                hint = "bf16" if precision == "bf16" else "f32"
                runs[precision, engine] = openvino_run(
                    path, clip, threads, rewritten=True, precision=hint
                )
    return runs


def _bytes(values: NDArray[np.float32], engine: str) -> NDArray[Any]:
    """Return values of 0 to 1 as bytes: unsigned for onnxruntime, signed for OpenVINO."""
    signed = np.rint(127 * values).astype(np.int8)
    return signed if engine == "openvino" else (signed.astype(np.int16) + 128).astype(np.uint8)


def _product(clip: NDArray[Any], right: NDArray[np.float32]) -> onnx.ModelProto:
    """Return a graph that multiplies its input `clip`, floats or bytes, with a constant matrix."""
    shape = [1, SIDE, SIDE]
    nodes, factor = [], "clip"
    constants = [numpy_helper.from_array(right, "right")]
    if clip.dtype != np.float32:
        zero_point = clip.dtype.type(128 if clip.dtype == np.uint8 else 0)
        constants = [
            numpy_helper.from_array((63 * right).astype(np.int8), "bytes"),
            numpy_helper.from_array(np.full(SIDE, 1 / 63, np.float32), "scales"),
            numpy_helper.from_array(np.zeros(SIDE, np.int8), "zeros"),
            numpy_helper.from_array(np.asarray(1 / 127, np.float32), "scale"),
            numpy_helper.from_array(np.asarray(zero_point), "zero_point"),
        ]
        nodes = [
            helper.make_node("DequantizeLinear", ["clip", "scale", "zero_point"], ["left"]),
            helper.make_node("DequantizeLinear", ["bytes", "scales", "zeros"], ["right"], axis=1),
        ]
        factor = "left"
    nodes.append(helper.make_node("MatMul", [factor, "right"], ["product"]))
    kind = helper.np_dtype_to_tensor_dtype(clip.dtype)
    graph = helper.make_graph(
        nodes,
        "product",
        [helper.make_tensor_value_info("clip", kind, shape)],
        [helper.make_tensor_value_info("product", TensorProto.FLOAT, shape)],
        constants,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def fastest(times: dict[Name, Times], precision: str = "fp32") -> Times:
    """Return the least time of each round over the libraries, (2, rounds) as they are given."""
    mine = [taken for (kind, _), taken in times.items() if kind == precision]
    return np.asarray(np.min(mine, axis=0))


def copy_run(threads: int) -> Work:
    """Return a copy of COPIED bytes by as many threads, which reads and writes so many."""
    source = np.ones(COPIED, np.uint8)
    target = np.empty_like(source)
    pool = ThreadPoolExecutor(threads)
    parts = [slice(k * COPIED // threads, (k + 1) * COPIED // threads) for k in range(threads)]

    def copy() -> None:
        list(pool.map(lambda part: np.copyto(target[part], source[part]), parts))

    return copy
