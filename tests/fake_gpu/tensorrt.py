"""TensorRT without a GPU: a plan is the model file itself, and onnxruntime runs it.

Its version is FAKE_TENSORRT, and FAKE_FAULT is added to the first logit. As the real one, it
refuses plans of another version. With FAKE_REFUSES_PLUGINS it reads no file that leaves nodes to
plugins.
The test of `tensorrt_build` checks the names that are used against the real bindings.
"""

from __future__ import annotations

import ctypes
import enum
import os
from types import SimpleNamespace

import numpy as np
import onnxruntime

__version__ = os.environ.get("FAKE_TENSORRT", "10.3.0")
MARK = f"plan of {__version__}:".encode()

NetworkDefinitionCreationFlag = enum.IntEnum("NetworkDefinitionCreationFlag", {"STRONGLY_TYPED": 1})
BuilderFlag = enum.Enum("BuilderFlag", ["TF32"])
MemoryPoolType = enum.Enum("MemoryPoolType", ["WORKSPACE"])
DataType = enum.Enum("DataType", ["UINT8", "FLOAT"])


class ILogger:
    INTERNAL_ERROR, ERROR, WARNING = range(3)


class IProgressMonitor:
    pass


class Registry:
    """Plugins are operators of onnxruntime, whose library is loaded in place of TensorRT's."""

    library = ""

    def load_library(self, plugin_path: str) -> object:
        onnxruntime.SessionOptions().register_custom_ops_library(plugin_path)
        Registry.library = plugin_path
        return object()

    def deregister_library(self, handle: object) -> None:
        Registry.library = ""

    def get_creator(self, name: str, version: str, plugin_namespace: str) -> object | None:
        return object() if self.library and plugin_namespace == "dvfl" else None


def session_of(model: bytes) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    if Registry.library:
        options.register_custom_ops_library(Registry.library)
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def shapes_of(model: bytes) -> dict[str, tuple[int, ...]]:
    session = session_of(model)
    return {
        value.name: tuple(n if isinstance(n, int) else -1 for n in value.shape)
        for value in (*session.get_inputs(), *session.get_outputs())
    }


class Builder:
    def __init__(self, logger: ILogger) -> None:
        self.network = SimpleNamespace(num_inputs=1, num_outputs=1)

    def create_network(self, flags: int) -> SimpleNamespace:
        assert flags == 2
        return self.network

    def create_builder_config(self) -> Config:
        return Config()

    def create_optimization_profile(self) -> SimpleNamespace:
        return SimpleNamespace(set_shape=lambda name, least, best, most: None)

    def build_serialized_network(self, network: SimpleNamespace, config: Config) -> bytes | None:
        if monitor := getattr(config, "progress_monitor", None):
            monitor.phase_start("Building", None, 2)
            going_on = [monitor.step_complete("Building", step) for step in range(2)]
            monitor.phase_finish("Building")
            if not all(going_on):
                return None
        assert config.workspace_bytes == 1 << 28  # half of what the driver says is free
        return MARK + network.model


class Config:
    def clear_flag(self, flag: object) -> None:
        assert flag is BuilderFlag.TF32

    def add_optimization_profile(self, profile: object) -> int:
        return 0

    def set_memory_pool_limit(self, pool: object, size: int) -> None:
        self.workspace_bytes = size

    def create_timing_cache(self, content: bytes) -> bytes:
        return content

    def set_timing_cache(self, cache: bytes, ignore_mismatch: bool) -> bool:
        return cache in (b"", b"timings")

    def get_timing_cache(self) -> SimpleNamespace:
        return SimpleNamespace(serialize=lambda: b"timings")


class OnnxParser:
    def __init__(self, network: SimpleNamespace, logger: ILogger) -> None:
        self.network = network

    num_errors = 0

    def parse(self, model: bytes) -> bool:
        if Registry.library and "FAKE_REFUSES_PLUGINS" in os.environ and b"group" not in model:
            return False  # a file without the functions
        shapes = shapes_of(model)
        clip = SimpleNamespace(name="clip", dtype=DataType.UINT8, shape=shapes["clip"])
        logits = SimpleNamespace(name="logits", dtype=DataType.FLOAT, shape=shapes["logits"])
        self.network.model = model
        self.network.get_input = [clip].__getitem__
        self.network.get_output = [logits].__getitem__
        return True


class Runtime:
    def __init__(self, logger: ILogger) -> None:
        self.logger = logger

    def get_plugin_registry(self) -> Registry:
        return Registry()

    def deserialize_cuda_engine(self, plan: bytes) -> Engine | None:
        if plan.startswith(MARK):
            return Engine(plan[len(MARK) :])
        self.logger.log(ILogger.ERROR, "the plan is of another version")
        return None


class Engine:
    def __init__(self, model: bytes) -> None:
        self.model = model
        self.get_tensor_shape = shapes_of(model).__getitem__

    def get_tensor_profile_shape(self, name: str, index: int) -> list[tuple[int, ...]]:
        shape = self.get_tensor_shape(name)[1:]
        return [(1, *shape), (1, *shape), (8, *shape)]

    def create_execution_context(self) -> Context:
        return Context(self)


class Context:
    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.session = session_of(engine.model)
        self.addresses: dict[str, int] = {}

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.shape = shape
        return shape[0] <= 8 and shape[1:] == self.engine.get_tensor_shape(name)[1:]

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return True

    def execute_async_v3(self, stream: int) -> bool:
        size = int(np.prod(self.shape))
        memory = (ctypes.c_uint8 * size).from_address(self.addresses["clip"])
        clips = np.frombuffer(memory, np.uint8).reshape(self.shape)
        logits = np.ascontiguousarray(self.session.run(["logits"], {"clip": clips})[0])
        logits[:, 0] += np.float32(os.environ.get("FAKE_FAULT", "0"))
        ctypes.memmove(self.addresses["logits"], logits.ctypes.data, logits.nbytes)
        return stream != 0
