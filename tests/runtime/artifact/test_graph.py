import os
import shutil
import subprocess
import sys

import onnx
import pytest
from artifacts import artifact, colour_graph, save, write_colour_model

from dvfl_runtime import ArtifactError
from dvfl_runtime.artifact import ModelFile


@pytest.mark.parametrize(
    ("side", "axis", "value", "message"),
    [
        (
            "input",
            1,
            65536,
            r"clips of shape \(None, 65536, 8, 8, 3\) and its ClipSpec makes",
        ),
        ("input", 2, 2**40, "takes clips of shape"),
        ("input", 3, -1, "takes clips of shape"),
        ("input", 4, 4, "takes clips of shape"),
        ("input", 0, 16, "batch of its graph is fixed to 16, not 1"),
        ("output", 1, 4, "it has 3 labels for 4 logits; export it again with the right --labels"),
    ],
)
def test_a_graph_that_does_not_fit_its_description_is_refused_before_an_engine_opens_it(
    tmp_path, side, axis, value, message
):
    model = colour_graph()
    values = {"input": model.graph.input, "output": model.graph.output}[side]
    values[0].type.tensor_type.shape.dim[axis].dim_value = value
    path = save(model, tmp_path / "m.onnx", {"dvfl": artifact().to_json()})
    with pytest.raises(ArtifactError, match=message):
        ModelFile(path)


def test_a_graph_may_leave_the_shape_of_its_logits_open(tmp_path):
    model = colour_graph()
    model.graph.output[0].type.tensor_type.ClearField("shape")
    path = save(model, tmp_path / "m.onnx", {"dvfl": artifact().to_json()})
    assert ModelFile(path).artifact == artifact()


def open_frames(graph):
    graph.input[0].type.tensor_type.shape.dim[1].dim_param = "frames"


def no_shape(graph):
    graph.input[0].type.tensor_type.ClearField("shape")


def other_name(graph):
    graph.output[0].name = graph.node[-1].output[0] = "result"


def other_type(graph):
    graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.FLOAT


def other_rank(graph):
    del graph.input[0].type.tensor_type.shape.dim[4]


def second_input(graph):
    graph.input.add().CopyFrom(graph.input[0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (open_frames, r"shape \(None, None, 8, 8, 3\), wanted fixed numbers .*dvfl-export"),
        (no_shape, r"maps \[\('clip', 'uint8', None\)\] to .*wanted \[\('clip', 'uint8', 5\)\]"),
        (other_name, r"to \[\('result', 'float32', 2\)\], wanted .*'logits'.*dvfl-export"),
        (other_type, r"maps \[\('clip', 'float32', 5\)\]"),
        (other_rank, r"maps \[\('clip', 'uint8', 4\)\]"),
        (second_input, r"maps \[\('clip', 'uint8', 5\), \('clip', 'uint8', 5\)\]"),
    ],
)
def test_a_graph_that_is_not_ours_is_refused(tmp_path, change, message):
    model = colour_graph()
    change(model.graph)
    path = save(model, tmp_path / "m.onnx", {"dvfl": artifact().to_json()})
    with pytest.raises(ArtifactError, match=rf"cannot use model .*m\.onnx: its graph .*{message}"):
        ModelFile(path)


def test_a_graph_of_many_inputs_is_refused_in_one_short_line(tmp_path):
    model = colour_graph()
    for number in range(1000):
        model.graph.input.add().CopyFrom(model.graph.input[0])
        model.graph.input[-1].name = f"{number}\n"
    path = save(model, tmp_path / "m.onnx", {"dvfl": artifact().to_json()})
    with pytest.raises(ArtifactError, match="its graph maps") as refused:
        ModelFile(path)
    assert len(str(refused.value)) < 1000
    assert "\n" not in str(refused.value)


def test_a_graph_that_declares_two_shapes_for_one_input_is_refused(tmp_path):
    """Protobuf joins them to one of ten dimensions."""
    model = colour_graph()
    path = save(model, tmp_path / "m.onnx", {"dvfl": artifact().to_json()})
    clip = model.graph.input[0]
    twice = clip.SerializeToString() + onnx.ValueInfoProto(type=clip.type).SerializeToString()
    graph = onnx.GraphProto()
    graph.CopyFrom(model.graph)
    del graph.input[:]
    content = graph.SerializeToString() + field(11, twice)
    model.ClearField("graph")
    path.write_bytes(model.SerializeToString() + field(7, content))
    with pytest.raises(ArtifactError, match="damaged"):
        ModelFile(path)


def field(number, content):
    """A protobuf field of bytes."""
    size, length = len(content), b""
    while size >= 128:
        length += bytes([size & 127 | 128])
        size >>= 7
    return bytes([number << 3 | 2]) + length + bytes([size]) + content


def test_the_digest_of_a_graph_leaves_the_description_out(tmp_path):
    first = write_colour_model(tmp_path / "a.onnx")
    other = write_colour_model(tmp_path / "b.onnx", tools={"dvfl": "2"})
    assert first.read_bytes() != other.read_bytes()
    assert ModelFile(first).graph_sha256 == ModelFile(other).graph_sha256
    changed = save(colour_graph(gain=19.0), tmp_path / "c.onnx", {"dvfl": artifact().to_json()})
    assert ModelFile(changed).graph_sha256 != ModelFile(first).graph_sha256
    assert onnx.load(first).graph == onnx.load(other).graph


@pytest.mark.parametrize("engine", ["auto", "onnxruntime", "openvino"])
def test_a_start_reads_the_file_once(tmp_path, engine):
    """With nothing remembered, so that the engines are measured and the graph is hashed."""
    pytest.importorskip("openvino")
    model = write_colour_model(tmp_path / "m.onnx")
    trace = ["strace", "-f", "-qq", "-e", "trace=open,openat", "-o", str(tmp_path / "trace")]
    program = f"from dvfl_runtime import Recognizer; Recognizer({str(model)!r}, engine={engine!r})"
    subprocess.run(
        [*(trace if shutil.which("strace") else []), sys.executable, "-c", program],
        env={**os.environ, "DVFL_CACHE_DIR": str(tmp_path / "cache")},
        timeout=100,
        check=True,
    )
    if shutil.which("strace"):
        assert (tmp_path / "trace").read_text().count(f'"{model}"') == 1
