"""The model file: an ONNX graph that carries everything needed to use it."""

from dvfl_runtime.artifact.description import (
    FORMAT_VERSION,
    METADATA_KEY,
    Artifact,
    Precision,
    exported_graph,
    graph_sha256,
    read_artifact,
)

__all__ = [
    "FORMAT_VERSION",
    "METADATA_KEY",
    "Artifact",
    "Precision",
    "exported_graph",
    "graph_sha256",
    "read_artifact",
]
