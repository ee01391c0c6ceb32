"""The target "tensorrt": a plan built on this device, compared with onnxruntime.

Experimental: not yet run on a GPU.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from dvfl_export.verify import Threshold, Verification, engine_logits, verify
from dvfl_runtime.artifact import ModelFile
from dvfl_runtime.clips.spec import Clip
from dvfl_runtime.engines import open_engine
from dvfl_runtime.engines.tensorrt import open_engine as open_tensorrt


def build_and_verify(
    model: ModelFile, clips: Sequence[Clip], threshold: Threshold, share: Callable[[float], None]
) -> Verification:
    """Build the plan of a model file where the runtime looks for it, and compare its logits.

    A plan that fails is deleted, so that the runtime does not find it.

    Args:
        model: the file.
        clips: cut by the spec in the file, each (T, H, W, 3) uint8.
        threshold: that the plan must reach.
        share: called with the share of the build that is done.

    Raises:
        EngineUnavailable: if there is no GPU or no TensorRT.
        ArtifactError: if TensorRT cannot read or build the model.
    """
    built = open_tensorrt(model, "cuda", None, progress=share)
    built.close()
    reference = open_engine("onnxruntime", model, device="cpu")
    logits = engine_logits(reference, clips)
    reference.close()
    verification = verify(model, logits, clips, ["tensorrt"], threshold=threshold)
    if not verification.passed and built.plan is not None:
        built.plan.unlink(missing_ok=True)
    return verification
