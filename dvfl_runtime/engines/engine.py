"""The one interface of all engines, whichever library executes the graph."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray


@runtime_checkable
class Engine(Protocol):
    """A loaded graph. `run` may be called from several threads at once."""

    @property
    def name(self) -> str:
        """The engine, such as "onnxruntime"."""

    @property
    def version(self) -> str:
        """The engine's version."""

    @property
    def provider(self) -> str:
        """The part of the engine that really executes, such as "CPUExecutionProvider"."""

    @property
    def device(self) -> str:
        """Where it executes: "cpu", "cuda" or "gpu" (Intel's)."""

    @property
    def precision(self) -> str:
        """The precision that it computes in: "file" for that of the model file, or "bf16"."""

    @property
    def fused_ops(self) -> tuple[str, ...]:
        """Custom operators that run by a native kernel; empty when standard ones do the work."""

    @property
    def num_classes(self) -> int | None:
        """Width of the logits, None where the graph leaves it open."""

    @property
    def clip_shape(self) -> tuple[int | None, ...]:
        """(B, T, H, W, C) of the input; None where the graph leaves it open."""

    def run(self, clips: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Execute the graph: (B, T, H, W, 3) uint8 -> (B, num_classes) float32 logits."""

    def close(self) -> None:
        """Release the graph; further calls do nothing."""
