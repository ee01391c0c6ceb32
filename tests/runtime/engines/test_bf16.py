"""A file in float32, computed in bfloat16: by OpenVINO alone, on CPUs that can, when asked to."""

import logging
import re

import numpy as np
import pytest
from artifacts import write_colour_model
from bf16 import needs_bf16, on_a_cpu_without_bf16, where_openvino_takes_float32

from dvfl_runtime import ArgumentError, EngineUnavailable, FakeEngine, Recognizer
from dvfl_runtime.artifact import ModelFile
from dvfl_runtime.engines import installed_engines, open_engine
from dvfl_runtime.recognizer import BUNDLED_MODEL


@pytest.fixture
def model(tmp_path):
    return ModelFile(write_colour_model(tmp_path / "m.onnx"))


@pytest.fixture(scope="module")
def some_clips():
    return np.random.default_rng(0).integers(0, 256, (1, 8, 64, 64, 3), np.uint8)


@needs_bf16
def test_products_are_computed_in_bf16_and_logits_stay_close(some_clips):
    bundled = ModelFile(BUNDLED_MODEL)
    exact = open_engine("openvino", bundled, device="cpu")
    engine = open_engine("openvino", bundled, precision="bf16")
    assert (exact.precision, engine.precision) == ("file", "bf16")
    assert (engine.device, engine.provider) == ("cpu", "CPU")
    wanted, found = exact.run(some_clips), engine.run(some_clips)
    assert found.dtype == np.float32
    difference = np.abs(found - wanted).max() / np.abs(wanted).max()
    assert 1e-4 < difference < 0.03
    kinds = executed(engine)
    assert kinds["bf16"] > 0.9 * (kinds["bf16"] + kinds["f32"])
    assert executed(exact)["bf16"] == 0


def executed(engine):
    """How many products and convolutions run in each precision, as OpenVINO tells."""
    nodes = engine._compiled[1]._compiled.get_runtime_model().get_ops()
    infos = [node.get_rt_info() for node in nodes]
    products = [i for i in infos if i["layerType"].astype(str) in ("FullyConnected", "Convolution")]
    kinds = [info["runtimePrecision"].astype(str) for info in products]
    return {kind: kinds.count(kind) for kind in ("bf16", "f32")}


@needs_bf16
def test_auto_takes_the_engine_that_can_and_says_so(caplog):
    with caplog.at_level(logging.INFO, "dvfl_runtime"), Recognizer(precision="bf16") as r:
        assert (r.info.engine, r.info.device, r.info.precision) == ("openvino", "cpu", "bf16")
        assert r.artifact.precision == "fp32"
    assert "using openvino" in caplog.text


@needs_bf16
def test_a_gpu_is_not_taken_for_bf16(model, monkeypatch):
    monkeypatch.setattr("dvfl_runtime.engines.opening.cuda_problem", lambda: None)
    assert open_engine("auto", model, precision="bf16").device == "cpu"


@pytest.mark.parametrize("name", ["auto", "openvino", "onnxruntime"])
def test_no_engine_takes_bf16_by_itself(name, model):
    if name not in ("auto", *installed_engines()):
        pytest.skip(f"{name} is not installed")
    with Recognizer(model.path, engine=name) as r:
        assert r.info.precision == "fp32"


def test_on_another_cpu_it_is_one_error(model, monkeypatch, caplog):
    on_a_cpu_without_bf16(monkeypatch)
    for name in ("auto", "openvino"):
        with pytest.raises(EngineUnavailable, match="AVX512_BF16 or AMX") as refused:
            open_engine(name, model, precision="bf16")
        assert str(refused.value).endswith("pass precision='file'")
    assert not caplog.records
    assert open_engine("openvino", model).precision == "file"


def test_float32_in_its_place_is_an_error(model, monkeypatch):
    where_openvino_takes_float32(monkeypatch)
    with pytest.raises(EngineUnavailable, match=r"takes f32 in place of bf16; pass precision="):
        open_engine("openvino", model, precision="bf16")


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"precision": "fp16"}, ArgumentError, "precision must be one of 'file', 'bf16', got 'f"),
        ({"precision": None}, ArgumentError, "precision must be one of 'file', 'bf16', got None"),
        ({"engine": "caffe"}, EngineUnavailable, "unknown engine 'caffe'"),
        ({"engine": "onnxruntime"}, EngineUnavailable, "onnxruntime does not compute in bf16; "
         "pass engine='openvino', or precision='file'"),
        ({"engine": "tensorrt"}, EngineUnavailable, "tensorrt does not compute in bf16; "),
        ({"device": "cuda"}, EngineUnavailable, "bf16 is for CPUs, not for device 'cuda'; pass "
         "device='cpu', or precision='file'"),
        ({"engine": "openvino", "device": "gpu"}, EngineUnavailable, "bf16 is for CPUs, not for "),
        ({"engine": FakeEngine([1, 0, 0])}, ArgumentError, "leave out precision="),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused(options, error, message, model):
    with pytest.raises(error, match=re.escape(message)):
        Recognizer(model.path, **{"precision": "bf16", **options})


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_only_files_in_float32_are_computed_in_bf16(precision, tmp_path):
    path = write_colour_model(tmp_path / "m.onnx", precision=precision)
    wanted = rf"is for files in fp32, and .*m\.onnx is in {precision}; pass precision='file', or ex"
    with pytest.raises(ArgumentError, match=wanted):
        Recognizer(path, precision="bf16")


def test_without_openvino_the_error_names_it(model, monkeypatch):
    monkeypatch.setattr(
        "dvfl_runtime.engines.table.is_installed", lambda package: package != "openvino"
    )
    wanted = "no engine that computes in bf16 is installed .*: openvino.*pip install openvino"
    with pytest.raises(EngineUnavailable, match=wanted):
        open_engine("auto", model, precision="bf16")
