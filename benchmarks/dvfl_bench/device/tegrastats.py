"""Power in one line of tegrastats, the monitor of Jetsons, in the formats of Nano, Xavier and Orin.

Written from the documented formats (Jetson Linux Developer Guide, "Tegrastats Utility").
Experimental: not yet run on a Jetson.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

# in every line; a line that was cut off lacks one of them
_RAM = re.compile(r"\bRAM (\d+)/(\d+)MB")
_CPU = re.compile(r"\bCPU \[([^\]]*)\]")
# "POM_5V_IN 1234/1180" on Nano, "VDD_IN 2868/2868" on Xavier, "VDD_IN 2383mW/2383mW" on Orin: the
# rail's power now and its mean. Orin's unit tells it from RAM; older lines have none, so the name
# must.
_RAIL = re.compile(r"\b((?:POM|VDD|VDDQ|VIN|GPU|CPU|SOC|CV|SYS5V|NC)[A-Z0-9_]*) (\d+)(?:mW)?/(\d+)")
_NOT_CONNECTED = "NC"
# the rail of the whole module, where there is one
INPUT_RAILS = ("VDD_IN", "POM_5V_IN", "VIN")


def rails_mw(line: str) -> dict[str, int]:
    """Return rail -> power now, mW.

    Raises:
        ValueError: if it is not a line of tegrastats.
    """
    if not (_RAM.search(line) and _CPU.search(line)):
        raise ValueError(f"not a line of tegrastats: {line[:80]!r}")
    rails = {name: int(now) for name, now, _mean in _RAIL.findall(line)}
    rails.pop(_NOT_CONNECTED, None)
    return rails


def total_w(rails: Mapping[str, float]) -> float | None:
    """Return the power of the module, W; `None` without rails.

    It is the input's rail, or else the sum of all: the boards of AGX Orin have no rail for the
    whole, and NVIDIA adds up the others.

    Args:
        rails: rail -> power, mW.
    """
    for name in INPUT_RAILS:
        if name in rails:
            return rails[name] / 1e3
    return sum(rails.values()) / 1e3 if rails else None
