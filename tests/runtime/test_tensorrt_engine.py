"""The TensorRT engine: what it says without a GPU, and its cache on a pretended one."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from artifacts import SPEC, artifact, colour_graph, save, write_colour_model
from fake_gpu import fake_gpu, needs_fake_gpu

from dvfl_runtime import ArtifactError, EngineUnavailable
from dvfl_runtime.artifact import graph_sha256
from dvfl_runtime.engines import open_engine
from dvfl_runtime.engines.cuda import cuda_problem

no_gpu = pytest.mark.skipif(cuda_problem() is None, reason="there is a GPU here")

PROGRAM = """
import json, logging, sys
from concurrent.futures import ThreadPoolExecutor
import ctypes
import numpy as np
from dvfl_runtime import DvflError, Recognizer
from dvfl_runtime.engines import open_engine

class Lines(logging.Handler):
    lines = []
    def emit(self, record):
        self.lines.append(record.getMessage())

logging.basicConfig(level=logging.INFO, handlers=[Lines()])
model, batches = sys.argv[1], json.loads(sys.argv[2])
with Recognizer(model, engine="auto") as recognizer:
    info = recognizer.info
engine = open_engine("tensorrt", model)
def run(colour):
    return engine.run(np.full((batches[colour % len(batches)], 4, 8, 8, 3), colour, np.uint8))
with ThreadPoolExecutor(4) as pool:
    logits = [each.tolist() for each in pool.map(run, range(16))]
live = ctypes.CDLL("libcuda.so.1").fake_live
before = live()
engine.close()
engine.close()
try:
    run(0)
except DvflError as err:
    closed = str(err)
print(json.dumps({"logits": logits, "lines": Lines.lines, "live": [before, live()],
                  "closed": closed, "info": [info.engine, info.device, info.provider],
                  "shape": engine.clip_shape, "classes": engine.num_classes}))
"""


class Machine:
    """Runs the engine in processes that see the pretended GPU."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.model = write_colour_model(folder / "m.onnx")
        self.batches = [1, 3, 20]

    def run(self, **changes: str) -> dict:
        command = [sys.executable, "-c", PROGRAM, str(self.model), json.dumps(self.batches)]
        found = subprocess.run(
            command,
            env=fake_gpu(self.folder, **changes),
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
        assert found.returncode == 0, found.stderr
        return json.loads(found.stdout)

    def built(self, **changes: str) -> str:
        """Returns "" if the kept plan served, else what was said about building one."""
        lines = self.run(**changes)["lines"]
        assert sum("using the TensorRT plan" in line for line in lines) >= 1
        said = [line for line in lines if "building" in line and "%" not in line]
        assert len(said) <= 2
        return said[0] if said else ""

    def files(self) -> list[str]:
        """Names what lies in the cache, but for the choice of an engine."""
        names = os.listdir(self.folder / "cache")
        return sorted(name for name in names if not name.startswith("engine-"))


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


@needs_fake_gpu
def test_logits_come_from_the_plan_in_parts_and_from_many_threads(machine: Machine) -> None:
    found = machine.run()
    for colour, logits in enumerate(found["logits"]):
        batch = machine.batches[colour % 3]
        np.testing.assert_allclose(logits, np.full((batch, 3), colour * 20 / 255), atol=1e-5)
    assert found["info"] == ["tensorrt", "cuda", "TensorRT"]  # the choice of "auto"
    assert (found["shape"], found["classes"]) == ([None, 4, 8, 8, 3], 3)
    assert "this engine is closed" in found["closed"]
    held, left = found["live"]  # two buffers, a stream and the context
    assert (held, left) == (4, 0)
    assert "building a TensorRT plan: 100 %" in found["lines"]


@needs_fake_gpu
def test_a_plan_is_built_once_and_lies_beside_its_description(machine: Machine) -> None:
    assert "building a TensorRT plan for" in machine.built()
    digest = graph_sha256(machine.model)
    name = f"colours-{digest[:12]}-Pretend_Orin"
    assert machine.files() == ["Pretend_Orin.timing", f"{name}.json", f"{name}.plan"]
    about = json.loads((machine.folder / "cache" / f"{name}.json").read_text())
    assert about["key"] == {
        "tensorrt": "10.3.0",
        "gpu": "Pretend Orin",
        "compute_capability": "8.7",
        "precision": "fp32",
        "model_sha256": digest,
        "max_batch": 8,
    }
    plan = (machine.folder / "cache" / f"{name}.plan").read_bytes()
    assert plan == b"plan of 10.3.0:" + machine.model.read_bytes()  # plain: nothing of ours in it
    assert machine.built() == ""


@needs_fake_gpu
def test_another_tensorrt_or_gpu_or_graph_builds_again_and_other_labels_do_not(
    machine: Machine,
) -> None:
    machine.built()
    assert "tensorrt was '10.3.0' and is '11.4.0.106'" in machine.built(FAKE_TENSORRT="11.4.0.106")
    assert machine.built(FAKE_TENSORRT="11.4.0.106") == ""
    assert len(machine.files()) == 3  # the stale one was replaced
    assert machine.built(FAKE_TENSORRT="11.4.0.106", FAKE_GPU="Other") != ""
    described = artifact(labels=("rot", "gruen", "blau"), tools={"dvfl": "1"})
    save(colour_graph(), machine.model, {"dvfl": described.to_json()})
    assert machine.built(FAKE_TENSORRT="11.4.0.106") == ""
    save(colour_graph(gain=10.0), machine.model, {"dvfl": described.to_json()})
    assert machine.built(FAKE_TENSORRT="11.4.0.106") != ""


@needs_fake_gpu
def test_a_damaged_plan_is_built_again(machine: Machine) -> None:
    machine.built()
    (plan,) = (machine.folder / "cache").glob("*.plan")
    for content in (b"", plan.read_bytes()[:-1]):
        plan.write_bytes(content)
        assert "it is damaged" in machine.built()
    for content in ("", "[]", "{}", '{"key": {}, "plan_sha256": ""}'):
        plan.with_suffix(".json").write_text(content)
        assert "again" in machine.built()
    plan.with_suffix(".json").unlink()
    assert "its description is unusable" in machine.built()
    assert machine.built() == ""


@needs_fake_gpu
def test_a_cache_that_cannot_be_written_costs_a_build_only(machine: Machine) -> None:
    (machine.folder / "file").write_text("")
    found = machine.run(DVFL_CACHE_DIR=str(machine.folder / "file" / "cache"))
    said = [line for line in found["lines"] if "built again next time" in line]
    assert len(said) == 2
    assert "set DVFL_CACHE_DIR to a folder that can be written" in said[0]


@no_gpu
def test_without_a_gpu_tensorrt_is_not_even_loaded(tmp_path: Path) -> None:
    model = write_colour_model(tmp_path / "m.onnx")
    with pytest.raises(EngineUnavailable, match=r"tensorrt needs an NVIDIA GPU: no NVIDIA driver"):
        open_engine("tensorrt", model)
    with pytest.raises(EngineUnavailable, match="does not run on device 'cpu'; pass device='cuda'"):
        open_engine("tensorrt", model, device="cpu")
    assert "tensorrt" not in sys.modules


def test_missing_and_old_packages_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dvfl_runtime.engines import tensorrt

    model = write_colour_model(tmp_path / "m.onnx")
    monkeypatch.setattr(tensorrt, "cuda_problem", lambda: None)
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(EngineUnavailable, match="tensorrt is not importable; on a Jetson"):
        open_engine("tensorrt", model)
    for version in ("8.5.2", "10.2.0", "12.0.1"):
        old = type(sys)("tensorrt")
        old.__version__ = version
        monkeypatch.setitem(sys.modules, "tensorrt", old)
        with pytest.raises(EngineUnavailable, match=f"TensorRT {version} is not supported"):
            open_engine("tensorrt", model)
    monkeypatch.setitem(sys.modules, "cuda.bindings", None)
    with pytest.raises(EngineUnavailable, match="pip install cuda-bindings"):
        open_engine("tensorrt", model)


def test_the_digest_of_a_graph_leaves_the_description_out(tmp_path: Path) -> None:
    first = write_colour_model(tmp_path / "a.onnx")
    other = write_colour_model(tmp_path / "b.onnx", tools={"dvfl": "2"})
    assert first.read_bytes() != other.read_bytes()
    assert graph_sha256(first) == graph_sha256(other)
    changed = colour_graph(SPEC, gain=19.0)
    assert graph_sha256(save(changed, tmp_path / "c.onnx", {})) != graph_sha256(first)
    assert onnx.load(first).graph == onnx.load(other).graph
    for content, message in ((b"\x0a\xff", "truncated"), (None, "cannot read model")):
        broken = tmp_path / "broken.onnx"
        if content is None:
            broken.unlink()
        else:
            broken.write_bytes(content)
        with pytest.raises(ArtifactError, match=message):
            graph_sha256(broken)
