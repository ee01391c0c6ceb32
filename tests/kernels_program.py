"""Runs models of one node with and without the library, on the onnxruntime that is installed.

    python kernels_program.py FOLDER LIBRARY

FOLDER holds NAME.onnx and the inputs NAME.npz; a line for each is printed, with the largest
difference and the share of values that differ. It needs numpy and onnxruntime alone.
"""

from __future__ import annotations

import json
import platform
import sys
from pathlib import Path

import numpy as np
import onnxruntime


def run(folder: Path, model: Path, library: Path | None) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.enable_profiling = True
    options.profile_file_prefix = str(folder / "profile")
    if library is not None:
        options.register_custom_ops_library(str(library))
    session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    outputs = session.run(None, dict(np.load(model.with_suffix(".npz"))))
    events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    itself = any(event["name"] == "the_node_kernel_time" for event in events)
    assert itself == (library is not None), model.name
    return np.concatenate([out.ravel().astype(np.float64) for out in outputs])


def main(folder: Path, library: Path) -> None:
    sys.stdout.write(f"{platform.machine()} {onnxruntime.__version__}\n")
    for model in sorted(folder.glob("*.onnx")):
        difference = np.abs(run(folder, model, None) - run(folder, model, library))
        share = (difference > 1e-5).mean()
        sys.stdout.write(f"{model.stem} {difference.max()} {share}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
