"""How many CPUs a process may use."""

import os
import subprocess
import sys

import pytest

from dvfl_runtime.engines.cpus import usable_cpus


def test_cpus_respect_affinity_and_quota(tmp_path, monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(8)), raising=False)
    assert usable_cpus(tmp_path) == 8
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert usable_cpus(tmp_path) == 8
    (tmp_path / "cpu.max").write_text("150000 100000\n")
    assert usable_cpus(tmp_path) == 2
    (tmp_path / "cpu.max").unlink()
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000\n")
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text("-1\n")
    assert usable_cpus(tmp_path) == 8
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text("50000\n")
    assert usable_cpus(tmp_path) == 1


def test_cpus_respect_the_quotas_of_all_groups_above(tmp_path, monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(8)), raising=False)
    membership = tmp_path / "membership"
    membership.write_text("0::/system.slice/camera.service\n")
    service = tmp_path / "system.slice" / "camera.service"
    service.mkdir(parents=True)
    (service / "cpu.max").write_text("max 100000\n")
    assert usable_cpus(tmp_path, membership) == 8
    (tmp_path / "system.slice" / "cpu.max").write_text("300000 100000\n")
    assert usable_cpus(tmp_path, membership) == 3
    (service / "cpu.max").write_text("120000 100000\n")
    assert usable_cpus(tmp_path, membership) == 2
    membership.write_text("5:memory:/m\n4:cpuacct,cpu:/docker/x\n")
    for name, quota in (("cpu", -1), ("cpu/docker/x", 400000)):
        (tmp_path / name).mkdir(parents=True, exist_ok=True)
        (tmp_path / name / "cpu.cfs_quota_us").write_text(f"{quota}\n")
        (tmp_path / name / "cpu.cfs_period_us").write_text("100000\n")
    assert usable_cpus(tmp_path, membership) == 4


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system has no affinity")
def test_a_process_that_may_use_one_cpu_starts_one_thread():
    code = (
        "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
        "from dvfl_runtime.engines.cpus import usable_cpus; print(usable_cpus())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "1\n"
