"""Context nodes with random inputs, and what the network makes of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from dvfl_export.deploy.layers import Grid, SpatialContext, TemporalContext
from dvfl_kernels import cuda_library

Sizes = cuda_library.Sizes
CASES = [
    Sizes(1, 8, 5, 6, 16, (3, 5)),
    Sizes(2, 3, 1, 1, 7, (3,)),  # smaller than the kernels
    Sizes(1, 9, 3, 1, 40, (3, 5)),  # more frames than a block holds at once
    Sizes(1, 1, 30, 33, 12, (3, 5)),  # more pixels than a tile
    Sizes(1, 2, 19, 23, 6, (3, 5, 7, 9, 11)),
    Sizes(1, 3, 2, 9, 144, (1, 5)),  # more channels than a block
]
TOLERANCE = {np.float32: 3e-6, np.float16: 1.5e-3}  # of the largest value


def inputs_of(node: str, sizes: Any, dtype: Any) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    found = {}
    for key, shape in sizes.shapes(node).items():
        value = rng.standard_normal(shape)
        if key.startswith("kernel"):
            value /= np.sqrt(value[0].size)
        found[key] = value.astype(dtype)
    return found


def by_the_network(node: str, sizes: Any, inputs: dict[str, Any]) -> Any:
    """Return what the layer of the deploy form makes of a node's inputs, in float64."""
    kind = TemporalContext if node == "TemporalContext" else SpatialContext
    layer: Any = kind.__new__(kind)
    torch.nn.Module.__init__(layer)
    layer.grid = Grid(sizes.frames, sizes.height, sizes.width)
    layer.dim, layer.levels = sizes.channels, sizes.levels
    layer.first_gate = sizes.gate_offset(node)
    layer.plane = (sizes.height, sizes.width)
    if node == "TemporalContext":
        layer.plane = (sizes.frames, sizes.height * sizes.width)
        layer.bias = torch.from_numpy(inputs["frame_bias"]).double()
    kernels = [torch.from_numpy(v).double() for k, v in inputs.items() if k.startswith("kernel")]
    layer.kernels = torch.nn.ParameterList(kernels)
    context, gates = (torch.from_numpy(inputs[key]).double() for key in ("context", "gates"))
    with torch.inference_mode():
        return layer.aggregate(context, gates).numpy()
