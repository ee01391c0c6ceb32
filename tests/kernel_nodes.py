"""Models of one `dvfl` node with its function, run with and without the kernels."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from dvfl_export.deploy import quantised_functions
from dvfl_export.deploy.functions import function_text

Array = NDArray[Any]
OPSETS = [helper.make_opsetid("", 20), helper.make_opsetid("dvfl", 1)]
# node that computes each token on its own -> how many products and vectors it reads
INPUTS = {
    "BiasGelu": (1, 1),
    "Modulate": (3, 3),
    "AddNorm": (2, 3),
    "EmbedNorm": (1, 5),
    "AddPatches": (2, 0),
}
ROWS = tuple(f"{q}{kind}" for kind in INPUTS for q in ("", "Q"))
LINEAR = ("QLinearBias", *(f"QLinear{kind}" for kind in INPUTS))  # with their products
FIRST_OUTPUTS = {"AddNorm": ("total",), "EmbedNorm": ("tokens",)}
ZERO_POINT = np.array(128, np.uint8)
QUANTISE_OUTPUT = """    float_modulator = Reshape (channels_last, shape)
    modulator = QuantizeLinear (float_modulator, modulator_scale, zero_point)"""


@dataclass(frozen=True)
class Sizes:
    """The sizes of a context node; the kernels of the levels are 3, 5, 7 and so on."""

    frames: int
    height: int
    width: int
    channels: int
    levels: int
    batch: int = 2

    @property
    def tokens(self) -> int:
        return self.frames * self.height * self.width

    @property
    def kernels(self) -> list[int]:
        return [3 + 2 * level for level in range(self.levels)]


@dataclass(frozen=True)
class NodeCase:
    """A node, its inputs, constant and not, and its function.

    Attributes:
        op: name of the operator.
        inputs: what a run is given.
        constants: initializers, in the order of the node's inputs after those.
        attributes: of the node.
        function: in the textual syntax of ONNX.
        floats: names of the float32 outputs before the last one.
        order: of the node's inputs, where constants are not the last.
    """

    op: str
    inputs: Mapping[str, Array]
    constants: Mapping[str, Array]
    attributes: Mapping[str, Any]
    function: str
    floats: tuple[str, ...] = ()
    order: tuple[str, ...] = ()

    def model(self) -> onnx.ModelProto:
        names = self.order or (*self.inputs, *self.constants)
        node = helper.make_node(
            self.op, names, [*self.floats, "out"], name="the_node", domain="dvfl", **self.attributes
        )
        feeds = [
            helper.make_tensor_value_info(
                name, helper.np_dtype_to_tensor_dtype(value.dtype), ["B", *value.shape[1:]]
            )
            for name, value in self.inputs.items()
        ]
        to_bytes = self.op.startswith("Q") and self.op != "QLinearBias"
        out_type = TensorProto.UINT8 if to_bytes else TensorProto.FLOAT
        shape = ["B", "tokens", "features"]
        graph = helper.make_graph(
            [node],
            "one_node",
            feeds,
            [
                helper.make_tensor_value_info("out", out_type, shape),
                *(helper.make_tensor_value_info(n, TensorProto.FLOAT, shape) for n in self.floats),
            ],
            [numpy_helper.from_array(value, name) for name, value in self.constants.items()],
        )
        function = onnx.parser.parse_function(self.function)
        model = helper.make_model(graph, functions=[function], opset_imports=OPSETS)
        model.ir_version = 10
        return model


def context_case(op: str, sizes: Sizes, seed: int = 0) -> NodeCase:
    """Return a context node with random inputs."""
    rng = np.random.default_rng(seed)
    temporal, quantised = "Temporal" in op, op.startswith("Q")
    c, levels = sizes.channels, sizes.levels
    context = floats(rng, sizes.batch, sizes.tokens, c)
    gates = floats(rng, sizes.batch, sizes.tokens, 2 * (levels + 1))
    constants: dict[str, Array] = {}
    if temporal:
        constants["frame_bias"] = floats(rng, 1, c, sizes.frames, 1)
    if quantised:
        constants |= {"modulator_scale": np.float32(0.02), "zero_point": ZERO_POINT}
    for level, k in enumerate(sizes.kernels, 1):
        shape = (c, c, k, 1) if temporal else (c, 1, k, k)
        kernel = floats(rng, *shape) / np.float32(np.sqrt(np.prod(shape[1:])))
        if temporal and quantised:
            scale = (np.abs(kernel).max((1, 2, 3)) / 63).astype(np.float32)
            constants |= {
                f"scale_{level}": np.float32(0.03),
                f"kernel_{level}": np.rint(kernel / scale[:, None, None, None]).astype(np.int8),
                f"kernel_scale_{level}": scale,
            }
        else:
            constants[f"kernel_{level}"] = kernel
    if temporal and quantised:
        context = (np.clip(np.rint(context / 0.03), -128, 127) + 128).astype(np.uint8)
    attributes = {
        "frames": sizes.frames,
        "height": sizes.height,
        "width": sizes.width,
        "channels": c,
        "levels": levels,
        "gate_offset": levels + 1 if temporal else 0,
        "kernel_sizes": sizes.kernels,
        "plugin_namespace": "dvfl",
        "plugin_version": "2" if quantised else "1",
    }
    inputs = {"context": context, "gates": gates}
    return NodeCase(op, inputs, constants, attributes, body(op, levels))


def bias_gelu_case(op: str, tokens: int, features: int, seed: int = 0) -> NodeCase:
    """Return a bias and GELU between two products, with random inputs."""
    return rows_case(op, tokens, features, seed)


def rows_case(op: str, tokens: int, features: int, seed: int = 0) -> NodeCase:
    """Return a node that computes each token on its own, with random inputs."""
    rng = np.random.default_rng(seed)
    kind = op.removeprefix("Q")
    products, vectors = INPUTS[kind]
    attributes: dict[str, Any] = {"epsilon": 1e-5} if kind in FIRST_OUTPUTS else {}
    if kind == "AddPatches":
        attributes = {"rows": tokens, "columns": 3, "stride": 2, "channels": features}
        tokens *= 3 * 2 * 2
    inputs = {f"product_{n}": 2 * floats(rng, 2, tokens, features) for n in range(products)}
    constants: dict[str, Array] = {f"vector_{n}": floats(rng, features) for n in range(vectors)}
    quantised = op.startswith("Q")
    if quantised:
        constants |= {"scale": np.float32(0.02), "zero_point": ZERO_POINT}
    text = quantised_functions.function_text(op) if quantised else function_text(op, 0)
    return NodeCase(op, inputs, constants, attributes, text, FIRST_OUTPUTS.get(kind, ()))


def linear_case(op: str, tokens: int, inputs: int, features: int) -> NodeCase:
    """Return a node that computes its products of bytes, with random inputs."""
    rng = np.random.default_rng(0)
    kind = op.removeprefix("QLinear")
    twin = rows_case(f"Q{kind}" if kind in INPUTS else "BiasGelu", tokens, features)
    tokens = next(iter(twin.inputs.values())).shape[1]
    attributes = {**twin.attributes, "plugin_namespace": "dvfl", "plugin_version": "4"}
    text = quantised_functions.function_text(op)
    names = text[text.index("\n    (") + 6 : text.index(") => (")].split(", ")
    others = iter([*twin.inputs.items(), *twin.constants.items()])
    values: dict[str, Array] = {}
    for name in names:
        if name.endswith("_bytes"):
            next(others)
            values[name] = rng.integers(0, 256, (2, tokens, inputs), dtype=np.uint8)
        elif name.endswith(("_weight", "_weight_zero", "_weight_scale")) or name in (
            f"{product}_scale" for product in quantised_functions.PRODUCTS
        ):
            values[name] = {
                "weight": rng.integers(-64, 65, (inputs, features)).astype(np.int8),
                "weight_scale": (rng.random(features) + 0.5).astype(np.float32) / 40,
                "weight_zero": np.zeros(features, np.int8),
                "scale": np.float32(0.02 / np.sqrt(inputs)),
            }[name.split("_", 1)[1]]
        elif name == "zero_point":
            values[name] = ZERO_POINT
        else:
            values[name] = next(others)[1]
    inputs_of_run = {n: v for n, v in values.items() if v.ndim == 3}
    constants = {n: v for n, v in values.items() if v.ndim < 3}
    return NodeCase(op, inputs_of_run, constants, attributes, text, twin.floats, tuple(names))


def body(op: str, levels: int) -> str:
    """Return the function of a context node."""
    if not op.startswith("Q"):
        return function_text(op, levels)
    text = function_text(op[1:], levels).replace(f"{op[1:]} <", f"{op} <")
    text = text.replace("    modulator = Reshape (channels_last, shape)", QUANTISE_OUTPUT)
    numbers = range(1, levels + 1)
    if op == "QSpatialContext":
        return text.replace("(context, gates,", "(context, gates, modulator_scale, zero_point,")
    triples = [f"scale_{n}, kernel_{n}, kernel_scale_{n}" for n in numbers]
    plain = ", ".join(f"kernel_{n}" for n in numbers)
    text = text.replace(
        f"frame_bias, {plain}", f"frame_bias, modulator_scale, zero_point, {', '.join(triples)}"
    )
    text = text.replace(
        "    rows = Reshape (context,",
        "    floats = DequantizeLinear (context, scale_1, zero_point)\n    rows = Reshape (floats,",
    )
    for n in numbers:
        before = f"(context_{n - 1}, kernel_{n})"
        read = f"    weight_{n} = DequantizeLinear <axis = 0> (kernel_{n}, kernel_scale_{n})\n"
        if n > 1:
            read += (
                f"    bytes_{n} = QuantizeLinear (context_{n - 1}, scale_{n}, zero_point)\n"
                f"    input_{n} = DequantizeLinear (bytes_{n}, scale_{n}, zero_point)\n"
            )
        conv = "taps_1" if n == 1 else f"sum_{n}"
        text = text.replace(f"    {conv} = Conv", f"{read}    {conv} = Conv")
        name = f"input_{n}" if n > 1 else "context_0"
        text = text.replace(before, f"({name}, weight_{n})")
    return text


def floats(rng: np.random.Generator, *shape: int) -> Array:
    return rng.standard_normal(shape, dtype=np.float32)


def run_node(case: NodeCase, library: Path | None, folder: Path) -> tuple[Array, bool]:
    """Run a node; return its output, and whether a profile shows the node itself.

    onnxruntime has a BiasGelu of its own, which it makes of the function: names tell them apart.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 2
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.enable_profiling = True
    options.profile_file_prefix = str(folder / "profile")
    if library is not None:
        options.register_custom_ops_library(str(library))
    session = onnxruntime.InferenceSession(
        case.model().SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    out = session.run(None, dict(case.inputs))[0]
    events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    ran = {event["name"]: event["args"].get("op_name") for event in events if "args" in event}
    return out, ran.get("the_node_kernel_time") == case.op
