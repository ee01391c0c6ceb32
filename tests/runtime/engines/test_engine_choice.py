"""Which engine "auto" takes: the faster one, measured once."""

import json
import logging
import os
import stat
import sys
import time
import types

import numpy as np
import pytest
from artifacts import write_colour_model

from dvfl_runtime import (
    ArtifactError,
    DvflError,
    EngineUnavailable,
    OutputError,
    Recognizer,
    engines,
)
from dvfl_runtime.artifact import ModelFile
from dvfl_runtime.engines import choice, open_engine
from dvfl_runtime.engines.candidates import Candidates
from dvfl_runtime.engines.choice import measure, open_fastest
from dvfl_runtime.engines.table import EngineOptions
from dvfl_runtime.files import cache_folder


class Timed:
    """An engine that takes its time."""

    clip_shape = (None, 4, 8, 8, 3)

    def __init__(self, name, sleep_s, fails=None):
        self.name, self.sleep_s, self.fails = name, sleep_s, fails
        self.runs = self.closed = 0
        self.log = []

    def run(self, clips):
        assert clips.shape == (1, 4, 8, 8, 3)
        self.runs += 1
        self.log.append(self.name)
        if self.fails:
            raise self.fails
        time.sleep(self.sleep_s)
        return np.zeros((1, 3), np.float32)

    def close(self):
        self.closed += 1


class Shelf:
    """Engines to open; remembers which were."""

    def __init__(self, **engines):
        self.engines = engines
        self.opened = []

    def open_one(self, name):
        self.opened.append(name)
        if isinstance(self.engines[name], Exception):
            raise self.engines[name]
        return self.engines[name]

    def fastest(self, model, **options):
        del self.opened[:]
        settings = EngineOptions(**{"device": "cpu", "num_threads": 1, **options})
        candidates = Candidates(self.open_one, run_once=settings.device == "cuda")
        engine = open_fastest(tuple(self.engines), candidates, model, settings)
        self.failed = candidates.failed
        return engine and engine.name


@pytest.fixture
def model(tmp_path):
    return ModelFile(write_colour_model(tmp_path / "m.onnx"))


@pytest.fixture(autouse=True)
def versions(monkeypatch):
    monkeypatch.setattr(choice, "installed_version", lambda name: "8")


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DVFL_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_the_faster_one_is_taken_and_remembered(model, cache, caplog):
    shelf = Shelf(slow=Timed("slow", 0.02), fast=Timed("fast", 0.001), lame=Timed("lame", 0.03))
    with caplog.at_level(logging.INFO, "dvfl_runtime"):
        assert shelf.fastest(model) == "fast"
    assert shelf.opened == ["slow", "fast", "lame"]
    assert [e.closed for e in shelf.engines.values()] == [1, 0, 1]
    assert "ms per clip: slow 2" in caplog.text
    (file,) = cache.iterdir()
    about = json.loads(file.read_text())
    assert about["engine"] == "fast"
    assert about["ms_per_clip"]["slow"] > 15 > about["ms_per_clip"]["fast"]
    assert shelf.fastest(model) == "fast"
    assert shelf.opened == ["fast"]


def test_another_model_version_or_option_is_measured_anew(model, cache, tmp_path, monkeypatch):
    shelf = Shelf(a=Timed("a", 0), b=Timed("b", 0.002))
    shelf.fastest(model)
    for changed in ({"num_threads": 2}, {"device": "cuda"}, {"precision": "bf16"}):
        shelf.fastest(model, **changed)
        assert shelf.opened == ["a", "b"]
    relabelled = write_colour_model(tmp_path / "labels.onnx", labels=("x", "y", "z"))
    shelf.fastest(ModelFile(relabelled))
    assert shelf.opened == ["a"]  # the graph is the same
    relabelled.write_bytes(model.content.replace(b"colours", b"Colours"))
    shelf.fastest(ModelFile(relabelled))
    assert shelf.opened == ["a", "b"]
    monkeypatch.setattr(choice, "installed_version", lambda name: "9")
    shelf.fastest(model)
    assert shelf.opened == ["a", "b"]


ANYTHING = [
    EngineUnavailable("no GPU"),
    ArtifactError("cannot load"),
    RuntimeError("numpy of another version"),
    OSError("libtbb.so: cannot open shared object file"),
    SystemError("initialization failed"),
    MemoryError(),
    AttributeError("module has no attribute 'Core'"),
]


@pytest.mark.parametrize("error", ANYTHING, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("when", ["opened", "run"])
def test_what_fails_is_left_out(model, cache, error, when):
    failing = error if when == "opened" else Timed("broken", 0, fails=error)
    shelf = Shelf(broken=failing, works=Timed("works", 0), slower=Timed("slower", 0.002))
    assert shelf.fastest(model) == "works"
    ((name, found),) = shelf.failed
    assert name == "broken"
    assert isinstance(found, DvflError)
    assert str(error) in str(found)
    if when == "run":
        assert failing.closed == 1
    assert not cache.exists()  # it may work the next time


@pytest.mark.parametrize("fails", [RuntimeError("lost"), None])
def test_an_engine_that_cannot_even_be_closed_gives_way(model, cache, monkeypatch, fails):
    broken = Timed("broken", 0.005, fails=fails)
    monkeypatch.setattr(broken, "close", lambda: 1 / 0)
    assert Shelf(broken=broken, works=Timed("works", 0)).fastest(model) == "works"


def test_an_engine_that_failed_once_comes_back(model, cache):
    fast = Timed("fast", 0)
    shelf = Shelf(fast=fast, slow=Timed("slow", 0.005), slower=Timed("slower", 0.01))
    assert shelf.fastest(model) == "fast"
    shelf.engines["fast"] = EngineUnavailable("the GPU is full")
    assert shelf.fastest(model) == "slow"
    assert shelf.opened == ["fast", "slow", "slower"]
    assert str(shelf.failed[0][1]) == "the GPU is full"
    shelf.engines["fast"] = fast
    assert shelf.fastest(model) == "fast"
    assert shelf.opened == ["fast"]


def test_when_all_fail_there_is_one_line(tmp_path, caplog):
    model = write_colour_model(tmp_path / "m.onnx")
    model.write_bytes(model.read_bytes().replace(b"ReduceMean", b"ReduceNean"))
    with pytest.raises(ArtifactError, match=r"onnxruntime .* cannot load model"):
        open_engine("auto", ModelFile(model), device="cpu")
    assert not caplog.records


@pytest.mark.parametrize("others", [[], ["other"]])
def test_an_engine_on_a_gpu_has_to_run_a_clip(model, cache, others):
    gpu = Timed("gpu", 0, fails=EngineUnavailable("cuMemAlloc gave CUDA_ERROR_OUT_OF_MEMORY"))
    shelf = Shelf(gpu=gpu, **{name: Timed(name, 0) for name in others})
    assert shelf.fastest(model, device="cuda") == (others or [None])[0]
    assert [name for name, _ in shelf.failed] == ["gpu"]
    assert (gpu.runs, gpu.closed) == (1, 1)


@pytest.mark.parametrize("error", ANYTHING[2:], ids=lambda error: type(error).__name__)
def test_a_package_whose_import_raises_anything_gives_way(
    model, cache, monkeypatch, caplog, error, tmp_path
):
    broken = tmp_path / "openvino.py"
    broken.write_text(f"raise {type(error).__name__}({str(error)!r})\n")
    monkeypatch.delitem(sys.modules, "openvino", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    assert open_engine("auto", model, device="cpu").name == "onnxruntime"
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert record.getMessage().startswith("not using openvino: ")
    assert str(error) in record.getMessage()
    with pytest.raises(
        EngineUnavailable, match="openvino, which is installed but fails"
    ) as refused:
        open_engine("openvino", model)
    assert isinstance(refused.value.__cause__, type(error))


@pytest.mark.parametrize("error", ANYTHING[2:], ids=lambda error: type(error).__name__)
def test_an_engine_whose_inside_raises_anything_gives_way(model, cache, monkeypatch, caplog, error):
    pytest.importorskip("openvino")

    def fails(ov):
        raise error

    monkeypatch.setattr("dvfl_runtime.engines.openvino.shared_core", fails)
    assert open_engine("auto", model, device="cpu").name == "onnxruntime"
    name = type(error).__name__
    assert f"not using openvino: engine 'openvino' fails here with {name}" in caplog.text
    with pytest.raises(EngineUnavailable, match=f"with {name}: .*choose another engine"):
        open_engine("openvino", model)


def test_a_package_that_is_half_there_counts_as_not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", types.ModuleType("openvino"))  # without a spec
    assert "openvino" not in engines.installed_engines()


@pytest.mark.parametrize("content", ["", "{", "[]", '{"engine": "a"}', '{"engine": 1, "key": 2}'])
def test_a_damaged_memory_is_measured_anew(model, cache, content):
    shelf = Shelf(a=Timed("a", 0.005), b=Timed("b", 0))
    shelf.fastest(model)
    (file,) = cache.iterdir()
    file.write_text(content)
    assert shelf.fastest(model) == "b"
    assert shelf.opened == ["a", "b"]
    assert json.loads(file.read_text())["engine"] == "b"


def test_what_others_put_in_its_place_is_neither_read_nor_written_through(model, cache):
    """As they can where `DVFL_CACHE_DIR` is /tmp."""
    shelf = Shelf(a=Timed("a", 0.005), b=Timed("b", 0))
    shelf.fastest(model)
    (file,) = cache.iterdir()
    assert stat.S_IMODE(cache.stat().st_mode) == 0o700
    other = file.rename(file.with_name("another_file"))
    about = other.read_text()
    file.symlink_to(other)
    assert shelf.fastest(model) == "b"
    assert shelf.opened == ["a", "b"]  # measured again
    assert not file.is_symlink()
    assert other.read_text() == about
    file.unlink()
    os.mkfifo(file)
    assert shelf.fastest(model) == "b"  # and nobody waits for a writer


def test_a_folder_that_cannot_be_written_is_no_error(model, tmp_path, monkeypatch, caplog):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("DVFL_CACHE_DIR", str(tmp_path / "file" / "cache"))
    shelf = Shelf(a=Timed("a", 0.002), b=Timed("b", 0))
    with caplog.at_level(logging.INFO, "dvfl_runtime"):
        assert shelf.fastest(model) == "b"
    assert "not remembered" in caplog.text


def test_a_single_engine_is_not_measured(model, cache):
    shelf = Shelf(only=Timed("only", 0))
    assert shelf.fastest(model) == "only"
    assert shelf.engines["only"].runs == 0
    assert not cache.exists()


def test_engines_are_measured_in_turn_and_slow_ones_run_twice():
    shelf = Shelf(a=Timed("a", 0), b=Timed("b", 0.25))
    candidates = Candidates(shelf.open_one)
    assert candidates.open("a")
    assert candidates.open("b")
    shelf.engines["b"].log = shelf.engines["a"].log
    times = measure(candidates)
    assert times["b"] >= 250
    assert times["a"] < 50
    assert shelf.engines["a"].log == ["a", "b", "a", "b", "a", "b"]


def remembered(cache):
    (file,) = cache.iterdir()
    return file, json.loads(file.read_text())


@pytest.mark.parametrize(
    "changes",
    [
        {"ms_per_clip": {"a": 1.0, "b": 1.09}},  # too close
        {"measured_s": 0},  # too old
        {"measured_s": 4e9},  # the clock was set back
        {"measured_s": None},
        {"ms_per_clip": {"a": 1.0}},
        {"ms_per_clip": [1, 2]},
        {"engine": "gone"},
    ],
)
def test_what_no_longer_counts_is_measured_again(model, cache, changes):
    shelf = Shelf(a=Timed("a", 0), b=Timed("b", 0.005))
    shelf.fastest(model)
    file, about = remembered(cache)
    file.write_text(json.dumps({**about, **changes}))
    assert shelf.fastest(model) == "a"
    assert shelf.opened == ["a", "b"]
    assert remembered(cache)[1]["engine"] == "a"
    assert shelf.fastest(model) == "a"
    assert shelf.opened == ["a"]


def test_a_winner_of_two_weeks_and_ten_percent_still_counts(model, cache):
    shelf = Shelf(a=Timed("a", 0), b=Timed("b", 0.005))
    shelf.fastest(model)
    file, about = remembered(cache)
    facts = {"ms_per_clip": {"a": 1.0, "b": 1.11}, "measured_s": time.time() - 14 * 86400}
    file.write_text(json.dumps({**about, **facts}))
    shelf.fastest(model)
    assert shelf.opened == ["a"]


def test_the_real_engines_are_measured_once(model, cache, monkeypatch, caplog):
    pytest.importorskip("openvino")
    with caplog.at_level(logging.INFO, "dvfl_runtime"), Recognizer(model.path) as r:
        first = r.info.engine
    assert "ms per clip: openvino" in caplog.text
    assert first in ("openvino", "onnxruntime")
    other = ({"openvino", "onnxruntime"} - {first}).pop()
    file, about = remembered(cache)
    times = {"engine": other, "ms_per_clip": {first: 2.0, other: 1.0}}
    file.write_text(json.dumps({**about, **times}))
    monkeypatch.setattr(choice, "measure", None)  # no measurement any more
    assert open_engine("auto", model).name == other
    assert engines.open_engine(first, model).name == first


def test_a_user_without_a_home_folder_is_no_error(model, monkeypatch, caplog):
    """As `setpriv --reuid=54321 env -i` gives one: no HOME, and a number that nobody knows."""
    for name in ("HOME", "DVFL_CACHE_DIR", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)

    def unknown(uid):
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    monkeypatch.setattr("pwd.getpwuid", unknown)
    with pytest.raises(OutputError, match=r"no home folder .*; set DVFL_CACHE_DIR"):
        cache_folder()
    with caplog.at_level(logging.INFO, "dvfl_runtime"), Recognizer(model.path) as r:
        assert r.info.engine in ("openvino", "onnxruntime")
    # the first import of openvino fails without a home folder, and the next engine is taken
    said = [record.getMessage() for record in caplog.records if record.levelname != "INFO"]
    assert all(line.startswith("not using openvino: ") for line in said)
