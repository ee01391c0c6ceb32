"""How what moves moves: features of a clip without a network, as a model file of their own.

A network that has learnt the movements of whole bodies sees little of a hand in front of the
camera. For such actions it tells most which way and how fast each part of the picture goes. So
these features are the optical flow between the pictures that follow each other, by the least
squares of Lucas and Kanade (1981, "An iterative image registration technique with an application to
stereo vision"), in a grid of cells at three sizes of the picture; and how much changes from picture
to picture, and where its middle is.

They are standard operators in float32, a hundredth of the multiply-adds of the bundled network, and
any engine runs them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dvfl_runtime.artifact import METADATA_KEY, OUTPUT, Artifact
from dvfl_runtime.artifact.model_file import INPUT
from dvfl_runtime.clips.spec import ClipSpec
from dvfl_runtime.errors.packages import needed

if TYPE_CHECKING:
    import onnx

NAME = "motion"
FEATURES = "motion/features"
OPSET, IR_VERSION = 17, 8  # what every supported engine reads
LUMA = 0.299, 0.587, 0.114
SIZES = 8, 16, 32  # px, of the pictures that are compared
CELLS = 4  # in each direction
FASTEST = 3.0  # px of such a picture; a faster move is told by the smaller ones
FLAT = 1e-4  # squared slopes that noise has, too
LEAST_CHANGE = 0.03  # of the brightness, 0 to 1: less is noise

Floats = NDArray[np.float32]


def motion_model(spec: ClipSpec) -> bytes | None:
    """Return a model file of these features, with a head of zeros that another takes the place of.

    Returns:
        `None` for clips of a single picture, in which nothing moves.

    Raises:
        DvflError: if onnx is not installed.
    """
    if spec.num_frames < 2:
        return None
    with needed("teaching", "onnx"):
        from onnx import TensorProto, checker, helper

    graph = _Graph()
    luma = np.array(LUMA, np.float32)[:, None] / 255
    graph.add("Cast", [INPUT], "clip", to=TensorProto.FLOAT)
    graph.add("MatMul", ["clip", graph.hold("luma", luma)], "bright")  # (B, T, H, W, 1)
    axes = graph.hold("last", np.array([-1]))
    graph.add("Squeeze", ["bright", axes], "grey")  # (B, T, H, W)
    found = [vector for px in SIZES for vector in _flow(graph, px, spec.size)]
    found += _changes(graph, SIZES[-1])
    graph.add("Concat", found, "features", axis=1)
    width = 2 * len(SIZES) * CELLS**2 * (spec.num_frames - 1) + 3 * (spec.num_frames - 1)
    head = graph.hold("head", np.zeros((width, 1), np.float32))
    node = helper.make_node("MatMul", [FEATURES, f"{NAME}/{head}"], [OUTPUT], "head/MatMul")
    clip: list[str | int | None] = ["batch", spec.num_frames, *spec.size, 3]
    model = helper.make_model(
        helper.make_graph(
            [*graph.nodes, node],
            NAME,
            [helper.make_tensor_value_info(INPUT, TensorProto.UINT8, clip)],
            [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["batch", 1])],
            graph.weights,
        ),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
    )
    about = Artifact(name=NAME, variant=NAME, labels=(NAME,), spec=spec, features=FEATURES)
    helper.set_model_props(model, {METADATA_KEY: about.to_json()})
    checker.check_model(model)
    content: bytes = model.SerializeToString()
    return content


class _Graph:
    """Nodes and weights, whose names begin with that of the whole."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def hold(self, name: str, values: NDArray[Any]) -> str:
        """Add a weight; return its name."""
        from onnx import numpy_helper

        self.weights.append(numpy_helper.from_array(values, f"{NAME}/weights/{name}"))
        return f"weights/{name}"

    def add(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> str:
        """Add a node; return the name of its output."""
        from onnx import helper

        names = [name if name == INPUT and kind == "Cast" else f"{NAME}/{name}" for name in inputs]
        self.nodes.append(
            helper.make_node(kind, names, [f"{NAME}/{output}"], f"{NAME}/{output}", **attributes)
        )
        return output


def _flow(graph: _Graph, px: int, size: tuple[int, int]) -> list[str]:
    """Add the flow between pictures of px x px; return its x and y, each (B, cells)."""

    def add(kind: str, inputs: list[str], output: str) -> str:
        return graph.add(kind, inputs, f"{px}/{output}")

    def hold(name: str, values: NDArray[Any]) -> str:
        return graph.hold(f"{px}/{name}", values)

    def product(one: str, other: str, output: str) -> str:
        """Return the means over cells of the product of two values (B, T - 1, px, px)."""
        whole = add("Mul", [one, other], f"{output}/each")
        cells = add("MatMul", [whole, across], f"{output}/columns")
        return add("MatMul", [down, cells], output)

    height, width = (averages(length, px) for length in size)
    narrow = add("MatMul", ["grey", hold("width", width.T.copy())], "narrow")
    add("MatMul", [hold("height", height), narrow], "small")  # (B, T, px, px)
    before, after = _neighbours(graph, px)
    change = add("Sub", [after, before], "change")
    middle = add("Mul", [add("Add", [before, after], "sum"), hold("half", _number(0.5))], "middle")
    slope = slopes(px)
    slope_x = add("MatMul", [middle, hold("slope_x", slope.T.copy())], "slope_x")
    slope_y = add("MatMul", [hold("slope_y", slope), middle], "slope_y")
    cells = averages(px, CELLS)
    down, across = hold("down", cells), hold("across", cells.T.copy())
    flat = hold("flat", _number(FLAT))
    xt, yt = product(slope_x, change, "xt"), product(slope_y, change, "yt")
    xy = product(slope_x, slope_y, "xy")
    xx = add("Add", [product(slope_x, slope_x, "xx"), flat], "xx_flat")
    yy = add("Add", [product(slope_y, slope_y, "yy"), flat], "yy_flat")
    # (xx xy; xy yy) (u; v) = -(xt; yt)
    square = add("Mul", [xy, xy], "xy_square")
    scale = add("Sub", [add("Mul", [xx, yy], "xx_yy"), square], "determinant")
    least, most = hold("slowest", _number(-FASTEST)), hold("fastest", _number(FASTEST))
    found = []
    for name, (first, second), (third, fourth) in (
        ("u", (xy, yt), (yy, xt)),
        ("v", (xy, xt), (xx, yt)),
    ):
        plus = add("Mul", [first, second], f"{name}/plus")
        minus = add("Mul", [third, fourth], f"{name}/minus")
        moved = add("Div", [add("Sub", [plus, minus], f"{name}/sum"), scale], f"{name}/moved")
        clipped = add("Clip", [moved, least, most], f"{name}/clipped")
        found.append(_flat(graph, clipped, f"{px}/{name}"))
    return found


def _neighbours(graph: _Graph, px: int) -> tuple[str, str]:
    """Return the pictures but the last one, and but the first one."""
    ends = {"first": 0, "second": 1, "last": -1, "end": np.iinfo(np.int64).max, "time": 1}
    names = {name: graph.hold(f"{px}/{name}", np.array([n])) for name, n in ends.items()}
    out = []
    for output, begin, end in (("before", "first", "last"), ("after", "second", "end")):
        inputs = [f"{px}/small", names[begin], names[end], names["time"]]
        out.append(graph.add("Slice", inputs, f"{px}/{output}"))
    return out[0], out[1]


def _changes(graph: _Graph, px: int) -> list[str]:
    """Add where the middle of what changes is, and the root of how much; each (B, T - 1)."""
    places = ((np.arange(px) - (px - 1) / 2) / (px / 2)).astype(np.float32)
    add, hold = graph.add, graph.hold
    noise, zero = hold("noise", _number(LEAST_CHANGE)), hold("zero", _number(0))
    above = add("Sub", [add("Abs", [f"{px}/change"], "changes/all"), noise], "changes/above")
    real = add("Max", [above, zero], "changes/real")
    rows = add("MatMul", [real, hold("ones", np.ones((px, 1), np.float32))], "changes/rows")
    columns = add("MatMul", [hold("one_row", np.ones((1, px), np.float32)), real], "changes/cols")
    sums = add("MatMul", ["weights/one_row", rows], "changes/sums")
    amount = add("Add", [sums, hold("little", _number(1e-3))], "changes/amount")
    x = add("MatMul", [columns, hold("places_x", places[:, None].copy())], "changes/x_sum")
    y = add("MatMul", [hold("places_y", places[None].copy()), rows], "changes/y_sum")
    return [
        _flat(graph, add("Div", [x, amount], "changes/x_middle"), "changes/x"),
        _flat(graph, add("Div", [y, amount], "changes/y_middle"), "changes/y"),
        _flat(graph, add("Sqrt", [amount], "changes/root"), "changes/much"),
    ]


def _flat(graph: _Graph, value: str, output: str) -> str:
    shape = graph.hold(f"{output}/shape", np.array([0, -1]))
    return graph.add("Reshape", [value, shape], output)


def _number(value: float) -> Floats:
    return np.array(value, np.float32)


def averages(length: int, parts: int) -> Floats:
    """Return the matrix (parts, length) that averages over equal parts of so many px."""
    edges = np.arange(parts + 1) * length / parts
    pixels = np.arange(length)
    begin, end = edges[:-1, None], edges[1:, None]
    covered = np.clip(np.minimum(pixels + 1, end) - np.maximum(pixels, begin), 0, None)
    return np.asarray(covered / covered.sum(1, keepdims=True), np.float32)


def slopes(px: int) -> Floats:
    """Return the matrix (px, px) of central differences, zero at the edges."""
    out = np.zeros((px, px), np.float32)
    inner = np.arange(1, px - 1)
    out[inner, inner + 1], out[inner, inner - 1] = 0.5, -0.5
    return out
