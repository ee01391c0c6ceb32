"""The wheel: its contents, and that it runs where nothing else is installed."""

from __future__ import annotations

import json
import re
import sys
import zipfile
from importlib import metadata
from pathlib import Path

import grimp
import numpy as np
import onnx
import pytest
from emulated import EmulatedPython, Unavailable
from packages import PACKAGES, build_wheel, new_venv, run
from shared import ROOT

from dvfl_export.precision.quantise import quantise
from dvfl_export.precision.ranges import activation_ranges
from dvfl_models.rendered.synthetic import ACTIONS, render_clip
from dvfl_runtime.recognizer import BUNDLED_MODEL

DISTRIBUTIONS = {"cv2": "opencv-python-headless"}  # where the import has another name
# extras of their own, and a wheel of its own
CHOSEN = {"openvino", "tensorrt", "cuda", "starlette", "uvicorn", "dvfl_kernels"}
TIMELINE_ROW = re.compile(r"^ *(\d+:)?\d+\.\d\d +(\d+:)?\d+\.\d\d +\w+ ", re.MULTILINE)

SCORES = """
import itertools, json, platform, sys
import numpy as np
from dvfl_runtime.recognizer import BUNDLED_MODEL, Recognizer
with Recognizer(*sys.argv[1:], engine="onnxruntime") as r:
    shape = (r.spec.num_frames, 120, 160, 3)
    clip = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    rows = [r.predict(clip)]
    rows += itertools.islice(r.stream(BUNDLED_MODEL.with_name("demo.mp4")), 2)
print(json.dumps([platform.machine(), [[float(s) for s in row.scores] for row in rows]]))
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_wheel(tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist"))


@pytest.fixture(scope="module")
def contents(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


@pytest.fixture(scope="module")
def empty_venv(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the bin folder of an environment that holds the wheel with its extra `cpu`."""
    home = tmp_path_factory.mktemp("venv")
    return new_venv(home, sys.executable, f"{wheel}[cpu]", "-c", ROOT / "constraints.txt")


def test_wheel_holds_the_four_packages_and_nothing_else(contents: set[str]) -> None:
    info = f"dvfl-{metadata.version('dvfl')}.dist-info"
    assert {name.partition("/")[0] for name in contents} == {*(p.name for p in PACKAGES), info}


def test_wheel_holds_every_module(contents: set[str]) -> None:
    names = {
        module.relative_to(package.parent).as_posix()
        for package in PACKAGES
        for module in package.rglob("*.py")
    }
    assert {name for name in contents if name.endswith(".py")} == names


def test_wheel_holds_types_recipes_model_clip_and_page(contents: set[str]) -> None:
    recipes = (ROOT / "models" / "dvfl_models" / "recipes").glob("*.toml")
    assert {f"{package.name}/py.typed" for package in PACKAGES} <= contents
    assert {f"dvfl_models/recipes/{recipe.name}" for recipe in recipes} <= contents
    data = ("bundled.onnx", "demo.mp4", "page.html")
    assert {f"dvfl_runtime/data/{name}" for name in data} <= contents


def test_numpy_is_the_only_hard_dependency() -> None:
    requirements = metadata.requires("dvfl") or []
    (hard,) = [name for name in requirements if "extra ==" not in name]
    assert re.fullmatch(r"numpy[<>=!.,0-9]*", hard)


@pytest.mark.parametrize(
    ("command", "extras"),
    [
        ("dvfl_runtime.app.cli", ["cpu"]),
        ("dvfl_runtime.archive.cli", ["cpu", "archive"]),
        ("dvfl_runtime.teach.cli", ["cpu", "teach"]),
        ("dvfl_models.training.cli", ["train"]),
        ("dvfl_export.own_actions.cli", ["export"]),
        ("dvfl_export.cli", ["export"]),
        ("dvfl_export.eval_cli", ["export"]),
        ("dvfl_bench.cli", ["cpu", "bench"]),  # on a Jetson: jetson and bench
    ],
)
def test_extras_hold_what_a_command_imports(command: str, extras: list[str]) -> None:
    graph = grimp.build_graph(
        *(package.name for package in PACKAGES),
        include_external_packages=True,
        exclude_type_checking_imports=True,
        cache_dir=None,
    )
    imported = {name.partition(".")[0] for name in graph.find_upstream_modules(command)}
    foreign = imported - sys.stdlib_module_names - {package.name for package in PACKAGES}
    needed = {DISTRIBUTIONS.get(name, name) for name in foreign - CHOSEN}
    assert needed <= {"numpy"}.union(*map(requirements_of, extras))


def requirements_of(extra: str) -> set[str]:
    pattern = re.compile(r"([\w-]+).*extra == ['\"]" + extra)
    matches = map(pattern.match, metadata.requires("dvfl") or [])
    return {match[1] for match in matches if match}


def test_runs_where_torch_is_not_installed(empty_venv: Path, tmp_path: Path) -> None:
    torch = run(empty_venv / "python", "-c", "import torch", cwd=tmp_path)
    assert "No module named 'torch'" in torch.stderr
    demo = run(empty_venv / "dvfl-recognize", "--demo", cwd=tmp_path)
    assert demo.returncode == 0, demo.stderr
    assert len(TIMELINE_ROW.findall(demo.stdout)) >= 2, demo.stdout
    assert "Traceback" not in demo.stderr
    usage = run(empty_venv / "dvfl-train", "--help", cwd=tmp_path)
    assert "bundled recipes: actions5," in usage.stdout
    train = run(empty_venv / "dvfl-train", "order", cwd=tmp_path)
    assert train.returncode == 2
    assert re.fullmatch("dvfl-train: error: .*: pip install torch accelerate .*\n", train.stderr)


@pytest.mark.slow  # tests/test_missing_packages.py shows the same with blocked imports
def test_commands_of_training_say_what_is_missing(empty_venv: Path, tmp_path: Path) -> None:
    for name, words in (
        ("dvfl-train", ["order"]),
        ("dvfl-eval", ["final.pth", "order"]),
        ("dvfl-export", ["final.pth", "-o", "out.onnx"]),
        ("dvfl-bench", []),
    ):
        shown = run(empty_venv / name, "--help", cwd=tmp_path)
        assert (shown.returncode, shown.stderr) == (0, "")
        assert shown.stdout.startswith(f"usage: {name}")
        failed = run(empty_venv / name, *words, cwd=tmp_path)
        (line,) = failed.stderr.splitlines()
        assert failed.returncode == 2
        assert line.startswith(f"{name}: error: ")
        assert "; run: pip install " in line


@pytest.mark.slow  # minutes: every instruction is emulated, and the first time fetches 210 MB
@pytest.mark.timeout(1200)
def test_scores_on_aarch64_are_those_of_this_machine(
    wheel: Path, empty_venv: Path, pytestconfig: pytest.Config, tmp_path: Path
) -> None:
    try:
        python = EmulatedPython(pytestconfig.cache.mkdir("aarch64"), wheel, "cpu")
    except Unavailable as err:
        pytest.skip(str(err))
    model = onnx.load(BUNDLED_MODEL)
    clips = [render_clip(action, seed=1, size=(64, 64)).images for action in ACTIONS]
    onnx.save(quantise(model, activation_ranges(model, clips)), tmp_path / "int8.onnx")
    # the model in the wheel, and a file
    for arguments, limit in (([], 1e-3), ([str(tmp_path / "int8.onnx")], 1e-2)):
        machine, emulated = json.loads(python.run("-c", SCORES, *arguments))
        assert machine == "aarch64"
        here = run(empty_venv / "python", "-c", SCORES, *arguments, cwd=tmp_path)
        _, scores = json.loads(here.stdout)
        np.testing.assert_allclose(emulated, scores, rtol=0, atol=limit)
