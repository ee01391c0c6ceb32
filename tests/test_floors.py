"""The lowest and the newest versions of the runtime's libraries, installed and run."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import zipfile
from itertools import islice
from pathlib import Path
from typing import Any

import floors_program
import numpy as np
import pytest
from packages import build_wheel, new_venv, run
from packaging.requirements import Requirement
from packaging.version import Version
from shared import ROOT

from dvfl_runtime import Recognizer

EXTRAS = ("cpu", "openvino")
MINORS = range(10, 14)  # of the Pythons that are supported
PYENV = Path.home() / ".pyenv" / "versions"


def interpreters() -> dict[int, str]:
    """Return the supported Pythons of this machine, by minor version."""
    found = {}
    for minor in MINORS:
        name = f"python3.{minor}"
        kept = [str(path) for path in PYENV.glob(f"3.{minor}.*/bin/{name}")]
        for candidate in filter(None, (*kept, shutil.which(name))):
            says = subprocess.run([candidate, "-V"], capture_output=True, text=True, check=False)
            if says.stdout.startswith(f"Python 3.{minor}."):
                found[minor] = candidate
    return found


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if run(sys.executable, "-m", "pip", "index", "versions", "numpy", cwd=ROOT).returncode:
        pytest.skip("needs a package index")
    return build_wheel(tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist"))


def ranges(wheel: Path) -> dict[str, dict[str, Version]]:
    """Of each library the version behind ">=" and "<" in what the wheel asks for."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith("/METADATA"))
        text = archive.read(name).decode()
    asked = [Requirement(line) for line in re.findall(r"^Requires-Dist: (.*)$", text, re.MULTILINE)]
    return {
        one.name: {part.operator: Version(part.version) for part in one.specifier}
        for one in asked
        if one.name in floors_program.LIBRARIES
    }


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("end", ["lowest", "newest"])
def test_the_ends_of_the_ranges_give_the_same_answers(
    end: str, wheel: Path, tmp_path: Path
) -> None:
    pythons, asked = interpreters(), ranges(wheel)
    assert asked.keys() == set(floors_program.LIBRARIES)
    lowest = {name: versions[">="] for name, versions in asked.items()}
    if end == "lowest" and MINORS[0] not in pythons:
        pytest.skip(f"needs Python 3.{MINORS[0]}")
    python = pythons[min(pythons) if end == "lowest" else max(pythons)]
    pins = tmp_path / "pins.txt"
    lines = [f"{name}=={version}\n" for name, version in lowest.items()]
    pins.write_text("".join(lines) if end == "lowest" else "")
    (tmp_path / "venv").mkdir()
    wanted = f"{wheel}[{','.join(EXTRAS)}]"
    binaries = new_venv(tmp_path / "venv", python, wanted, "--upgrade", "-c", pins)

    program = Path(floors_program.__file__)
    result = run(binaries / "python", program, tmp_path, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    answers = json.loads((tmp_path / "answers.json").read_text())
    versions = {name: Version(version) for name, version in answers["versions"].items()}
    if end == "lowest":
        assert versions == lowest
    else:  # the newest is below the ceiling, and of the last generation that is
        assert all(versions[name] < asked[name]["<"] for name in versions)
        assert all(versions[name].major + 1 == asked[name]["<"].major for name in versions)
    check(answers)


def check(answers: dict[str, Any]) -> None:
    assert answers["decoded"] == [[k, round(k / 25, 3)] for k in range(30)]
    for bars in answers["colours"].values():
        np.testing.assert_allclose(bars, floors_program.BARS, atol=3)
    assert answers["command"] == 0
    assert answers["overlay"] == 1125  # as many frames as the clip
    with Recognizer(engine="onnxruntime") as recognizer:
        here = [(p.label, p.scores) for p in islice(recognizer.stream(floors_program.DEMO), 40)]
    for one in answers["recognised"]:
        assert [label for label, *_ in one["predictions"]] == [label for label, _ in here]
        scores = [row[1:] for row in one["predictions"]]
        np.testing.assert_allclose(scores, [scores for _, scores in here], atol=2e-3)
