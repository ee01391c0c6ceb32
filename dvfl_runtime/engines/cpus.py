"""The CPUs: how many this process may use, often fewer than there are, and what they can do."""

from __future__ import annotations

import contextlib
import math
import os
import platform
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")
MEMBERSHIP = Path("/proc/self/cgroup")
CPUINFO = Path("/proc/cpuinfo")
BYTE_PRODUCTS = {"avx_vnni", "avx512_vnni", "amx_int8"}  # flags of x86


def usable_cpus(cgroup: Path = CGROUP, membership: Path = MEMBERSHIP) -> int:
    """Return the CPUs allowed by affinity and by the quotas of the control groups, at least 1.

    Args:
        cgroup: where the control groups are mounted.
        membership: the file that lists which of them this process is in.
    """
    affinity = getattr(os, "sched_getaffinity", None)  # Linux only
    cpus = len(affinity(0)) if affinity else os.cpu_count() or 1
    quotas = [quota for folder in _groups(cgroup, membership) for quota in _quotas(folder)]
    return max(1, min([cpus, *(math.ceil(quota) for quota in quotas)]))


def cpu_name(cpuinfo: Path = CPUINFO) -> str:
    """Return the CPU's name, which belongs to the key of each measurement."""
    with contextlib.suppress(OSError):
        for line in cpuinfo.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def convolves_bytes_faster(cpuinfo: Path = CPUINFO) -> bool:
    """Return whether OpenVINO convolves bytes in less time than it multiplies matrices of them.

    So it was measured on CPUs with AVX2 and no dot products of bytes, and with those of AVX-512;
    others have not been measured.

    Args:
        cpuinfo: the file that lists its flags; where there is none (not Linux), the answer is no.
    """
    with contextlib.suppress(OSError, UnicodeDecodeError):
        for line in cpuinfo.read_text(encoding="utf-8").splitlines():
            name, _, flags = line.partition(":")
            if name.strip() == "flags":
                found = set(flags.split())
                without = "avx2" in found and BYTE_PRODUCTS.isdisjoint(found)
                return without or ("avx512_vnni" in found and "amx_int8" not in found)
    return False


def _groups(cgroup: Path, membership: Path) -> set[Path]:
    """Return the folders of this process's groups and of all groups above them.

    In a container they are mounted as its root; a service of systemd is far below.
    """
    folders = {cgroup, cgroup / "cpu"}
    with contextlib.suppress(OSError, ValueError):
        for line in membership.read_text().splitlines():
            number, controllers, name = line.split(":", 2)
            if number != "0" and "cpu" not in controllers.split(","):
                continue
            root = cgroup if number == "0" else cgroup / "cpu"  # version 2, version 1
            path = root / name.strip("/")
            folders |= {path, *(p for p in path.parents if root in p.parents)}
    return folders


def _quotas(folder: Path) -> list[float]:
    """Return the quota of a group in CPUs (cgroup v2, else v1), [] where there is none."""
    with contextlib.suppress(OSError, ValueError):
        quota, period = (folder / "cpu.max").read_text().split()
        return [] if quota == "max" else [int(quota) / int(period)]
    with contextlib.suppress(OSError, ValueError):
        used = int((folder / "cpu.cfs_quota_us").read_text())
        period_us = int((folder / "cpu.cfs_period_us").read_text())
        return [used / period_us] if used > 0 else []
    return []
