"""The TensorRT engine: what it says without a GPU, and its cache on a pretended one."""

import dataclasses
import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from artifacts import artifact, colour_graph, save, write_colour_model
from fake_gpu import fake_gpu, needs_fake_gpu

from dvfl_runtime import EngineUnavailable, OutputError
from dvfl_runtime.artifact import ModelFile
from dvfl_runtime.engines import open_engine
from dvfl_runtime.engines.cuda import cuda_problem
from dvfl_runtime.engines.plans import PlanCache, PlanKey

no_gpu = pytest.mark.skipif(cuda_problem() is None, reason="there is a GPU here")

PROGRAM = """
import json, logging, sys
from concurrent.futures import ThreadPoolExecutor
import ctypes
import numpy as np
from dvfl_runtime import DvflError, Recognizer
from dvfl_runtime.artifact import ModelFile
from dvfl_runtime.engines import open_engine

class Lines(logging.Handler):
    lines = []
    def emit(self, record):
        self.lines.append(record.getMessage())

logging.basicConfig(level=logging.INFO, handlers=[Lines()])
model, batches = sys.argv[1], json.loads(sys.argv[2])
with Recognizer(model, engine="auto") as recognizer:
    info = recognizer.info
engine = open_engine("tensorrt", ModelFile(model))
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
        self.plans = folder / "cache" / "tensorrt"

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
        return sorted(os.listdir(self.plans))


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
    digest = ModelFile(machine.model).graph_sha256
    gpu = "Pretend_Orin_with_8_multiprocessors"
    name = f"colours-{digest[:12]}-{gpu}"
    assert machine.files() == [f"{gpu}.timing", f"{name}.json", f"{name}.plan"]
    about = json.loads((machine.plans / f"{name}.json").read_text())
    assert about["key"] == {
        "tensorrt": "10.3.0",
        "gpu": "Pretend Orin with 8 multiprocessors",
        "compute_capability": "8.7",
        "precision": "fp32",
        "model_sha256": digest,
        "max_batch": 8,
        "plugins": [],
    }
    plan = (machine.plans / f"{name}.plan").read_bytes()
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
    assert machine.built(FAKE_TENSORRT="11.4.0.106", FAKE_COUNT="16") != ""
    described = artifact(labels=("rot", "gruen", "blau"), tools={"dvfl": "1"})
    save(colour_graph(), machine.model, {"dvfl": described.to_json()})
    assert machine.built(FAKE_TENSORRT="11.4.0.106") == ""
    save(colour_graph(gain=10.0), machine.model, {"dvfl": described.to_json()})
    assert machine.built(FAKE_TENSORRT="11.4.0.106") != ""


@needs_fake_gpu
@pytest.mark.parametrize("call", ["cuMemAlloc", "cuMemcpyHtoD"])
def test_a_gpu_without_memory_gives_way_to_the_next_engine(machine: Machine, call: str) -> None:
    program = (
        "import logging, sys\n"
        "from dvfl_runtime import Recognizer\n"
        "logging.basicConfig(level=logging.WARNING, format='%(levelname)s %(message)s')\n"
        "with Recognizer(sys.argv[1]) as r:\n"
        "    print(r.info.engine, r.info.device)\n"
    )
    found = subprocess.run(
        [sys.executable, "-c", program, machine.model],
        env=fake_gpu(machine.folder, FAKE_FAILS=call),
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert found.returncode == 0, found.stderr
    assert found.stdout.split()[1] == "cpu"
    said = [line for line in found.stderr.splitlines() if line.startswith("WARNING not using")]
    assert f"the GPU cannot be used: {call}" in "".join(said)


KEY = PlanKey("10.3.0", "Orin with 8 multiprocessors", "8.7", "fp32", "0" * 64)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PlanCache:
    """With a plan in it."""
    monkeypatch.setenv("DVFL_CACHE_DIR", str(tmp_path / "cache"))
    cache = PlanCache("m", KEY)
    cache.keep(b"a plan", b"timings")
    assert (cache.load(), cache.timings()) == (b"a plan", b"timings")
    return cache


def test_plans_are_this_users_alone(cache: PlanCache) -> None:
    assert cache.plan is not None
    for path in cache.plan.parent.iterdir():
        assert path.stat().st_mode & 0o777 == 0o600
    for folder in (cache.plan.parent, cache.plan.parent.parent):
        assert folder.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize(
    ("part", "content", "said"),
    [
        ("plan", b"", "it is damaged"),
        ("plan", b"a plam", "it is damaged"),
        ("json", b"", "it cannot be used"),
        ("json", b"[]", "it cannot be used"),
        ("json", b"{}", "it cannot be used"),
        ("json", b'{"key": {}, "plan_sha256": ""}', "tensorrt was None and is '10.3.0'"),
        ("json", b"\xff", "it cannot be used"),
    ],
)
def test_a_damaged_plan_is_not_loaded(
    cache: PlanCache, part: str, content: bytes, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert cache.plan is not None
    cache.plan.with_suffix(f".{part}").write_bytes(content)
    with caplog.at_level(logging.INFO, "dvfl_runtime"):
        assert cache.load() is None
    assert said in caplog.text
    cache.keep(b"another", b"")
    assert cache.load() == b"another"


@pytest.mark.parametrize("part", ["plan", "json"])
def test_what_others_may_write_is_not_loaded(
    cache: PlanCache, part: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert cache.plan is not None
    file = cache.plan.with_suffix(f".{part}")
    for mode in (0o602, 0o620, 0o666):
        file.chmod(mode)
        assert cache.load() is None
        assert f"{file} is not trusted: other users may write it" in caplog.text
    file.chmod(0o644)
    assert cache.load() == b"a plan"
    copy = file.rename(file.with_name("elsewhere"))
    file.symlink_to(copy)
    assert cache.load() is None
    cache.keep(b"another", b"")
    assert not file.is_symlink()  # replaced, and what it led to is as it was
    assert cache.load() == b"another"
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    for path in cache.plan.parent.iterdir():
        if path.stat().st_uid == 0:
            os.chown(path, 54321, -1)
    assert cache.load() is None
    assert "another user owns it" in caplog.text


@pytest.mark.parametrize("how", ["link", "others may write", "another owner", "file"])
def test_a_folder_of_somebody_else_keeps_no_plans(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setenv("DVFL_CACHE_DIR", str(tmp_path))
    folder = tmp_path / "tensorrt"
    folder.mkdir()
    wanted = f"{folder} is not trusted: .*; remove it, or set DVFL_CACHE_DIR"
    if how == "link":
        folder.rename(tmp_path / "other")
        folder.symlink_to(tmp_path / "other")
    elif how == "others may write":
        folder.chmod(0o775)
    elif how == "file":
        folder.rmdir()
        folder.write_text("")
        wanted = f"cannot make {folder}"
    elif os.getuid() == 0:
        os.chown(folder, 54321, -1)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    cache = PlanCache("m", KEY)
    assert (cache.plan, cache.load(), cache.timings()) == (None, None, b"")
    with pytest.raises(OutputError, match=wanted):
        cache.keep(b"a plan", b"")


@pytest.mark.parametrize(("mode", "kept"), [(0o777, False), (0o1777, True), (0o755, True)])
def test_nobody_can_put_another_folder_in_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: int, kept: bool
) -> None:
    monkeypatch.setenv("DVFL_CACHE_DIR", str(tmp_path / "cache"))
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache").chmod(mode)
    cache = PlanCache("m", KEY)
    assert (cache.plan is not None) == kept
    if not kept:
        with pytest.raises(OutputError, match=r"any user may write it; run: chmod o-w .*cache, or"):
            cache.keep(b"a plan", b"")


def test_an_orin_nano_does_not_load_the_plan_of_an_agx(cache: PlanCache) -> None:
    """Both say that they are an "Orin" of compute capability 8.7."""
    agx = dataclasses.replace(KEY, gpu="Orin with 16 multiprocessors")
    assert PlanCache("m", agx).load() is None
    assert PlanCache("m", agx).timings() == b""
    assert PlanCache("m", KEY).load() == b"a plan"


@needs_fake_gpu
def test_a_cache_that_cannot_be_written_costs_a_build_only(machine: Machine) -> None:
    (machine.folder / "file").write_text("")
    found = machine.run(DVFL_CACHE_DIR=str(machine.folder / "file" / "cache"))
    said = [line for line in found["lines"] if "built again next time" in line]
    assert len(said) == 2
    assert "set DVFL_CACHE_DIR to a folder that can be written" in said[0]


@no_gpu
def test_without_a_gpu_tensorrt_is_not_even_loaded(tmp_path: Path) -> None:
    model = ModelFile(write_colour_model(tmp_path / "m.onnx"))
    with pytest.raises(EngineUnavailable, match=r"tensorrt needs an NVIDIA GPU: no NVIDIA driver"):
        open_engine("tensorrt", model)
    with pytest.raises(EngineUnavailable, match="does not run on device 'cpu'; pass device='cuda'"):
        open_engine("tensorrt", model, device="cpu")
    assert "tensorrt" not in sys.modules


def test_missing_and_old_packages_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dvfl_runtime.engines import tensorrt

    model = ModelFile(write_colour_model(tmp_path / "m.onnx"))
    monkeypatch.setattr(tensorrt, "cuda_problem", lambda: None)
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(EngineUnavailable, match=r"tensorrt cannot be imported .*; on a Jetson"):
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
