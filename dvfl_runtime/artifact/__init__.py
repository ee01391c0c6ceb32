"""The model file: an ONNX graph that carries everything needed to use it."""

from dvfl_runtime.artifact.calibration import ConfidenceCalibration, fit_calibration
from dvfl_runtime.artifact.description import METADATA_KEY, Artifact, Precision, Shape
from dvfl_runtime.artifact.model_file import FUSED_DOMAIN, INPUT, OUTPUT, ModelFile

__all__ = [
    "FUSED_DOMAIN",
    "INPUT",
    "METADATA_KEY",
    "OUTPUT",
    "Artifact",
    "ConfidenceCalibration",
    "ModelFile",
    "Precision",
    "Shape",
    "fit_calibration",
]
