"""From a checkpoint to one self-describing, verified model file."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dvfl_export.pipeline import ExportRequest, export
    from dvfl_export.verify import Agreement, Verification, VerificationFailed

__all__ = ["Agreement", "ExportRequest", "Verification", "VerificationFailed", "export"]


def __getattr__(name: str) -> Any:
    """Load PyTorch when a name of `__all__` is used, not when the command line is read."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = "pipeline" if name in ("ExportRequest", "export") else "verify"
    return getattr(importlib.import_module(f"{__name__}.{module}"), name)
