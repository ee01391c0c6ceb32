"""PyTorch module -> ONNX: one graph with a dynamic batch and nothing but the computation."""

from __future__ import annotations

import ast
import contextlib
import logging
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import onnx
import torch
from torch import nn

from dvfl_export.deploy.functions import number_levels, write_functions
from dvfl_export.deploy.fused_ops import fused_nodes
from dvfl_export.deploy.graph_fusions import fuse_elementwise
from dvfl_runtime.artifact import METADATA_KEY, Artifact
from dvfl_runtime.clips.spec import ClipSpec
from dvfl_runtime.errors import ExportError

OPSET = 20  # the first with Gelu; known to onnxruntime 1.21, OpenVINO 2025 and TensorRT 10.3
IR_VERSION = 10  # the newest that onnxruntime 1.21 reads
MAX_TRACED_BATCH = 1024  # upper bound of the symbol in the tracing; the file has none


@contextlib.contextmanager
def quiet_exporter() -> Iterator[None]:
    """Keep the exporter's messages about itself, not those about the model, off the terminal."""
    registration = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = registration.level
    registration.setLevel(logging.ERROR)  # it warns of a missing torchvision, which is not used
    try:
        with warnings.catch_warnings():
            # torch.export copies its own tree specs with a call that it has deprecated
            warnings.filterwarnings("ignore", r".*isinstance\(treespec, LeafSpec\)", FutureWarning)
            yield
    finally:
        registration.setLevel(level)


def onnx_from_model(
    module: nn.Module, spec: ClipSpec, *, opset: int = OPSET, fused: bool = True
) -> onnx.ModelProto:
    """Export a module that takes clips.

    Args:
        module: uint8 (B, T, H, W, 3) -> float32 (B, num_classes), in eval mode.
        spec: gives T, H and W.
        opset: from 20 on GELU is one node; below, torch writes it out in Erf (for comparisons).
        fused: whether a deploy form has nodes of domain `dvfl`, each with a function of its body;
            without, it has standard operators alone.

    Returns:
        Input `clip`, output `logits`, the batch dynamic in both. Nodes and values are named after
        the modules they come from, the same in every run.

    Raises:
        ExportError: if the exporter fails or fixes the batch, or torch is too old for fused nodes.
    """
    clip = torch.zeros(2, spec.num_frames, *spec.size, 3, dtype=torch.uint8)
    batch = torch.export.Dim("batch", min=1, max=MAX_TRACED_BATCH)
    with quiet_exporter(), torch.no_grad(), fused_nodes(fused):
        try:
            program = torch.onnx.export(
                module,
                (clip,),
                dynamo=True,
                opset_version=opset,
                input_names=["clip"],
                output_names=["logits"],
                dynamic_shapes=({0: batch},),
                verbose=False,
            )
        except Exception as err:  # the exporter's errors have no common base
            raise ExportError(f"torch.onnx.export failed: {err}") from err
    assert program is not None  # dynamo=True always returns one
    model = program.model_proto
    model.ir_version = IR_VERSION
    strip_metadata(model)
    name_after_modules(model.graph)
    if fused:
        fuse_elementwise(model.graph)
    number_levels(model)
    write_functions(model)
    for value in (*model.graph.input, *model.graph.output):
        first = value.type.tensor_type.shape.dim[0]
        if first.HasField("dim_value"):
            raise ExportError(f"the exporter fixed the batch of {value.name} at {first.dim_value}")
        first.dim_param = "batch"
    return model


def save_model(model: onnx.ModelProto, artifact: Artifact, path: Path) -> None:
    """Write a graph as a file that carries its description; the graph stays as it is."""
    described = onnx.ModelProto()
    described.CopyFrom(model)
    entry = described.metadata_props.add()
    entry.key, entry.value = METADATA_KEY, artifact.to_json()
    onnx.save(described, path)


def scope_of(node: onnx.NodeProto) -> str:
    """Return the path of the module that made a node, "" if torch did not record it."""
    for entry in node.metadata_props:
        if entry.key == "pkg.torch.onnx.name_scopes":
            scopes = ast.literal_eval(entry.value)  # from the root to the operator itself
            return str(scopes[-2]) if len(scopes) > 1 else ""
    return ""


def strip_metadata(model: onnx.ModelProto) -> None:
    """Remove stack traces, doc strings and inferred shapes; keep the entries for `scope_of`."""
    model.doc_string = model.graph.doc_string = ""
    del model.metadata_props[:], model.graph.metadata_props[:], model.graph.value_info[:]
    for value in (*model.graph.input, *model.graph.output, *model.graph.initializer):
        value.doc_string = ""
        del value.metadata_props[:]
    for node in model.graph.node:
        node.doc_string = ""
        kept = [entry for entry in node.metadata_props if entry.key.endswith("name_scopes")]
        kept = [(entry.key, entry.value) for entry in kept]
        del node.metadata_props[:]
        for key, value in kept:
            node.metadata_props.add(key=key, value=value)


def name_after_modules(graph: onnx.GraphProto) -> None:
    """Name nodes `module.path/OpType` (then `_1`, `_2`, ...), and values after their node."""
    fixed = {value.name for value in (*graph.input, *graph.output, *graph.initializer)}
    seen: Counter[str] = Counter()
    renamed: dict[str, str] = {}
    for node in graph.node:
        name = f"{scope_of(node)}/{node.op_type}"
        seen[name] += 1
        node.name = name if seen[name] == 1 else f"{name}_{seen[name] - 1}"
        del node.metadata_props[:]
        for index, output in enumerate(node.output):
            if output and output not in fixed:
                renamed[output] = f"{node.name}:{index}"
        node.output[:] = [renamed.get(value, value) for value in node.output]
        node.input[:] = [renamed.get(value, value) for value in node.input]
