"""Tests of bfloat16: skipped on CPUs that do not compute in it; other CPUs, as OpenVINO tells."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest

from dvfl_runtime.engines.openvino import shared_core


def computes_bf16() -> bool:
    with suppress(ImportError):
        import openvino

        return "BF16" in shared_core(openvino).get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return False


needs_bf16 = pytest.mark.skipif(
    not computes_bf16(), reason="needs OpenVINO and a CPU with AVX512_BF16 or AMX"
)


class OtherCpu:
    """OpenVINO's `Core` on a CPU with other capabilities."""

    def __init__(self, core: Any, *capabilities: str) -> None:
        self._core = core
        self._capabilities = list(capabilities)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._core, name)

    def get_property(self, device: str, name: str) -> Any:
        if name == "OPTIMIZATION_CAPABILITIES":
            return self._capabilities
        return self._core.get_property(device, name)


def on_a_cpu_without_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    other = OtherCpu(_core(), "WINOGRAD", "FP32", "INT8", "BIN")
    monkeypatch.setattr("dvfl_runtime.engines.openvino.shared_core", lambda ov: other)


def where_openvino_takes_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes float32 in silence where it has no bfloat16 for the hint."""
    core = _core()
    other = OtherCpu(core, "BF16")

    def compile_model(graph: Any, device: str, config: dict[str, Any]) -> Any:
        return core.compile_model(graph, device, {**config, "INFERENCE_PRECISION_HINT": "f32"})

    other.compile_model = compile_model  # type: ignore[attr-defined]
    monkeypatch.setattr("dvfl_runtime.engines.openvino.shared_core", lambda ov: other)


def _core() -> Any:
    return shared_core(pytest.importorskip("openvino"))
