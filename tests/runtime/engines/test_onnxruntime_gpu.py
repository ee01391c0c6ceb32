"""What onnxruntime is asked for on a GPU; that boundary is as far as a test without one can go."""

import logging
import sys
import types

import numpy as np
import onnxruntime
import pytest
from artifacts import clips, write_colour_model

from dvfl_runtime.artifact import ModelFile
from dvfl_runtime.engines import onnxruntime as ort_engine
from dvfl_runtime.engines import open_engine
from dvfl_runtime.engines.candidates import noise_clip
from dvfl_runtime.recognizer import BUNDLED_MODEL


@pytest.fixture
def model(tmp_path):
    return ModelFile(write_colour_model(tmp_path / "m.onnx"))


class Session:
    """What onnxruntime would make of a model on a GPU: it remembers what it was given."""

    def __init__(self, source, options, providers):
        self.source = source
        self.options = options
        self.providers = dict(p if isinstance(p, tuple) else (p, {}) for p in providers)
        self.batches = []
        Session.made = self

    def disable_fallback(self):
        self.falls_back = False

    def get_providers(self):
        return [*self.providers, "CPUExecutionProvider"]

    def get_inputs(self):
        shape = ["batch", 4, 8, 8, 3]
        return [types.SimpleNamespace(name="clip", type="tensor(uint8)", shape=shape)]

    def get_outputs(self):
        value = {"name": "logits", "type": "tensor(float)", "shape": ["batch", 3]}
        return [types.SimpleNamespace(**value)]

    def run(self, names, values):
        self.batches.append(len(values["clip"]))
        return [values["clip"].mean(axis=(1, 2, 3), dtype=np.float32)]


@pytest.fixture
def on_a_gpu(monkeypatch, tmp_path):
    """An onnxruntime-gpu on a machine with a GPU, up to the session."""
    listed = ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setenv("DVFL_CACHE_DIR", str(tmp_path / "a" / "b" / "cache"))
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: listed)
    monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
    monkeypatch.setattr(
        onnxruntime, "preload_dlls", lambda: sys.stdout.write("Failed to load x.so")
    )
    monkeypatch.setattr(ort_engine, "cuda_problem", lambda: None)
    monkeypatch.setattr(ort_engine, "gpu_model", lambda: "Orin with 8 multiprocessors")


def test_cuda_computes_in_full_float32(model, on_a_gpu, capfd, caplog):
    with caplog.at_level(logging.INFO, "dvfl_runtime"):
        engine = open_engine("onnxruntime", model, device="cuda")
    assert Session.made.providers == {"CUDAExecutionProvider": {"use_tf32": "0"}}
    assert Session.made.options.get_session_config_entry("session.disable_cpu_ep_fallback") == "1"
    assert (engine.device, engine.provider) == ("cuda", "CUDAExecutionProvider")
    assert "CUDA's libraries: Failed to load x" in caplog.text
    assert capfd.readouterr().out == ""  # where the results are
    assert Session.made.source == model.content
    assert not Session.made.falls_back  # onnxruntime would go on on the CPU
    engine.run(clips(20))
    assert Session.made.batches == [20]


@pytest.mark.parametrize("preload", ["missing", "raises"])
def test_libraries_that_cannot_be_preloaded_may_be_the_systems(
    model, on_a_gpu, monkeypatch, caplog, preload
):
    if preload == "missing":  # before onnxruntime 1.21
        monkeypatch.delattr(onnxruntime, "preload_dlls")
    else:
        monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: 1 / 0)
    with caplog.at_level(logging.INFO, "dvfl_runtime"):
        assert open_engine("onnxruntime", model, device="auto").device == "cuda"
    assert ("libraries: ZeroDivisionError" in caplog.text) == (preload == "raises")
    assert "libraries: loaded" not in caplog.text


def test_the_tensorrt_provider_knows_its_batches_and_has_a_folder(model, on_a_gpu, tmp_path):
    engine = open_engine("onnxruntime-tensorrt", model)
    kept = tmp_path / "a/b/cache/onnxruntime-tensorrt-Orin_with_8_multiprocessors"
    assert kept.stat().st_mode & 0o777 == 0o700  # made before onnxruntime, which makes one level
    assert Session.made.providers == {
        "TensorrtExecutionProvider": {
            "trt_profile_min_shapes": "clip:1x4x8x8x3",
            "trt_profile_opt_shapes": "clip:1x4x8x8x3",
            "trt_profile_max_shapes": "clip:8x4x8x8x3",
            "trt_engine_cache_enable": "1",
            "trt_engine_cache_path": str(kept),
            "trt_timing_cache_enable": "1",
            "trt_timing_cache_path": str(kept),
        },
        "CUDAExecutionProvider": {"use_tf32": "0"},
    }
    assert Session.made.source == str(model.path)  # it names what it keeps after the file
    assert engine.provider == "TensorrtExecutionProvider+CUDAExecutionProvider"
    given = np.concatenate([clips(1, (n, 0, 0)) for n in range(20)])
    np.testing.assert_allclose(engine.run(given)[:, 0], np.arange(20))
    assert Session.made.batches == [8, 8, 4]


def test_a_folder_of_others_keeps_no_engine_of_tensorrt(model, on_a_gpu, monkeypatch, caplog):
    monkeypatch.setenv("DVFL_CACHE_DIR", "/dev/null/cache")
    open_engine("onnxruntime-tensorrt", model)
    options = Session.made.providers["TensorrtExecutionProvider"]
    assert sorted(options) == [f"trt_profile_{name}_shapes" for name in ("max", "min", "opt")]
    assert "builds its engine at each start: cannot make" in caplog.text


def test_the_tensorrt_provider_gets_no_functions(monkeypatch, tmp_path):
    """onnxruntime itself writes the file in standard operators, once; the logits are the same."""
    monkeypatch.setenv("DVFL_CACHE_DIR", str(tmp_path / "cache"))
    model = ModelFile(BUNDLED_MODEL)
    path = ort_engine._expanded_file(onnxruntime, model)
    expanded = ModelFile(path)
    assert (expanded.fused_operators, expanded.artifact) == (frozenset(), model.artifact)
    opened = [open_engine("onnxruntime", one, device="cpu") for one in (model, expanded)]
    fused, standard = (engine.run(noise_clip(engine)) for engine in opened)
    np.testing.assert_allclose(standard, fused, rtol=0, atol=1e-5)
    monkeypatch.setattr(onnxruntime, "InferenceSession", None)  # it is not written again
    assert ort_engine._expanded_file(onnxruntime, model) == path
