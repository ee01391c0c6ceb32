"""Another head on model files of every form, in every engine."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from artifacts import artifact, colour_graph, save
from onnx import TensorProto, helper, inliner, numpy_helper

from dvfl_export.precision.compress import compress_weights
from dvfl_export.precision.half import to_float16
from dvfl_export.precision.quantise import layers_of, quantise
from dvfl_export.precision.ranges import activation_ranges
from dvfl_runtime import ClipSpec
from dvfl_runtime.artifact import ModelFile
from dvfl_runtime.engines import installed_engines, open_engine
from dvfl_runtime.errors import ArtifactError
from dvfl_runtime.recognizer import BUNDLED_MODEL
from dvfl_runtime.teach.familiarity import Familiarity, units
from dvfl_runtime.teach.graph import (
    BIAS,
    WEIGHT,
    Head,
    with_head,
    without_familiarity,
    without_head,
)

CLIPS = np.random.default_rng(0).integers(0, 255, (3, 8, 64, 64, 3), np.uint8)
LABELS = ("run", "jump", "fall")


def int8(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return all layers in int8, that of the head too."""
    quantised = quantise(model, activation_ranges(model, list(CLIPS)))
    assert layers_of(model)[-1] == "head/MatMul"
    return quantised


def compressed(model: onnx.ModelProto) -> onnx.ModelProto:
    assert compress_weights(model) > 10
    return model


FORMS: dict[str, Callable[[onnx.ModelProto], onnx.ModelProto]] = {
    "fused": lambda model: model,
    "standard": inliner.inline_local_functions,
    "compressed": compressed,
    "fp16": to_float16,
    "int8": int8,
}


@pytest.fixture(scope="module")
def file_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], ModelFile]:
    """Return the bundled model in a form."""
    folder, bundled = tmp_path_factory.mktemp("forms"), ModelFile(BUNDLED_MODEL)
    precisions = {"fp16": "fp16", "int8": "int8"}

    def make(form: str) -> ModelFile:
        path = folder / f"{form}.onnx"
        if not path.exists():
            model = FORMS[form](onnx.load_from_string(bundled.content))
            about = dataclasses.replace(bundled.artifact, precision=precisions.get(form, "fp32"))
            save(model, path, {"dvfl": about.to_json()})
        return ModelFile(path)

    return make


def new_head(seed: int = 0, width: int = 256) -> Head:
    rng = np.random.default_rng(seed)
    shapes = ((width, len(LABELS)), (len(LABELS),))
    return Head(*(rng.normal(size=shape).astype(np.float32) for shape in shapes))


def engines_of(form: str) -> list[str]:
    wanted = {"onnxruntime", "openvino"} if form in ("fp16", "int8") else {"onnxruntime"}
    return sorted(wanted & set(installed_engines("cpu")))


def written(content: bytes, path: Path) -> ModelFile:
    path.write_bytes(content)
    return ModelFile(path)


@pytest.mark.parametrize("form", FORMS)
def test_the_new_head_reads_the_features_in_every_form_and_engine(file_of, form, tmp_path):
    file, clips = file_of(form), np.concatenate([CLIPS[:2], np.zeros_like(CLIPS[:1])])
    bare = written(without_head(file), tmp_path / "bare.onnx")
    features_of = {
        name: open_engine(name, bare, device="cpu").run(clips) for name in engines_of(form)
    }
    directions = units(features_of["onnxruntime"])
    unlike = float(directions[0] @ directions[2])
    assert unlike < 0.9
    familiarity = Familiarity(directions[:1].T, (1 + unlike) / 2)
    head = dataclasses.replace(new_head(), familiarity=familiarity)
    described = dataclasses.replace(file.artifact, labels=LABELS)
    taught = written(with_head(file, head, described), tmp_path / "taught.onnx")
    assert taught.artifact.labels == LABELS
    assert taught.artifact.features == "/ReduceMean:0"
    assert taught.artifact.precision == file.artifact.precision
    assert taught.fused_operators == file.fused_operators
    assert len(taught.content) < len(file.content) + 10_000
    for name, features in features_of.items():
        logits = open_engine(name, taught, device="cpu").run(clips)
        assert features.shape == (3, 256)
        np.testing.assert_allclose(logits, head.logits(features), atol=2e-3)
        assert np.abs(logits[:2]).max() > 0.1
        np.testing.assert_array_equal(logits[2], 0)  # it is unlike what was learnt


def test_a_taught_file_can_be_taught_again_and_holds_one_head(file_of, tmp_path):
    file, head = file_of("fused"), new_head()
    described = dataclasses.replace(file.artifact, labels=LABELS)
    once = written(with_head(file, new_head(1), described), tmp_path / "a.onnx")
    twice = written(with_head(once, head, once.artifact), tmp_path / "b.onnx")
    assert abs(len(twice.content) - len(once.content)) < 100
    graph = onnx.load_from_string(twice.content).graph
    heads = [w for w in graph.initializer if w.name in (WEIGHT, BIAS)]
    assert len(heads) == 2
    np.testing.assert_array_equal(numpy_helper.to_array(heads[0]), head.weight)


def test_a_head_that_knows_its_clips_gives_way_to_another_one(file_of, tmp_path):
    file = file_of("fused")
    described = dataclasses.replace(file.artifact, labels=LABELS)
    some = Familiarity(units(np.random.default_rng(0).normal(size=(5, 256))).T, 0.5)
    knowing = dataclasses.replace(new_head(1), familiarity=some)
    once = written(with_head(file, knowing, described), tmp_path / "a.onnx")
    again = written(with_head(once, new_head(), once.artifact), tmp_path / "b.onnx")
    straight = written(with_head(file, new_head(), described), tmp_path / "c.onnx")
    assert again.graph_sha256 == straight.graph_sha256
    linear = written(without_familiarity(once.content), tmp_path / "d.onnx")
    logits = open_engine("onnxruntime", linear, device="cpu").run(CLIPS[:1])
    bare = written(without_head(once), tmp_path / "bare.onnx")
    features = open_engine("onnxruntime", bare, device="cpu").run(CLIPS[:1])
    np.testing.assert_allclose(logits, new_head(1).logits(features), atol=2e-3)
    assert without_familiarity(linear.content) is linear.content


def product_graph(**options: int) -> onnx.ModelProto:
    """logits = Gemm of the mean colour (B, 3) with a matrix of 4 rows or columns."""
    model = colour_graph(ClipSpec(num_frames=4, size=(8, 8), resize=8))
    graph = model.graph
    weight = np.arange(12, dtype=np.float32).reshape((4, 3) if options else (3, 4))
    graph.initializer.append(numpy_helper.from_array(weight, "w"))
    graph.node[-1].CopyFrom(
        helper.make_node("Gemm" if options else "MatMul", ["mean", "w"], ["logits"], **options)
    )
    graph.output[0].CopyFrom(helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["B", 4]))
    return model


@pytest.mark.parametrize("options", [{}, {"transB": 1}])
def test_the_head_may_be_any_linear_layer(options, tmp_path):
    about = artifact(labels=tuple("abcd")).to_json()
    file = ModelFile(save(product_graph(**options), tmp_path / "m.onnx", {"dvfl": about}))
    bare = written(without_head(file), tmp_path / "bare.onnx")
    assert bare.artifact.labels == ("feature 0", "feature 1", "feature 2")
    red = np.zeros((1, 4, 8, 8, 3), np.uint8)
    red[..., 0] = 200
    np.testing.assert_allclose(open_engine("onnxruntime", bare).run(red), [[200, 0, 0]], atol=1e-3)


def test_what_is_no_linear_layer_or_names_no_tensor_is_one_error(tmp_path):
    file = ModelFile(save(colour_graph(), tmp_path / "m.onnx", {"dvfl": artifact().to_json()}))
    with pytest.raises(ArtifactError, match=r"is no linear layer \(ReduceMean comes"):
        without_head(file)
    about = artifact(labels=tuple("abcd"), features="nothing").to_json()
    file = ModelFile(save(product_graph(), tmp_path / "n.onnx", {"dvfl": about}))
    with pytest.raises(ArtifactError, match="has no tensor 'nothing'"):
        without_head(file)


def test_the_tensor_that_the_metadata_names_is_taken(tmp_path):
    about = artifact(labels=tuple("abcd"), features="mean").to_json()
    file = ModelFile(save(product_graph(), tmp_path / "m.onnx", {"dvfl": about}))
    taught = written(
        with_head(file, new_head(width=3), artifact(labels=LABELS)), tmp_path / "t.onnx"
    )
    assert taught.artifact.features == "mean"
