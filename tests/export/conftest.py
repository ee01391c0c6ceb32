"""Fixtures of all tests of the export."""

import hashlib
import sys
from collections.abc import Iterator

import onnx
import pytest
from torch import nn

from dvfl_export import export
from dvfl_runtime import ClipSpec

PIPELINE = sys.modules[export.__module__]


PLAIN = (bool, int, float, str, tuple, type(None))


def _digest(module: nn.Module, spec: ClipSpec) -> bytes:
    """Of all layers with their plain attributes, all weights and the spec."""
    digest = hashlib.sha256(repr(spec).encode())
    for name, layer in module.named_modules():
        plain = {key: value for key, value in vars(layer).items() if isinstance(value, PLAIN)}
        digest.update(repr((name, type(layer), sorted(plain.items()))).encode())
    for name, weight in module.state_dict().items():
        digest.update(repr((name, weight.shape)).encode() + weight.numpy().tobytes())
    return digest.digest()


@pytest.fixture(autouse=True, scope="session")
def same_networks_are_traced_once() -> Iterator[None]:
    """PyTorch's exporter, the slow part of an export, runs once for each network and spec.

    Its own tests call `onnx_from_model` themselves, which stays as it is.
    """
    traced: dict[bytes, bytes] = {}
    trace = PIPELINE.onnx_from_model

    def onnx_from_model(module: nn.Module, spec: ClipSpec) -> onnx.ModelProto:
        key = _digest(module, spec)
        if key not in traced:
            traced[key] = trace(module, spec).SerializeToString()
        return onnx.load_from_string(traced[key])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PIPELINE, "onnx_from_model", onnx_from_model)
        yield
