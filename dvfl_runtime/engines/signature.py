"""What every model file's graph must take and give."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

from dvfl_runtime.errors import ArtifactError

INPUT, OUTPUT = "clip", "logits"

Shape: TypeAlias = tuple[int | None, ...]  # None: open
Value: TypeAlias = tuple[str, str, Shape]  # name, type, shape


def check_signature(
    path: str | os.PathLike[str], inputs: Sequence[Value], outputs: Sequence[Value]
) -> None:
    """Checks that a graph maps clip: uint8 (B, T, H, W, 3) to logits: float32 (B, N).

    T, H and W must be fixed: after a graph that left them open had run on clips that it was not
    made for, the next good model of the process crashed in OpenVINO 2026.4.

    Raises:
        ArtifactError: if it does not.
    """
    found = [[(name, kind, len(shape)) for name, kind, shape in side] for side in (inputs, outputs)]
    wanted = [[(INPUT, "uint8", 5)], [(OUTPUT, "float32", 2)]]
    if found != wanted:
        raise ArtifactError(
            f"cannot use model {Path(path)}: its graph maps {found[0]} to {found[1]}, "
            f"wanted {wanted[0]} to {wanted[1]}; export it with dvfl-export"
        )
    shape = inputs[0][2]
    if None in shape[1:]:
        raise ArtifactError(
            f"cannot use model {Path(path)}: its graph takes clips of shape {shape}, wanted fixed "
            f"numbers but for the batch; export it with dvfl-export"
        )
