"""The machine that a result was measured on."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
from pathlib import Path
from typing import Any

from dvfl_bench.device.jetson import board, describe_jetson, text_of
from dvfl_runtime.engines.cpus import usable_cpus

PACKAGES = (
    *("dvfl", "numpy", "onnxruntime", "onnxruntime-gpu", "openvino", "tensorrt"),
    *("opencv-python-headless", "opencv-python", "av", "torch", "onnx"),
)
# those of a processor's many flags that decide how fast a network runs on it
FLAGS = {
    *("avx", "avx2", "fma", "f16c", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16"),
    *("amx_int8", "amx_bf16"),
    *("asimd", "asimdhp", "asimddp", "i8mm", "bf16", "sve"),  # Arm
}


def installed(package: str) -> str:
    """Return the version of a package, "" if it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def describe_machine(threads: int, root: Path = Path("/")) -> dict[str, Any]:
    """Return processor, memory, load, versions and a Jetson's own facts, ready for JSON.

    Nothing in it names the host. A value that the machine does not tell is `None`.

    Args:
        threads: of the engines.
        root: folder of the system's files.
    """
    fields = _cpuinfo(root)
    # "flags" on x86, "Features" on Arm
    flags = {*fields.get("flags", "").split(), *fields.get("Features", "").split()}
    memory = re.search(r"MemTotal:\s+(\d+) kB", text_of(root / "proc/meminfo"))
    limit = text_of(root / "sys/fs/cgroup/memory.max")  # "max" where there is none
    system = re.search(r'PRETTY_NAME="([^"]*)"', text_of(root / "etc/os-release"))
    governor = text_of(root / "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
    return {
        "cpu": fields.get("model name") or platform.processor() or platform.machine(),
        "board": board(root),
        "flags": sorted(flags & FLAGS),
        "virtual": "hypervisor" in flags,
        "architecture": platform.machine(),
        "cores": os.cpu_count(),
        "usable_cpus": usable_cpus(),
        "threads": threads,
        "governor": governor or None,
        "memory_gb": round(int(memory.group(1)) / 2**20, 1) if memory else None,
        "memory_limit_gb": round(int(limit) / 2**30, 1) if limit.isdigit() else None,
        "system": f"{system.group(1) if system else platform.system()}, {platform.release()}",
        "load_1min": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "python": platform.python_version(),
        "versions": {name: version for name in PACKAGES if (version := installed(name))},
        "jetson": describe_jetson(root),
    }


def _cpuinfo(root: Path) -> dict[str, str]:
    """Return the fields of the first processor."""
    fields: dict[str, str] = {}
    for line in text_of(root / "proc/cpuinfo").splitlines():
        name, _, value = line.partition(":")
        fields.setdefault(name.strip(), value.strip())
    return fields
