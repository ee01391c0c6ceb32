"""The kernels of dvfl-kernels: used where they are installed, told of, and never in the way."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime
import pytest
from fake_gpu import fake_gpu, needs_fake_gpu
from kernels_library import LIBRARY, Unavailable, build

from dvfl_runtime import Recognizer
from dvfl_runtime.artifact import ModelFile
from dvfl_runtime.engines import open_engine
from dvfl_runtime.engines.candidates import noise_clip
from dvfl_runtime.engines.kernels import library_mark
from dvfl_runtime.engines.onnxruntime import _session_of_kernels
from dvfl_runtime.engines.plugins import Plugins
from dvfl_runtime.recognizer import BUNDLED_MODEL

OPERATORS = tuple(sorted(ModelFile(BUNDLED_MODEL).fused_operators))


def install(
    monkeypatch: pytest.MonkeyPatch, library: Path | None, engine: str = "onnxruntime"
) -> None:
    """Pretend that a dvfl-kernels with this library is installed, or none."""

    def library_path(wanted: str) -> Path | None:
        if wanted != engine:
            raise FileNotFoundError(wanted)
        return library

    package = ModuleType("dvfl_kernels")
    package.library_path = library_path  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "dvfl_kernels", package if library else None)


@pytest.fixture(scope="session")
def library(pytestconfig: pytest.Config) -> Path:
    try:
        return build(pytestconfig.cache.mkdir("kernels")) / LIBRARY
    except Unavailable as err:
        pytest.skip(str(err))


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> Iterator[np.ndarray]:
    """Logits of the bundled model without kernels."""
    install(monkeypatch, None)
    engine = open_engine("onnxruntime", ModelFile(BUNDLED_MODEL), device="cpu")
    assert engine.fused_ops == ()
    yield engine.run(noise_clip(engine))
    engine.close()


def test_the_operators_that_are_reported_run_by_kernels(
    monkeypatch: pytest.MonkeyPatch, library: Path, plain: np.ndarray, tmp_path: Path
) -> None:
    install(monkeypatch, library)
    plain_options = onnxruntime.SessionOptions

    def profiled() -> onnxruntime.SessionOptions:
        options = plain_options()
        options.enable_profiling, options.profile_file_prefix = True, str(tmp_path / "run")
        return options

    monkeypatch.setattr(onnxruntime, "SessionOptions", profiled)
    engine = open_engine("onnxruntime", ModelFile(BUNDLED_MODEL), device="cpu")
    assert engine.fused_ops == OPERATORS
    np.testing.assert_allclose(engine.run(noise_clip(engine)), plain, rtol=0, atol=1e-4)
    assert engine.run(noise_clip(engine)[:0]).shape == (0, plain.shape[1])
    events = json.loads(Path(engine._session.end_profiling()).read_text())  # type: ignore[attr-defined]
    ran = {event["args"]["op_name"] for event in events if "op_name" in event.get("args", {})}
    assert set(OPERATORS) <= ran
    assert not ran & {"Conv", "Gelu"}


def test_the_recognizer_tells_of_them(monkeypatch: pytest.MonkeyPatch, library: Path) -> None:
    install(monkeypatch, library)
    with Recognizer(engine="onnxruntime", device="cpu") as recognizer:
        assert recognizer.info.fused_ops == OPERATORS


@pytest.mark.parametrize("newer", [("BiasGelu",), ("AddNorm", "SpatialContext"), OPERATORS])
def test_nodes_that_an_older_library_does_not_know_run_by_their_functions(
    monkeypatch: pytest.MonkeyPatch,
    library: Path,
    plain: np.ndarray,
    newer: tuple[str, ...],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    content, names = BUNDLED_MODEL.read_bytes(), {name: f"{name[:-1]}9" for name in newer}
    for name, unknown in names.items():
        content = content.replace(name.encode(), unknown.encode())
    path = tmp_path / "newer.onnx"
    path.write_bytes(content)
    install(monkeypatch, library)
    engine = open_engine("onnxruntime", ModelFile(path), device="cpu")
    assert engine.fused_ops == tuple(name for name in OPERATORS if name not in newer)
    np.testing.assert_allclose(engine.run(noise_clip(engine)), plain, rtol=0, atol=1e-4)
    engine.close()
    (warning,) = [record for record in caplog.records if record.levelname == "WARNING"]
    said = warning.getMessage()
    assert said.startswith("onnxruntime runs ")
    assert said.endswith("install the newest version of that package")
    assert any(unknown in said for unknown in names.values())


@pytest.mark.parametrize("content", [b"no library", None])
def test_a_library_that_does_not_load_is_one_warning(
    monkeypatch: pytest.MonkeyPatch,
    plain: np.ndarray,
    content: bytes | None,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    path = tmp_path / "libdvfl.so"
    if content is not None:
        path.write_bytes(content)
    install(monkeypatch, path)
    engine = open_engine("onnxruntime", ModelFile(BUNDLED_MODEL), device="cpu")
    assert engine.fused_ops == ()
    np.testing.assert_array_equal(engine.run(noise_clip(engine)), plain)
    (warning,) = [record for record in caplog.records if record.levelname == "WARNING"]
    assert "onnxruntime runs without the kernels of dvfl-kernels" in warning.getMessage()


def test_a_library_that_comes_or_changes_has_another_mark(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    install(monkeypatch, None)
    assert library_mark("onnxruntime") == []
    path = tmp_path / "libdvfl.so"
    install(monkeypatch, path)
    assert library_mark("onnxruntime") == []  # named, but not there
    path.write_bytes(b"one")
    first = library_mark("onnxruntime")
    path.write_bytes(b"another")
    assert len({repr(first), repr(library_mark("onnxruntime")), "[]"}) == 3


class Session:
    """A session of onnxruntime on CUDA, as far as it is asked for."""

    def __init__(self, content: bytes, options: SimpleNamespace, providers: list[Any]) -> None:
        self.content, self.options, self.providers = content, options, providers

    def get_providers(self) -> list[str]:
        return [self.providers[0][0], "CPUExecutionProvider"]


class Options(SimpleNamespace):
    library = ""

    def add_session_config_entry(self, name: str, value: str) -> None:
        pass

    def register_custom_ops_library(self, library: str) -> None:
        self.library = library


def test_on_cuda_the_library_of_that_provider_runs_float_nodes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    ort: Any = SimpleNamespace(SessionOptions=Options, InferenceSession=Session)
    path = tmp_path / "libdvfl_onnxruntime_cuda.so"
    install(monkeypatch, path, "onnxruntime-cuda")
    model = ModelFile(BUNDLED_MODEL)
    cuda = [("CUDAExecutionProvider", {"use_tf32": "0"})]
    found = _session_of_kernels(ort, model, "cuda", None, cuda)
    assert found is not None
    opened, fused = found
    assert fused == OPERATORS
    assert opened.options.library == str(path)
    assert opened.content == model.content_for_kernels(OPERATORS)
    assert len(opened.content) < len(model.content)
    # TensorRT's provider takes no operators, integers have no kernels there, the CPU no library
    tensorrt = [("TensorrtExecutionProvider", {}), *cuda]
    assert _session_of_kernels(ort, model, "cuda", None, tensorrt) is None
    assert _session_of_kernels(ort, model, "cpu", None, ["CPUExecutionProvider"]) is None
    monkeypatch.setattr(ModelFile, "fused_operators", frozenset({"QBiasGelu"}))
    assert _session_of_kernels(ort, ModelFile(BUNDLED_MODEL), "cuda", None, cuda) is None


@pytest.mark.parametrize(
    "lacking", [(), ("TemporalContext",), ("SpatialContext", "TemporalContext")]
)
def test_plugins_that_an_older_library_lacks_leave_the_others(
    monkeypatch: pytest.MonkeyPatch,
    lacking: tuple[str, ...],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    install(monkeypatch, tmp_path / "libdvfl.so", "tensorrt")
    loaded: list[str] = []

    def creator(name: str, version: str, namespace: str) -> object:
        return object() if loaded and name not in lacking else None

    registry = SimpleNamespace(get_creator=creator, load_library=loaded.append)
    plugins = Plugins(registry, ModelFile(BUNDLED_MODEL))
    contexts = ("SpatialContext", "TemporalContext")
    assert plugins.names == tuple(name for name in contexts if name not in lacking)
    said = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(said) == bool(lacking)
    assert all("TemporalContext" in line and "newest version" in line for line in said)


PLUGINS = """
import json, logging, sys
import numpy as np
from dvfl_runtime.artifact import ModelFile
from dvfl_runtime.engines import open_engine
from dvfl_runtime.engines.candidates import noise_clip

class Lines(logging.Handler):
    lines = []
    def emit(self, record):
        self.lines.append(record.getMessage())

logging.basicConfig(level=logging.INFO, handlers=[Lines()])
engine = open_engine("tensorrt", ModelFile(sys.argv[1]))
logits = engine.run(noise_clip(engine)).tolist()
print(json.dumps({"logits": logits, "fused": engine.fused_ops, "lines": Lines.lines}))
"""


def on_tensorrt(folder: Path, library: Path | str, **changes: str) -> dict[str, Any]:
    """Run the bundled model on a pretended GPU, whose plugins are kernels for the CPU."""
    package = folder / "dvfl_kernels.py"
    package.write_text(
        "def library_path(engine):\n"
        f"    if engine != 'tensorrt' or not {str(library)!r}:\n"
        "        raise FileNotFoundError(engine)\n"
        f"    return {str(library)!r}\n"
    )
    environment = fake_gpu(folder, **changes)
    environment["PYTHONPATH"] = f"{folder}{os.pathsep}{environment['PYTHONPATH']}"
    command = [sys.executable, "-c", PLUGINS, str(BUNDLED_MODEL)]
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@needs_fake_gpu
def test_plugins_of_tensorrt_are_loaded_and_a_plan_belongs_to_them(
    library: Path, plain: np.ndarray, tmp_path: Path
) -> None:
    found = on_tensorrt(tmp_path, library)
    assert found["fused"] == ["SpatialContext", "TemporalContext"]  # TensorRT fuses the third
    np.testing.assert_allclose(found["logits"], plain, rtol=0, atol=1e-4)
    again = on_tensorrt(tmp_path, library)
    assert any("using the TensorRT plan" in line for line in again["lines"])
    broken = tmp_path / "broken.so"
    broken.write_bytes(b"no library")
    found = on_tensorrt(tmp_path, broken)
    assert found["fused"] == []
    np.testing.assert_allclose(found["logits"], plain, rtol=0, atol=1e-5)
    assert any("tensorrt runs without the kernels" in line for line in found["lines"])
    assert any("plugins was [" in line and "and is []" in line for line in found["lines"])


@needs_fake_gpu
def test_a_plan_that_plugins_do_not_fit_is_built_without_them(
    library: Path, plain: np.ndarray, tmp_path: Path
) -> None:
    refused = on_tensorrt(tmp_path, library, FAKE_REFUSES_PLUGINS="1")
    assert refused["fused"] == []
    np.testing.assert_allclose(refused["logits"], plain, rtol=0, atol=1e-5)
    assert any("tensorrt runs without the kernels" in line for line in refused["lines"])
