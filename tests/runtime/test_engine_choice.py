"""Which engine "auto" takes: the faster one, measured once."""

import json
import logging
import time

import numpy as np
import pytest
from artifacts import write_colour_model

from dvfl_runtime import ArtifactError, EngineUnavailable, Recognizer, engines
from dvfl_runtime.engines import choice, open_engine
from dvfl_runtime.engines.choice import ms_per_clip, open_fastest


class Timed:
    """An engine that takes its time."""

    clip_shape = (None, 4, 8, 8, 3)

    def __init__(self, name, sleep_s, fails=False):
        self.name, self.sleep_s, self.fails = name, sleep_s, fails
        self.runs = self.closed = 0

    def run(self, clips):
        assert clips.shape == (1, 4, 8, 8, 3)
        self.runs += 1
        if self.fails:
            raise ArtifactError("this graph fails")
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
        settings = {"device": "cpu", "num_threads": 1, **options}
        return open_fastest(tuple(self.engines), model, self.open_one, **settings).name


@pytest.fixture
def model(tmp_path):
    return write_colour_model(tmp_path / "m.onnx")


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


def test_another_model_device_version_or_number_of_threads_is_measured_anew(
    model, cache, tmp_path, monkeypatch
):
    shelf = Shelf(a=Timed("a", 0), b=Timed("b", 0.002))
    shelf.fastest(model)
    for changed in ({"num_threads": 2}, {"device": "cuda"}):
        shelf.fastest(model, **changed)
        assert shelf.opened == ["a", "b"]
    relabelled = write_colour_model(tmp_path / "labels.onnx", labels=("x", "y", "z"))
    shelf.fastest(relabelled)
    assert shelf.opened == ["a"]  # the graph is the same
    relabelled.write_bytes(model.read_bytes().replace(b"colours", b"Colours"))
    shelf.fastest(relabelled)
    assert shelf.opened == ["a", "b"]
    monkeypatch.setattr(choice, "_version", lambda name: "9")
    shelf.fastest(model)
    assert shelf.opened == ["a", "b"]


def test_what_cannot_be_used_is_left_out(model, cache, caplog):
    shelf = Shelf(
        gone=EngineUnavailable("no GPU"), works=Timed("works", 0), fails=Timed("fails", 0, True)
    )
    with caplog.at_level(logging.INFO, "dvfl_runtime"):
        assert shelf.fastest(model) == "works"
    assert "not using gone: no GPU" in caplog.text
    assert "not using fails: this graph fails" in caplog.text
    assert shelf.engines["fails"].closed == 1
    shelf.engines["works"] = ArtifactError("broken since")  # measured anew, then
    with pytest.raises(ArtifactError, match="this graph fails"):
        shelf.fastest(model)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"engine": "a"}', '{"engine": 1, "key": 2}'])
def test_a_damaged_memory_is_measured_anew(model, cache, content):
    shelf = Shelf(a=Timed("a", 0.002), b=Timed("b", 0))
    shelf.fastest(model)
    (file,) = cache.iterdir()
    file.write_text(content)
    assert shelf.fastest(model) == "b"
    assert shelf.opened == ["a", "b"]
    assert json.loads(file.read_text())["engine"] == "b"


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


def test_a_slow_engine_is_run_twice_at_most():
    slow = Timed("slow", 0.25)
    assert ms_per_clip(slow) >= 250
    assert slow.runs == 2


def test_the_real_engines_are_measured_once(model, cache, monkeypatch, caplog):
    pytest.importorskip("openvino")
    with caplog.at_level(logging.INFO, "dvfl_runtime"), Recognizer(model) as r:
        first = r.info.engine
    assert "ms per clip: openvino" in caplog.text
    assert first in ("openvino", "onnxruntime")
    other = ({"openvino", "onnxruntime"} - {first}).pop()
    (file,) = cache.iterdir()
    file.write_text(file.read_text().replace(f'"engine": "{first}"', f'"engine": "{other}"'))
    monkeypatch.setattr(choice, "ms_per_clip", None)  # no measurement any more
    assert open_engine("auto", model).name == other
    assert engines.open_engine(first, model).name == first
