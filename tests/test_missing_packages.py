"""Commands where packages are missing: one line that names what to install, never a traceback."""

import importlib
import json
import re
import subprocess
import sys
from importlib import metadata

import pytest

from dvfl_bench import cli as bench
from dvfl_export import cli as export
from dvfl_export import eval_cli as evaluate
from dvfl_export.own_actions import cli as train
from dvfl_runtime import DvflError
from dvfl_runtime.app import cli as recognize
from dvfl_runtime.archive import options as archive
from dvfl_runtime.errors.packages import DISTRIBUTIONS, MEDIA, import_problem, needed, pip_install
from dvfl_runtime.recognizer import BUNDLED_MODEL

BLOCKED = """
import importlib, json, sys
from importlib.machinery import PathFinder
names, command, runs = json.loads(sys.argv[1])
class WithoutThem(PathFinder):
    # what is absent has no spec; libraries ask for those of others without an import
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        absent = name.partition(".")[0] in names
        return None if absent else super().find_spec(name, path, target)
sys.meta_path[sys.meta_path.index(PathFinder)] = WithoutThem
main = importlib.import_module(command).main
for words in runs:
    try:
        status = main(words)
    except SystemExit as err:
        status = err.code
    print("STATUS", status, flush=True)
"""
ENGINES = ("onnxruntime", "openvino", "tensorrt")
# command -> the extra that brings what it needs, what it imports by name, and a short run
COMMANDS = {
    "dvfl_runtime.app.cli": ("cpu", [*ENGINES, *MEDIA], ["--demo"]),
    "dvfl_runtime.archive.cli": (
        "archive",
        archive.make_parser().packages,
        [str(BUNDLED_MODEL.parent), "-o", "OUT/rows"],
    ),
    "dvfl_export.own_actions.cli": (
        "train",
        train.parser().packages,
        [
            *("order", "--cpu", "--tensorboard", "--workers", "0", "--out", "OUT/run"),
            *("--set", "optim.steps=1", "--set", "optim.batch_size=2", "--set", "test.0.clips=2"),
        ],
    ),
    "dvfl_export.cli": (
        "export",
        export.parser().packages,
        ["bundled", "-o", "OUT/bundled.pth"],
    ),
    "dvfl_export.eval_cli": (
        "train",
        evaluate.parser().packages,
        [str(BUNDLED_MODEL), "actions5", "--set", "test.0.clips=2", "--confusion", "OUT/c.png"],
    ),
    "dvfl_bench.cli": (
        "bench",
        bench.parser().packages,
        ["--model-only", "--seconds", "0.2", "--plot", "OUT/p.png"],
    ),
}


def run(names, command, *runs):
    """Run a command in a process that lacks packages; return its statuses and the errors."""
    program = [sys.executable, "-c", BLOCKED, json.dumps([list(names), command, runs])]
    result = subprocess.run(program, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return [int(n) for n in re.findall(r"^STATUS (\d)$", result.stdout, re.M)], result.stderr


def words_of(command, folder):
    return [word.replace("OUT", str(folder)) for word in COMMANDS[command][2]]


@pytest.mark.parametrize("command", COMMANDS)
def test_without_any_package_a_command_has_help_and_names_them_all(command, tmp_path):
    names = COMMANDS[command][1]
    statuses, errors = run(names, command, ["--help"], words_of(command, tmp_path))
    assert statuses == [0, 2]
    (line,) = errors.splitlines()
    assert re.match(r"dvfl-\w+: error: .* installed.*; run: pip install ", line)
    wanted = [DISTRIBUTIONS.get(name, name) for name in names if name not in ENGINES[1:]]
    said, _, hint = line.partition("pip install ")[2].partition(" (")
    assert set(said.split()) == set(wanted)
    assert ("download.pytorch.org/whl/cpu" in hint) == ("torch" in names)
    assert "dvfl[" not in line


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "name"),
    [
        *(("dvfl_runtime.app.cli", name) for name in (*ENGINES, *MEDIA)),
        *(("dvfl_export.own_actions.cli", name) for name in train.parser().packages),
        *(("dvfl_export.cli", name) for name in ("torch", "onnx", "onnxruntime", "tqdm", "cv2")),
        *(("dvfl_export.eval_cli", name) for name in ("onnxruntime", "matplotlib", "av")),
        *(("dvfl_bench.cli", name) for name in bench.parser().packages),
    ],
)
def test_without_one_package_a_command_works_or_names_it(command, name, tmp_path):
    (status,), errors = run([name], command, words_of(command, tmp_path))
    assert "Traceback" not in errors
    if status != 0:  # not every package is needed by every run
        assert status == 2
        assert f"pip install {DISTRIBUTIONS.get(name, name)}" in errors.splitlines()[-1]
    else:
        assert name not in ("torch", "onnx", "cv2")


@pytest.mark.slow
def test_recipes_are_trained_without_onnx(tmp_path):
    command = "dvfl_export.own_actions.cli"
    clips = tmp_path / "clips"
    for label in "ab":
        (clips / label).mkdir(parents=True)
        (clips / label / "1.mp4").touch()
    own = [str(clips), "-o", str(tmp_path / "m.onnx")]
    statuses, errors = run(
        ["onnx", "onnxscript", *ENGINES], command, words_of(command, tmp_path), own
    )
    assert statuses == [0, 2]
    assert errors.splitlines()[-1].endswith("pip install onnx onnxscript onnxruntime")


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_name_what_their_extra_brings(command):
    extra, names, _ = COMMANDS[command]
    pattern = re.compile(rf"([\w-]+).*extra == ['\"]{extra}")
    found = [pattern.match(line) for line in metadata.requires("dvfl") or []]
    brought = {match[1] for match in found if match} - {"tomli", "tensorboardX"}
    brought -= {"ray"}  # for clusters alone
    named = {DISTRIBUTIONS.get(name, name) for name in names}
    assert brought <= named
    assert named - brought <= {*ENGINES, "av", "opencv-python-headless"}


def test_a_package_that_fails_to_load_is_told_with_its_reason(monkeypatch):
    def broken():
        raise ImportError("libGL.so.1: cannot open\nshared object file", name="cv2")

    def odd():
        raise RuntimeError("wrong NumPy")

    for fail, reason in ((broken, "libGL.so.1: cannot open shared"), (odd, "wrong NumPy")):
        with pytest.raises(DvflError) as raised, needed("resizing frames", "cv2", "av"):
            fail()
        assert "needs cv2, which is installed but fails to load" in str(raised.value)
        assert reason in str(raised.value)
        assert str(raised.value).endswith("--force-reinstall opencv-python-headless")


@pytest.mark.parametrize(
    "fault",
    ["raise ImportError('numpy.core.multiarray failed to import')", "numpy.old_name", "exit(3)"],
)
def test_the_package_whose_import_fails_is_the_one_that_is_named(fault, tmp_path, monkeypatch):
    (tmp_path / "dvfl_broken_one.py").write_text(f"import numpy\n{fault}\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(DvflError) as raised, needed("it", "av", "dvfl_broken_one"):
        importlib.import_module("dvfl_broken_one")
    assert "it needs dvfl_broken_one, which is installed but fails" in str(raised.value)


def test_what_a_package_needs_itself_is_named():
    error = ModuleNotFoundError("No module named 'nonsense'", name="nonsense")
    assert import_problem(error, "x", "av").endswith("not installed; run: pip install nonsense")
    assert pip_install("av", "nonsense", "numpy") == "pip install av nonsense"


def test_a_fault_of_our_own_is_no_missing_package():
    with pytest.raises(ImportError):
        recognize.make_parser().fail(ImportError("cannot import name", name="dvfl_runtime.app.cli"))


@pytest.mark.parametrize(
    ("message", "words"),
    [
        ("tensorrt needs a GPU; pass engine='onnxruntime' or engine='openvino'",
         "tensorrt needs a GPU; pass --engine onnxruntime or --engine openvino"),
        ("needs it (pass device='cpu')", "needs it (pass --device cpu)"),
        ("hop_s must be a finite number >= 0.001, got 0",
         "--hop-s must be a finite number >= 0.001, got 0"),
        ("top_k must be 1; pass top_k=1", "--top-k must be 1; pass --top-k 1"),
        ("csi://0?fps=30: fps must be > 0", "csi://0?fps=30: fps must be > 0"),
        ("transport must be 'tcp'", "transport must be 'tcp'"),
        ("regions['far desk'] must be a box, got 1", "--roi far desk must be a box, got 1"),
        ("25 is assumed; cut it, or pass fps=F", "25 is assumed; cut it, or pass --fps F"),
        ("no frame; check it, or pass max_outage_s=N", "no frame; check it"),
        ("no such format (try a=b or c=d)", "no such format (try a=b or c=d)"),
    ],
)  # fmt: skip
def test_commands_speak_of_options(message, words, capsys):
    assert recognize.make_parser().fail(DvflError(message)) == 2
    assert capsys.readouterr().err == f"dvfl-recognize: error: {words}\n"


def test_an_engine_that_does_not_fit_is_told_by_the_option(capsys):
    assert recognize.main(["--demo", "--engine", "openvino", "--device", "cuda"]) == 2
    line = capsys.readouterr().err
    assert "pass --device cpu or --device gpu (Intel's), or --engine onnxruntime" in line
    assert "='" not in line
