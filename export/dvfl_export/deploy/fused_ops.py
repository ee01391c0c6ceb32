"""The nodes of domain `dvfl` in an exported graph: the parts that a kernel computes at once.

Their contract (inputs, layouts, attributes) is in export/README.md. Kernels are written for it, so
a change needs a new version. `functions` holds the body of each node.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor, nn

from dvfl_runtime.artifact import FUSED_DOMAIN
from dvfl_runtime.errors import ExportError

if TYPE_CHECKING:
    from typing import TypeAlias

    Attributes: TypeAlias = dict[
        str,
        int | float | str | bool | Sequence[int] | Sequence[float] | Sequence[str] | Sequence[bool],
    ]

DOMAIN_VERSION = 4  # the opset of the domain: the newest version of any node
PLUGIN_VERSIONS = {
    **{"SpatialContext": 1, "TemporalContext": 1},
    **{"BiasGelu": 2, "Modulate": 2, "AddNorm": 2},
    **{"EmbedNorm": 3, "AddPatches": 3},
}

_writing = ContextVar("writing", default=False)


class ContextLayer(Protocol):
    """What `context_node` needs of a layer; see `dvfl_export.deploy.layers.Context`."""

    @property
    def grid(self) -> tuple[int, int, int]:
        """T, H and W of the tokens."""

    kernels: nn.ParameterList
    dim: int
    levels: int
    first_gate: int


@contextmanager
def fused_nodes(wanted: bool) -> Iterator[None]:
    """Let the layers that run inside write nodes of domain `dvfl`, or standard operators.

    Raises:
        ExportError: if this torch cannot write such nodes.
    """
    if wanted and not hasattr(torch.onnx, "ops"):
        raise ExportError(
            f"torch {torch.__version__} cannot write custom nodes; install torch>=2.8"
        )
    token = _writing.set(wanted)
    try:
        yield
    finally:
        _writing.reset(token)


def writes_fused_nodes() -> bool:
    """Return whether a layer is to write its node. In PyTorch that computes nothing."""
    return _writing.get()


def context_node(name: str, layer: ContextLayer, *inputs: Tensor) -> Tensor:
    """Write the node of a context; return its output in the shape (B, T*H*W, C) of its input."""
    frames, height, width = layer.grid
    attributes: Attributes = {
        "frames": frames,
        "height": height,
        "width": width,
        "channels": layer.dim,
        "levels": layer.levels,
        "gate_offset": layer.first_gate,
        "kernel_sizes": [kernel.shape[2] for kernel in layer.kernels],
    }
    return _node(name, [*inputs, *layer.kernels], attributes)


def bias_gelu_node(product: Tensor, bias: Tensor) -> Tensor:
    """Write the node Gelu(product + bias); return its output (B, N, F)."""
    return _node("BiasGelu", [product, bias], {})


def _node(name: str, inputs: Sequence[Tensor], attributes: Attributes) -> Tensor:
    return torch.onnx.ops.symbolic(
        f"{FUSED_DOMAIN}::{name}",
        inputs,
        {
            **attributes,
            "plugin_namespace": FUSED_DOMAIN,
            "plugin_version": str(PLUGIN_VERSIONS[name]),
        },
        dtype=inputs[0].dtype,
        shape=inputs[0].shape,
        version=DOMAIN_VERSION,
    )
