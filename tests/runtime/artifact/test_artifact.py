import contextlib
import dataclasses
import json
import os
import time

import numpy as np
import onnx
import pytest
from artifacts import LABELS, SPEC, artifact, colour_graph, save, write_colour_model
from hypothesis import given, settings
from hypothesis import strategies as st

from dvfl_runtime import ArgumentError, Artifact, ArtifactError, ClipSpec
from dvfl_runtime.artifact import ModelFile


def test_json_round_trip():
    full = artifact(
        training={"top1": 0.9, "data": ["a", "b"]}, parity={"max_abs": 1e-6}, precision="int8"
    )
    assert Artifact.from_json(full.to_json()) == full
    assert json.loads(full.to_json())["spec"]["size"] == [8, 8]


def test_only_a_file_with_a_focus_needs_the_second_version():
    whole = json.loads(artifact().to_json())
    assert whole["format_version"] == 1
    assert "focus" not in whole["spec"]  # older versions refuse what they do not know
    focused = artifact(spec=dataclasses.replace(SPEC, focus="motion"))
    stored = json.loads(focused.to_json())
    assert (stored["format_version"], stored["spec"]["focus"]) == (2, "motion")
    assert Artifact.from_json(focused.to_json()) == focused


def test_a_file_is_read_without_an_engine(tmp_path):
    path = write_colour_model(tmp_path / "m.onnx")
    onnx.checker.check_model(onnx.load(path), full_check=True)
    got = ModelFile(path).artifact
    assert got == artifact()
    assert got.labels == LABELS
    assert got.spec == SPEC


def test_metadata_in_front_of_the_graph_is_found_too(tmp_path):
    path = write_colour_model(tmp_path / "m.onnx")
    model = onnx.load(path)
    head = onnx.ModelProto(ir_version=9, metadata_props=model.metadata_props)
    del model.metadata_props[:]
    path.write_bytes(head.SerializeToString() + model.SerializeToString())
    assert ModelFile(path).artifact == artifact()


def test_every_cut_of_a_file_is_noticed(tmp_path):
    whole = write_colour_model(tmp_path / "m.onnx").read_bytes()
    part = tmp_path / "part.onnx"
    for cut in range(0, len(whole), 3):
        part.write_bytes(whole[:cut])
        with pytest.raises(ArtifactError, match=r"part\.onnx"):
            ModelFile(part)
    part.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ArtifactError, match="truncated"):
        ModelFile(part)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_a_damaged_file_is_read_or_refused(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("damage")
    raw = bytearray(write_colour_model(folder / "m.onnx").read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    (folder / "m.onnx").write_bytes(raw)
    with contextlib.suppress(ArtifactError):  # and no other error
        assert isinstance(ModelFile(folder / "m.onnx").artifact, Artifact)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty"),
        (b"just some text, no model at all\n" * 20, "not an ONNX file"),
        (b"\x80\x04\x95" + bytes(100), "not an ONNX file"),
        (b"PK\x03\x04" + bytes(1000), "not an ONNX file"),
        (b"\x08\x09", "not an ONNX file, or was truncated"),
    ],
)
def test_foreign_files_are_refused(tmp_path, content, message):
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    with pytest.raises(ArtifactError, match=message):
        ModelFile(path)


def test_missing_files_and_folders_are_refused(tmp_path):
    with pytest.raises(ArtifactError, match="No such file"):
        ModelFile(tmp_path / "m.onnx")
    with pytest.raises(ArtifactError, match="directory"):
        ModelFile(tmp_path)
    with pytest.raises(ArgumentError, match="path must be that of a model file, got ''"):
        ModelFile("")


def test_a_model_from_elsewhere_is_refused_with_the_command_to_run(tmp_path):
    path = save(colour_graph(), tmp_path / "m.onnx", {})
    with pytest.raises(ArtifactError, match=r"run: dvfl-export CHECKPOINT -o FILE\.onnx"):
        ModelFile(path)


def changed(**values):
    return json.dumps({**json.loads(artifact().to_json()), **values})


def without(name):
    return json.dumps({k: v for k, v in json.loads(artifact().to_json()).items() if k != name})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (changed(format_version=3), "format version is 3 .* upgrade"),
        (changed(format_version="1"), "format_version must be a whole number >= 1"),
        (changed(format_version=0), "format_version must be a whole number >= 1"),
        (without("format_version"), "format_version"),
        (without("labels"), "lacks 'labels'"),
        (without("name"), "name"),
        (changed(labels=[]), "labels"),
        (changed(labels=["a", "a"]), "distinct"),
        (changed(labels=["a", 1]), "labels"),
        (changed(labels=3), "wrong"),
        (changed(precision="fp8"), "precision must be one of"),
        (changed(spec=None), "spec must be a mapping of the fields of a ClipSpec, got None"),
        (changed(spec={"num_frames": 8}), "missing ClipSpec fields"),
        (changed(spec={**json.loads(artifact().to_json())["spec"], "size": 3}), "wrong"),
        (changed(spec={**json.loads(artifact().to_json())["spec"], "mean": "abc"}), "wrong"),
        (changed(training=[]), "training must be a mapping"),
        ("[1]", "not a JSON object"),
        ("{", "damaged"),
        ("[" * 100000, "damaged"),
    ],
)
def test_wrong_metadata_is_refused(tmp_path, text, message):
    path = save(colour_graph(), tmp_path / "m.onnx", {"dvfl": text})
    with pytest.raises(ArtifactError, match=message):
        ModelFile(path)


def test_metadata_that_is_no_text_is_refused(tmp_path):
    path = write_colour_model(tmp_path / "m.onnx")
    path.write_bytes(path.read_bytes().replace(b'"colours"', b'"\xff\xfeours"'))
    with pytest.raises(ArtifactError, match="damaged"):
        ModelFile(path)


def test_names_of_a_later_minor_addition_are_left_out():
    assert Artifact.from_json(changed(later="addition")) == artifact()


def test_values_out_of_range_are_refused():
    with pytest.raises(ValueError, match="labels must be distinct"):
        Artifact(name="n", variant="v", labels=("a", "a"), spec=ClipSpec())


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ("idle", "labels must be a list of one or more names, got 'idle'"),
        ({"idle": 0, "wave": 1}, "labels must be a list"),
        (None, "labels must be a list"),
        (["idle", " "], r"labels\[1\] must be a name"),
        (["idle", "a\n\n2\n00:00:00,000 --> 00:00:09,000\nforged"], "a string of one line"),
        (["a\rb", "c"], "a string of one line"),
        (["a\u2028b", "c"], "a string of one line"),
        (["a\x85b", "c"], "a string of one line"),
        (["\x1b[2Jcleared", "c"], "without control characters"),
        (["a\0b", "c"], "without control characters"),
        (["half \ud800", "c"], "without control characters"),
        (["wave", "idle", "wave"], r"must be distinct, got \['wave', 'wave'\]"),
        (["a" * 100_000 + "\n"], r"\.\.\.a+\\n'; export it again$"),
    ],
)
def test_labels_that_could_not_be_shown_are_refused(tmp_path, labels, message):
    path = save(colour_graph(), tmp_path / "m.onnx", {"dvfl": changed(labels=labels)})
    with pytest.raises(ArtifactError, match=message) as refused:
        ModelFile(path)
    assert len(str(refused.value)) < 1000
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("labels", ["idle", ["a\nb"], [], {"a": 1}])
def test_labels_are_checked_in_python_too(labels):
    with pytest.raises(ValueError, match="labels"):
        Artifact(name="n", variant="v", labels=labels, spec=ClipSpec())


def test_other_texts_that_are_shown_are_one_line():
    for name in ("name", "variant", "source_sha256"):
        with pytest.raises(ArtifactError, match=f"{name} must be a string of one line"):
            Artifact.from_json(changed(**{name: "a\n\x1b[2Jb"}))


def test_labels_of_all_languages_are_taken():
    labels = ["Händewaschen", "走る", "می‌دود", "👩🏽‍🚒 climbs", "a --> b"]
    assert Artifact.from_json(changed(labels=labels)).labels == tuple(labels)


def outside(tensor):
    tensor.ClearField("raw_data")
    tensor.ClearField("float_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../etc/passwd")
    return tensor


def constant(tensor):
    node = onnx.helper.make_node("Constant", [], ["c"], value=tensor)
    return onnx.helper.make_graph([node], "inner", [], [])


def hide(model, place):
    """Puts a tensor of another file where only a walk through all of a graph finds it."""
    tensor = outside(onnx.numpy_helper.from_array(np.ones(3, np.float32), "w"))
    graph = model.graph
    if place == "initializer":
        outside(graph.initializer[1])
    elif place == "location only":
        tensor.ClearField("data_location")
        graph.initializer.append(tensor)
    elif place == "constant":
        graph.node.extend(constant(tensor).node)
    elif place == "branch":
        branch = constant(tensor)
        graph.node.append(onnx.helper.make_node("If", ["x"], ["y"], then_branch=branch))
    elif place == "sparse":
        graph.sparse_initializer.add().values.CopyFrom(tensor)
    elif place == "function":
        nodes = constant(tensor).node
        model.functions.append(onnx.helper.make_function("f", "F", [], ["c"], nodes, []))


@pytest.mark.parametrize(
    "place", ["initializer", "location only", "constant", "branch", "sparse", "function"]
)
def test_weights_in_another_file_are_refused(tmp_path, place):
    model = colour_graph()
    hide(model, place)
    path = save(model, tmp_path / "m.onnx", {"dvfl": artifact().to_json()})
    with pytest.raises(ArtifactError, match=r"m\.onnx: it takes weights from another file"):
        ModelFile(path)


def test_a_tensor_that_says_it_is_inside_is_read(tmp_path):
    model = colour_graph()
    model.graph.initializer[0].data_location = onnx.TensorProto.DEFAULT
    path = save(model, tmp_path / "m.onnx", {"dvfl": artifact().to_json()})
    assert b"\x70\x00" in path.read_bytes()
    assert ModelFile(path).artifact == artifact()


@pytest.mark.parametrize(
    "more",
    [
        b"\x72\x00" * 2_500_000,  # entries of metadata without anything in them
        b"\x72\xc0\x96\xb1\x02" + b"\x1a\x00" * 2_500_000,  # one with as many unknown fields
        b"\x3a\xc0\x96\xb1\x02" + b"\x0a\x00" * 2_500_000,  # nodes without anything in them
        b"\x08\x09" * 2_500_000,
    ],
)
def test_a_file_of_millions_of_fields_is_refused_at_once(tmp_path, more):
    path = write_colour_model(tmp_path / "m.onnx")
    path.write_bytes(path.read_bytes() + more)
    begin = time.process_time()
    with pytest.raises(ArtifactError, match="more than 250000 fields"):
        ModelFile(path)
    assert time.process_time() - begin < 1


@pytest.mark.parametrize(
    "values",
    [
        {"training": {str(n): n for n in range(120_000)}},
        {"labels": ["a"] * 400_000},
        {"spec": ["b"] * 400_000},
    ],
)
def test_a_huge_description_is_refused_at_once(tmp_path, values):
    path = save(colour_graph(), tmp_path / "m.onnx", {"dvfl": changed(**values)})
    begin = time.process_time()
    with pytest.raises(ArtifactError, match=r"its dvfl metadata has \d+ bytes, and 1048576 are"):
        ModelFile(path)
    assert time.process_time() - begin < 1


def test_what_is_no_regular_file_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", "/dev/zero"):
        with pytest.raises(ArtifactError, match="not a regular file"):
            ModelFile(path)


@pytest.mark.parametrize(
    "spec",
    [{"num_frames": 10**9}, {"size": [10**6, 10**6]}, {"num_frames": 1024, "size": [4096, 4096]}],
)
def test_clips_that_no_memory_holds_are_refused(tmp_path, spec):
    values = {**json.loads(artifact().to_json())["spec"], "resize": 4096, **spec}
    path = save(colour_graph(), tmp_path / "m.onnx", {"dvfl": changed(spec=values)})
    with pytest.raises(ArtifactError, match="must be a whole number from 1 to") as refused:
        ModelFile(path)
    assert "\n" not in str(refused.value)
