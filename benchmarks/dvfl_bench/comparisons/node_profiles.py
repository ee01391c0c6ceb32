"""Profiles of onnxruntime: times by operator, and of single fused nodes of a graph."""

from __future__ import annotations

import json
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import onnx
from numpy.typing import NDArray

from dvfl_bench.device.timing import Work, in_turn

DOMAIN = "dvfl"
Tensors: TypeAlias = Mapping[str, NDArray[Any]]
# (name of the node, its operator) -> ms of each run
NodeTimes: TypeAlias = dict[tuple[str, str], list[float]]


@dataclass(frozen=True)
class NodeModel:
    """A fused node as a model of its own, and the inputs that it has in the network.

    Attributes:
        kind: its operator.
        model: with the node's initializers and functions.
        inputs: name -> tensor.
    """

    kind: str
    model: onnx.ModelProto
    inputs: Tensors


def session_of(
    model: onnx.ModelProto, library: Path | None, threads: int, profile: Path | None = None
) -> Any:
    """Return a session of onnxruntime, with a profile where a prefix of its file is given."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if library is not None:
        options.register_custom_ops_library(str(library))
    if profile is not None:
        options.enable_profiling = True
        options.profile_file_prefix = str(profile)
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def profiled_runs(
    model: onnx.ModelProto,
    inputs: Tensors,
    libraries: Mapping[str, Path | None],
    *,
    threads: int,
    repeats: int,
) -> dict[str, NodeTimes]:
    """Run a model with each of the libraries in turn; return the times of its nodes.

    Args:
        model: to run.
        inputs: of every run.
        libraries: name -> the library that is registered, `None` for none.
        threads: of the engine.
        repeats: rounds after one that warms up.
    """
    with tempfile.TemporaryDirectory() as folder:
        sessions = {
            name: session_of(model, library, threads, Path(folder) / str(index))
            for index, (name, library) in enumerate(libraries.items())
        }
        works = {name: bound_run(session, inputs) for name, session in sessions.items()}
        in_turn(works, range(repeats))
        files = {name: Path(session.end_profiling()) for name, session in sessions.items()}
        events = {name: json.loads(file.read_text("utf-8")) for name, file in files.items()}
    return {name: _node_times(found) for name, found in events.items()}


def bound_run(session: Any, inputs: Tensors) -> Work:
    """Run a session once; return a run into the same outputs.

    A run that makes its outputs anew pays for their pages in the nodes that write them, which no
    node in the midst of a network does.
    """
    from onnxruntime import OrtValue

    binding = session.io_binding()
    for name, value in inputs.items():
        binding.bind_ortvalue_input(name, OrtValue.ortvalue_from_numpy(value))
    outputs = session.run(None, dict(inputs))
    for output, value in zip(session.get_outputs(), outputs, strict=True):
        binding.bind_ortvalue_output(output.name, OrtValue.ortvalue_from_numpy(value))
    return lambda: session.run_with_iobinding(binding)


def _node_times(events: list[dict[str, Any]]) -> NodeTimes:
    times: NodeTimes = defaultdict(list)
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            node = event["name"].removesuffix("_kernel_time"), event["args"]["op_name"]
            times[node].append(event["dur"] / 1e3)
    return {node: taken[1:] for node, taken in times.items()}  # the first round warms up


def least_ms(times: NodeTimes) -> float:
    """Return the sum over all nodes of their least times."""
    return sum(map(min, times.values()))


def ms_by_operator(times: NodeTimes) -> dict[str, float]:
    """Return the sums of least times by operator, largest first, and "all"."""
    sums: dict[str, float] = defaultdict(float)
    for (_, operator), taken in times.items():
        sums[operator] += min(taken)
    largest = sorted(sums.items(), key=lambda item: -item[1])
    return {**{name: round(ms, 3) for name, ms in largest}, "all": round(least_ms(times), 3)}


def fused_node_models(model: onnx.ModelProto, inputs: Tensors) -> Iterator[NodeModel]:
    """Cut every fused node out of a graph, with the inputs that a run of the graph gives it."""
    weights = {weight.name: weight for weight in model.graph.initializer}
    nodes = [node for node in model.graph.node if node.domain == DOMAIN]
    fed = {node.output[0]: [name for name in node.input if name not in weights] for node in nodes}
    tensors = _values_of(model, inputs, sorted({name for names in fed.values() for name in names}))
    for node in nodes:
        mine = {name: tensors[name] for name in fed[node.output[0]]}
        yield NodeModel(node.op_type, _model_of(node, model, mine), mine)


def _values_of(model: onnx.ModelProto, inputs: Tensors, names: list[str]) -> Tensors:
    shown = onnx.ModelProto()
    shown.CopyFrom(model)
    known = {output.name for output in model.graph.output}
    shown.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in known)
    session = session_of(shown, None, threads=0)
    return dict(zip(names, session.run(names, dict(inputs)), strict=True))


def _model_of(node: onnx.NodeProto, model: onnx.ModelProto, inputs: Tensors) -> onnx.ModelProto:
    feeds = [
        onnx.helper.make_tensor_value_info(
            name, onnx.helper.np_dtype_to_tensor_dtype(value.dtype), value.shape
        )
        for name, value in inputs.items()
    ]
    graph = onnx.helper.make_graph(
        [node],
        node.op_type,
        feeds,
        [onnx.ValueInfoProto(name=name) for name in node.output],
        [weight for weight in model.graph.initializer if weight.name in node.input],
    )
    return onnx.helper.make_model(
        graph,
        functions=list(model.functions),
        opset_imports=list(model.opset_import),
        ir_version=model.ir_version,
    )
