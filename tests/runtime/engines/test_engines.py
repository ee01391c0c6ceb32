import logging
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnxruntime
import pytest
from artifacts import artifact, clips, colour_graph, save, write_colour_model
from onnx import TensorProto, helper

from dvfl_runtime import ArtifactError, DvflError, EngineUnavailable, FakeEngine
from dvfl_runtime.artifact import ModelFile
from dvfl_runtime.engines import cuda, open_engine, opening, table
from dvfl_runtime.engines import onnxruntime as ort_engine
from dvfl_runtime.engines.openvino import shared_core


@pytest.fixture
def model(tmp_path):
    return ModelFile(write_colour_model(tmp_path / "m.onnx"))


each_engine = pytest.mark.parametrize("name", ["onnxruntime", "openvino"])


@each_engine
def test_an_engine_gives_the_logits_of_each_clip(name, model):
    package = pytest.importorskip(name)
    engine = open_engine(name, model, device="cpu", num_threads=1)
    for batch in (1, 3, 1, 2):
        logits = engine.run(clips(batch))
        assert logits.dtype == np.float32
        assert logits == pytest.approx(np.tile([20.0, 0.0, 4.0], (batch, 1)), rel=1e-5)
    assert (engine.name, engine.version) == (name, package.__version__.partition("-")[0])
    assert engine.provider == {"onnxruntime": "CPUExecutionProvider", "openvino": "CPU"}[name]
    assert engine.device == "cpu"
    assert engine.num_classes == 3
    assert engine.clip_shape == (None, 4, 8, 8, 3)
    assert engine.fused_ops == ()
    engine.close()
    engine.close()
    with pytest.raises(DvflError, match="closed"):
        engine.run(clips(1))


@each_engine
@pytest.mark.parametrize("batch", [0, 3, 8, 11])
def test_logits_come_in_the_order_of_the_clips(name, model, batch):
    pytest.importorskip(name)
    engine = open_engine(name, model, device="cpu")  # openvino runs 11 as 8, 2 and 1
    colours = [(20 * n, 0, 255 - 20 * n) for n in range(batch)]
    given = np.concatenate([clips(0), *(clips(1, colour) for colour in colours)])
    wanted = np.array(colours, np.float32).reshape(batch, 3) * 20 / 255
    np.testing.assert_allclose(engine.run(given), wanted, rtol=1e-5, atol=1e-6)


@each_engine
def test_threads_share_an_engine(name, model):
    pytest.importorskip(name)
    engine = open_engine(name, model, device="cpu", num_threads=1)
    given = [(1 + n % 2, (n, 0, 255 - n)) for n in range(64)]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda each: engine.run(clips(*each)), given))
    for (batch, colour), logits in zip(given, found, strict=True):
        wanted = np.tile(np.array(colour) * 20 / 255, (batch, 1))
        np.testing.assert_allclose(logits, wanted, rtol=1e-5, atol=1e-6)
    engine.close()


@each_engine
def test_results_outlive_later_calls(name, model):
    pytest.importorskip(name)
    engine = open_engine(name, model, device="cpu")
    first = engine.run(clips(1))
    engine.run(clips(1, (0, 0, 0)))
    assert first == pytest.approx(np.array([[20.0, 0.0, 4.0]]), rel=1e-5)


def test_auto_takes_the_only_one_installed_and_logs_it(model, caplog, monkeypatch):
    monkeypatch.setattr(table, "is_installed", lambda package: package == "onnxruntime")
    with caplog.at_level(logging.INFO, "dvfl_runtime"):
        engine = open_engine("auto", model)
    assert engine.name == "onnxruntime"
    assert f"using onnxruntime {onnxruntime.__version__}, {engine.provider}" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.INFO, "dvfl_runtime"):
        open_engine("onnxruntime", model, device="cpu")
    assert caplog.text == ""


def test_auto_tries_what_can_use_an_nvidia_gpu_first(model, monkeypatch, caplog):
    monkeypatch.setattr(table, "is_installed", lambda package: package != "tensorrt")
    monkeypatch.setattr(opening, "cuda_problem", lambda: None)
    assert open_engine("auto", model).device == "cpu"
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert "not using onnxruntime: device 'cuda': this onnxruntime is built" in caplog.text


def test_auto_goes_on_to_an_engine_that_can_load_the_file(tmp_path, caplog):
    pytest.importorskip("openvino")
    node = helper.make_node("Twice", ["logits_"], ["logits"], domain="dvfl")
    body = [helper.make_node("Add", ["x", "x"], ["y"])]
    opset = [helper.make_opsetid("", 18)]
    model = colour_graph()
    model.graph.node[-1].output[0] = "logits_"
    model.graph.node.append(node)
    model.functions.append(helper.make_function("dvfl", "Twice", ["x"], ["y"], body, opset))
    model.opset_import.append(helper.make_opsetid("dvfl", 1))
    file = ModelFile(save(model, tmp_path / "m.onnx", {"dvfl": artifact().to_json()}))
    with pytest.raises(ArtifactError, match=r"openvino .* cannot load model .*m\.onnx"):
        open_engine("openvino", file)
    with caplog.at_level(logging.INFO, "dvfl_runtime"):
        engine = open_engine("auto", file)
    assert engine.name == "onnxruntime"
    assert "not using openvino" in caplog.text
    assert engine.run(clips(1)) == pytest.approx(np.array([[40.0, 0.0, 8.0]]), rel=1e-5)


@pytest.mark.parametrize(
    ("engine", "device", "message"),
    [
        (
            "tensorflow",
            "cpu",
            "known are: auto, tensorrt, openvino, onnxruntime, onnxruntime-tensorrt",
        ),
        ("fake", "cpu", "unknown engine 'fake'"),
        ("auto", "tpu", "unknown device 'tpu'; known are: auto, cpu, cuda, gpu"),
    ],
)
def test_unknown_names_list_the_known_ones(model, engine, device, message):
    with pytest.raises(EngineUnavailable, match=message):
        open_engine(engine, model, device=device)


@pytest.mark.parametrize("number", [0, 1025, 10**14])
def test_threads_must_be_a_number_that_there_can_be(model, number):
    with pytest.raises(ValueError, match=f"num_threads must be .* from 1 to 1024, got {number}"):
        open_engine("auto", model, num_threads=number)


def test_a_missing_engine_names_its_package(model, monkeypatch):
    for name in ("onnxruntime", "openvino"):
        monkeypatch.setitem(sys.modules, name, None)
        with pytest.raises(EngineUnavailable, match=f"not installed; run: pip install {name}"):
            open_engine(name, model)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(
        EngineUnavailable, match=r"no engine is .*pip install onnxruntime av opencv"
    ):
        open_engine("auto", model)


def test_cuda_needs_a_build_with_cuda_and_a_driver_that_finds_a_gpu(model, monkeypatch):
    available = ["CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: available)
    with pytest.raises(EngineUnavailable, match=r"without CUDA; .*'onnxruntime-gpu\[cuda,cudnn\]'"):
        open_engine("onnxruntime", model, device="cuda")
    available.insert(0, "CUDAExecutionProvider")  # what onnxruntime-gpu says without any GPU
    monkeypatch.setattr(ort_engine, "cuda_problem", lambda: "the NVIDIA driver finds no GPU")
    with pytest.raises(EngineUnavailable, match="finds no GPU; pass device='cpu'"):
        open_engine("onnxruntime", model, device="cuda")
    assert open_engine("onnxruntime", model, device="auto").device == "cpu"


def test_a_device_that_an_engine_cannot_use_is_refused(model):
    with pytest.raises(EngineUnavailable, match=r"'gpu' .*engine='openvino'"):
        open_engine("onnxruntime", model, device="gpu")
    openvino = pytest.importorskip("openvino")
    with pytest.raises(EngineUnavailable, match=r"'cuda'.*engine='onnxruntime'"):
        open_engine("openvino", model, device="cuda")
    if "GPU" not in shared_core(openvino).available_devices:
        with pytest.raises(EngineUnavailable, match="openvino lists CPU alone"):
            open_engine("openvino", model, device="gpu")


def test_a_provider_that_falls_back_is_refused(model, monkeypatch):
    monkeypatch.setattr(ort_engine, "_device", lambda ort, device: "cuda")
    monkeypatch.setattr(ort_engine, "PROVIDERS", {"cuda": "NoSuchProvider"})
    with pytest.raises(EngineUnavailable, match="on cuda"):
        open_engine("onnxruntime", model, device="cuda")


def test_the_tensorrt_provider_is_never_replaced_silently(model, monkeypatch):
    with pytest.raises(EngineUnavailable, match=r"without TensorRT; .*'onnxruntime-gpu\["):
        open_engine("onnxruntime-tensorrt", model)
    with pytest.raises(EngineUnavailable, match="does not run on device 'cpu'; pass device='cuda'"):
        open_engine("onnxruntime-tensorrt", model, device="cpu")
    listed = ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: listed)
    with pytest.raises(EngineUnavailable, match=r"device 'cuda': no NVIDIA|finds no GPU"):
        open_engine("onnxruntime-tensorrt", model)
    monkeypatch.setattr(ort_engine, "cuda_problem", lambda: None)
    monkeypatch.setattr(ort_engine, "gpu_model", lambda: "Orin")
    # this onnxruntime does not have the provider and would take the CPU's; strict mode refuses it
    with pytest.raises(EngineUnavailable, match="on cuda"):
        open_engine("onnxruntime-tensorrt", model)


@pytest.mark.parametrize(("chosen", "wanted"), [(None, "1"), ("0", "0")])
def test_onnxruntime_sends_nothing_away_unless_the_user_says_so(model, monkeypatch, chosen, wanted):
    monkeypatch.setenv("ORT_DISABLE_TELEMETRY", chosen or "")
    if chosen is None:
        monkeypatch.delenv("ORT_DISABLE_TELEMETRY")
    open_engine("onnxruntime", model)
    assert os.environ["ORT_DISABLE_TELEMETRY"] == wanted


OPEN = """
import sys
from dvfl_runtime import Recognizer
Recognizer(sys.argv[1], engine="openvino", num_threads=1).close()
print(sys.modules["openvino_telemetry"])
"""


def test_openvino_sends_nothing_away(model, tmp_path):
    pytest.importorskip("openvino_telemetry")
    environment = {**os.environ, "HOME": str(tmp_path)}
    for name in ("CI", "TF_BUILD", "JENKINS_URL"):  # where it would be quiet anyway
        environment.pop(name, None)
    words = [sys.executable, "-c", OPEN, str(tmp_path / "m.onnx")]
    said = subprocess.run(words, env=environment, capture_output=True, text=True, check=True).stdout
    assert said == "None\n"
    assert not (tmp_path / "intel").exists()  # where it keeps the number of its user


def test_the_driver_is_asked(monkeypatch):
    class Driver:
        def __init__(self, code):
            self.cuInit = lambda flags: code

    monkeypatch.setattr(cuda.ctypes, "CDLL", lambda name: Driver(100))
    assert "cuInit gave 100" in cuda.cuda_problem()
    monkeypatch.setattr(cuda.ctypes, "CDLL", lambda name: Driver(0))
    assert cuda.cuda_problem() is None

    monkeypatch.setattr(cuda.ctypes, "CDLL", lambda name: object())  # another library
    assert "no NVIDIA driver" in cuda.cuda_problem()

    def absent(name):
        raise OSError(name)

    monkeypatch.setattr(cuda.ctypes, "CDLL", absent)
    assert "no NVIDIA driver" in cuda.cuda_problem()


@each_engine
def test_a_damaged_graph_is_an_artifact_error(name, model):
    pytest.importorskip(name)
    model.path.write_bytes(model.content.replace(b"ReduceMean", b"ReduceNean"))
    damaged = ModelFile(model.path)
    with pytest.raises(ArtifactError, match=r"cannot load model .*m\.onnx"):
        open_engine(name, damaged)


@each_engine
def test_an_engine_runs_the_content_that_was_checked(name, model):
    """Also when the file has been replaced by another one or removed since."""
    pytest.importorskip(name)
    model.path.unlink()
    engine = open_engine(name, model, device="cpu")
    assert engine.run(clips(1)) == pytest.approx(np.array([[20.0, 0.0, 4.0]]), rel=1e-5)


@each_engine
def test_an_engine_does_not_hold_the_content_of_the_file(name, model):
    pytest.importorskip(name)
    engine = open_engine(name, model, device="cpu")
    content = model.content
    del model.content, model._onnx
    holders = sys.getrefcount(content)
    assert holders == 2  # this function, and getrefcount itself
    engine.close()


def test_a_graph_that_fails_when_it_runs_is_an_artifact_error(tmp_path):
    model = colour_graph()
    model.graph.initializer.append(
        helper.make_tensor("shape", TensorProto.INT64, [2], [7, 7])  # no clip has 49 logits
    )
    model.graph.node[-1].output[0] = "flat"
    model.graph.node.append(helper.make_node("Reshape", ["flat", "shape"], ["logits"]))
    del model.graph.output[0].type.tensor_type.shape.dim[:]
    model.graph.output[0].CopyFrom(
        helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["B", "N"])
    )
    path = save(model, tmp_path / "m.onnx", {"dvfl": artifact().to_json()})
    engine = open_engine("onnxruntime", ModelFile(path))
    assert engine.num_classes in (None, 7)
    with pytest.raises(ArtifactError, match="fails on clips of shape"):
        engine.run(clips(1))


@each_engine
def test_a_clip_of_another_shape_is_an_artifact_error(name, model):
    pytest.importorskip(name)
    engine = open_engine(name, model, device="cpu")
    for batch in (1, 2):
        with pytest.raises(ArtifactError, match="fails on clips of shape"):
            engine.run(clips(batch)[:, :3])


def test_the_fake_engine_gives_what_it_was_told():
    engine = FakeEngine([0.25, 0.75])
    assert engine.num_classes == 2
    assert np.exp(engine.run(clips(3))) == pytest.approx(np.tile([0.25, 0.75], (3, 1)))
    engine.close()
    with pytest.raises(DvflError, match="closed"):
        engine.run(clips(1))
    called = FakeEngine(lambda c: c.mean(axis=(1, 2, 3)) / 255)
    assert np.exp(called.run(clips(2)))[:, 2] == pytest.approx(0.2)
