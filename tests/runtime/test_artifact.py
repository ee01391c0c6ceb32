import contextlib
import json

import onnx
import pytest
from artifacts import LABELS, SPEC, artifact, colour_graph, save, write_colour_model
from hypothesis import given, settings
from hypothesis import strategies as st

from dvfl_runtime import Artifact, ArtifactError, ClipSpec
from dvfl_runtime.artifact import read_artifact


def test_json_round_trip():
    full = artifact(
        training={"top1": 0.9, "data": ["a", "b"]}, parity={"max_abs": 1e-6}, precision="int8"
    )
    assert Artifact.from_json(full.to_json()) == full
    assert json.loads(full.to_json())["spec"]["size"] == [8, 8]


def test_a_file_is_read_without_an_engine(tmp_path):
    path = write_colour_model(tmp_path / "m.onnx")
    onnx.checker.check_model(onnx.load(path), full_check=True)
    got = read_artifact(path)
    assert got == artifact()
    assert got.labels == LABELS
    assert got.spec == SPEC


def test_metadata_in_front_of_the_graph_is_found_too(tmp_path):
    path = write_colour_model(tmp_path / "m.onnx")
    model = onnx.load(path)
    head = onnx.ModelProto(ir_version=9, metadata_props=model.metadata_props)
    del model.metadata_props[:]
    path.write_bytes(head.SerializeToString() + model.SerializeToString())
    assert read_artifact(path) == artifact()


def test_every_cut_of_a_file_is_noticed(tmp_path):
    whole = write_colour_model(tmp_path / "m.onnx").read_bytes()
    part = tmp_path / "part.onnx"
    for cut in range(0, len(whole), 3):
        part.write_bytes(whole[:cut])
        with pytest.raises(ArtifactError, match=r"part\.onnx"):
            read_artifact(part)
    part.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ArtifactError, match="truncated"):
        read_artifact(part)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_a_damaged_file_is_read_or_refused(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("damage")
    raw = bytearray(write_colour_model(folder / "m.onnx").read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    (folder / "m.onnx").write_bytes(raw)
    with contextlib.suppress(ArtifactError):  # and no other error
        assert isinstance(read_artifact(folder / "m.onnx"), Artifact)


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
        read_artifact(path)


def test_missing_files_and_folders_are_refused(tmp_path):
    with pytest.raises(ArtifactError, match="No such file"):
        read_artifact(tmp_path / "m.onnx")
    with pytest.raises(ArtifactError, match="directory"):
        read_artifact(tmp_path)


def test_a_model_from_elsewhere_is_refused_with_the_command_to_run(tmp_path):
    path = save(colour_graph(), tmp_path / "m.onnx", {})
    with pytest.raises(ArtifactError, match=r"run: dvfl-export CHECKPOINT -o FILE\.onnx"):
        read_artifact(path)


def changed(**values):
    return json.dumps({**json.loads(artifact().to_json()), **values})


def without(name):
    return json.dumps({k: v for k, v in json.loads(artifact().to_json()).items() if k != name})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (changed(format_version=2), "format version is 2 .* upgrade"),
        (changed(format_version="1"), "format_version must be 1"),
        (changed(format_version=0), "format_version must be 1"),
        (without("format_version"), "format_version"),
        (without("labels"), "lacks 'labels'"),
        (without("name"), "name"),
        (changed(labels=[]), "labels"),
        (changed(labels=["a", "a"]), "distinct"),
        (changed(labels=["a", 1]), "labels"),
        (changed(labels=3), "wrong"),
        (changed(precision="fp8"), "precision must be one of"),
        (changed(spec=None), "wrong"),
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
        read_artifact(path)


def test_metadata_that_is_no_text_is_refused(tmp_path):
    path = write_colour_model(tmp_path / "m.onnx")
    path.write_bytes(path.read_bytes().replace(b'"colours"', b'"\xff\xfeours"'))
    with pytest.raises(ArtifactError, match="damaged"):
        read_artifact(path)


def test_names_of_a_later_minor_addition_are_left_out():
    assert Artifact.from_json(changed(later="addition")) == artifact()


def test_values_out_of_range_are_refused():
    with pytest.raises(ValueError, match="labels must be distinct"):
        Artifact(name="n", variant="v", labels=("a", "a"), spec=ClipSpec())
