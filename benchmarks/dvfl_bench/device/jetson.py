"""Facts about a Jetson: module, release, power mode, clocks, temperatures.

Every function takes the root folder of the system's files, so that tests can bring their own.
Written from NVIDIA's documentation. Experimental: not yet run on a Jetson.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

# major version of Jetson Linux (L4T) -> that of JetPack
JETPACK = {32: 4, 34: 5, 35: 5, 36: 6, 38: 7}
_RELEASE = re.compile(r"R(\d+) \(release\), REVISION: (\d+(?:\.\d+)*)")
_MODE = re.compile(r"NV Power Mode:\s*(\S+)\s+(\d+)")

RunCommand = Callable[[Sequence[str]], str]


def command_output(command: Sequence[str]) -> str:
    """Return the output of a command; "" if it is missing, fails or takes more than 5 s."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=5, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout


def text_of(path: Path) -> str:
    """Return the stripped text of a small file, "" if it cannot be read."""
    try:
        # the texts of the device tree end in a NUL
        return path.read_text(errors="replace").strip().strip("\0")
    except OSError:
        return ""


def describe_jetson(
    root: Path = Path("/"), run: RunCommand = command_output
) -> dict[str, Any] | None:
    """Return module, release, power mode and whether the clocks are held.

    `None` on any other machine; a value in the result is `None` where the device does not tell it.
    """
    release = text_of(root / "etc/nv_tegra_release")
    if not release:
        return None
    found = _RELEASE.search(release)
    major = int(found.group(1)) if found else 0
    mode = _MODE.search(run(["nvpmodel", "-q"]))
    return {
        "module": board(root),
        "l4t": f"{found.group(1)}.{found.group(2)}" if found else None,
        "jetpack": JETPACK.get(major),
        "power_mode": {"name": mode.group(1), "id": int(mode.group(2))} if mode else None,
        "clocks_held": clocks_held(root),
    }


def board(root: Path = Path("/")) -> str | None:
    """Return the board's name in the device tree, such as "Raspberry Pi 5 Model B Rev 1.0"."""
    return text_of(root / "proc/device-tree/model") or None


def clocks_held(root: Path = Path("/")) -> bool | None:
    """Return whether jetson_clocks holds all cores at one clock; `None` if no file tells it."""
    # jetson_clocks raises each lower limit to the upper one, so that the governor has no choice
    policies = sorted((root / "sys/devices/system/cpu/cpufreq").glob("policy*"))
    limits = [
        (text_of(policy / "scaling_min_freq"), text_of(policy / "scaling_max_freq"))
        for policy in policies
    ]
    if not limits or not all(low and high for low, high in limits):
        return None
    return all(low == high for low, high in limits)


def temperatures_c(root: Path = Path("/")) -> dict[str, float]:
    """Return thermal zone -> degrees Celsius; empty where there are none. Works on any Linux."""
    zones = {}
    for zone in sorted((root / "sys/class/thermal").glob("thermal_zone*")):
        name, value = text_of(zone / "type"), text_of(zone / "temp")
        # a zone that is powered off gives an empty text
        if name and re.fullmatch(r"-?\d+", value):
            zones[name] = int(value) / 1e3
    return zones
