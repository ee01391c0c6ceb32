"""The target "tensorrt": a plan, built on this device, that says what onnxruntime says.

Experimental: not yet run on a GPU.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from dvfl_export.sample_clips import Images
from dvfl_export.verify import Threshold, Verification, verify
from dvfl_runtime.artifact import ModelFile
from dvfl_runtime.engines import open_engine
from dvfl_runtime.engines.tensorrt import open_engine as open_tensorrt


def build_and_verify(
    file: Path, clips: Sequence[Images], threshold: Threshold, share: Callable[[float], None]
) -> Verification:
    """Builds the plan of a model file, as the runtime will load it, and compares it.

    A plan that fails is deleted, so that the runtime does not find it.

    Args:
        file: the model.
        clips: made by the spec in the file, each (T, H, W, 3) uint8.
        threshold: what the plan must reach.
        share: called with the share of the build that is done.

    Raises:
        EngineUnavailable: if there is no GPU or no TensorRT.
        ArtifactError: if TensorRT cannot read or build the model.
    """
    model = ModelFile(file)
    built = open_tensorrt(model, "cuda", None, progress=share)
    built.close()
    reference = open_engine("onnxruntime", model, device="cpu")
    logits = np.concatenate([reference.run(clip[None]) for clip in clips])
    reference.close()
    verification = verify(file, logits, clips, ["tensorrt"], threshold=threshold)
    if not verification.passed and built.plan is not None:
        built.plan.unlink(missing_ok=True)
    return verification
