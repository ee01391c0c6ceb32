"""Graphs and modules run by the engines' own API, without anything of the runtime around them."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from dvfl_bench.device.timing import Work
from dvfl_runtime.artifact import FUSED_DOMAIN
from dvfl_runtime.artifact.onnx_edits import with_signed_bytes
from dvfl_runtime.artifact.onnx_file import OnnxFile
from dvfl_runtime.engines.openvino import shared_core
from dvfl_runtime.engines.openvino_graph import rewrite_for_cpu
from dvfl_runtime.engines.openvino_nodes import read_onnx


def onnxruntime_run(
    path: Path, clip: NDArray[Any], threads: int, *, library: Path | None = None
) -> Work:
    """Return one run of a clip through a session of onnxruntime.

    Args:
        path: an ONNX file with the input `clip`.
        clip: the input, batch first.
        threads: of the engine.
        library: of custom operators, if any.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    # waiting threads sleep, so that the engines do not slow each other down
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if library is not None:
        options.register_custom_ops_library(str(library))
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, {"clip": clip})


def openvino_run(
    path: Path,
    clip: NDArray[Any],
    threads: int,
    *,
    fixed_batch: bool = False,
    rewritten: bool = False,
    precision: str = "f32",
) -> Work:
    """Return one run of a clip through an inference request of OpenVINO.

    Args:
        path: an ONNX file with the input `clip`.
        clip: the input, batch first.
        threads: of the engine.
        fixed_batch: whether the shape of the clip is fixed before the graph is compiled.
        rewritten: whether the graph is rewritten for CPUs, with signed bytes where it has bytes.
            The runtime does both.
        precision: of what is no bytes, "f32" or "bf16". Without the hint, OpenVINO computes in bf16
            where the CPU has AMX.
    """
    import openvino

    core = shared_core(openvino)
    content = path.read_bytes()
    if rewritten:
        path = path.with_suffix(".signed.onnx")
        path.write_bytes(with_signed_bytes(content))
    model = read_onnx(str(path), OnnxFile(content).operators(FUSED_DOMAIN))
    if rewritten:
        rewrite_for_cpu(model)
    if fixed_batch:
        model.reshape({"clip": list(clip.shape)})
    compiled = core.compile_model(
        model,
        "CPU",
        {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": threads,
            "INFERENCE_PRECISION_HINT": precision,
        },
    )
    request = compiled.create_infer_request()
    return lambda: request.infer({"clip": clip})


def eager_run(module: Callable[[torch.Tensor], Any], clip: NDArray[np.uint8]) -> Work:
    """Return one run of a clip through PyTorch as it is."""
    tensor = torch.from_numpy(clip)

    def run() -> torch.Tensor:
        with torch.inference_mode():
            out: torch.Tensor = module(tensor)
            return out

    return run


def compiled_run(module: torch.nn.Module, clip: NDArray[np.uint8]) -> Work:
    """Return one run of a clip through torch.compile, which compiles now and takes a while.

    Raises:
        RuntimeError: if that does not work here, for example because there is no C++ compiler.
    """
    import torch._dynamo  # its errors are RuntimeErrors

    torch._dynamo.reset()
    run = eager_run(torch.compile(module), clip)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about inductor's own code
        run()
    return run
