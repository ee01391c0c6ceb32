"""From a checkpoint to one self-describing, verified model file."""

from dvfl_export.export import ExportRequest, export
from dvfl_export.verify import Agreement, Verification, VerificationFailed

__all__ = ["Agreement", "ExportRequest", "Verification", "VerificationFailed", "export"]
