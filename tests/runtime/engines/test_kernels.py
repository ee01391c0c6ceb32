"""The kernels of dvfl-kernels: used where they are installed, told of, and never in the way."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import onnxruntime
import pytest
from kernels_library import LIBRARY, Unavailable, build

from dvfl_runtime import Recognizer
from dvfl_runtime.artifact import ModelFile
from dvfl_runtime.engines import open_engine
from dvfl_runtime.engines.candidates import noise_clip
from dvfl_runtime.engines.kernels import library_mark
from dvfl_runtime.recognizer import BUNDLED_MODEL

OPERATORS = ("BiasGelu", "SpatialContext", "TemporalContext")


def install(monkeypatch: pytest.MonkeyPatch, library: Path | None) -> None:
    """Pretend that a dvfl-kernels with this library is installed, or none."""
    package = ModuleType("dvfl_kernels")
    package.library_path = lambda engine: {"onnxruntime": library}[engine]  # type: ignore[attr-defined]
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
