"""ONNX Runtime with its TensorRT provider, and its CUDA provider for what TensorRT leaves over.

TensorRT builds its engine when the model is first opened, which takes minutes; it is kept in a
folder of the user's own in `dvfl_runtime.files.cache_folder`. The provider has no option against
TF32, which the engine "tensorrt" switches off: NVIDIA_TF32_OVERRIDE=0 in the environment does it.
Not yet run on a GPU.
"""

from __future__ import annotations

import os

from dvfl_runtime.engines.onnxruntime import OnnxRuntimeEngine, open_on_tensorrt


def open_engine(
    path: str | os.PathLike[str], device: str, num_threads: int | None
) -> OnnxRuntimeEngine:
    """Loads a model file; see `dvfl_runtime.engines.open_engine`."""
    return open_on_tensorrt(path, device, num_threads)
