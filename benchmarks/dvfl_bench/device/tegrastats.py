"""One line of tegrastats, the monitor of Jetsons, in the formats of Nano, Xavier and Orin.

Written from the documented formats (Jetson Linux Developer Guide, "Tegrastats Utility"); not yet
run on a Jetson.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

_RAM = re.compile(r"\bRAM (\d+)/(\d+)MB")
_CPU = re.compile(r"\bCPU \[([^\]]*)\]")
_LOAD = re.compile(r"(\d+)%@(\d+)")
_GPU = re.compile(r"\bGR3D_FREQ (\d+)%")
_TEMPERATURE = re.compile(r"\b([A-Za-z]\w*)@(-?\d+(?:\.\d+)?)C\b")
# "POM_5V_IN 1234/1180" on Nano, "VDD_IN 2868/2868" on Xavier, "VDD_IN 2383mW/2383mW" on Orin: the
# rail's power now and its mean. Units tell it from RAM; older lines have none, so the name must.
_RAIL = re.compile(r"\b((?:POM|VDD|VDDQ|VIN|GPU|CPU|SOC|CV|SYS5V|NC)[A-Z0-9_]*) (\d+)(?:mW)?/(\d+)")
_NOT_CONNECTED = "NC"
# the whole module, where a rail measures it
INPUT_RAILS = ("VDD_IN", "POM_5V_IN", "VIN")


@dataclass(frozen=True)
class TegraStats:
    """What one line says.

    Attributes:
        ram_mb: memory in use, shared by CPU and GPU.
        ram_total_mb: memory there is.
        cpu_percent: load of each core that is on.
        cpu_mhz: clock of each core that is on.
        gpu_percent: load of the GPU; `None` if the line has none.
        temperatures_c: sensor -> degrees Celsius.
        rails_mw: rail -> power now, mW.
    """

    ram_mb: int
    ram_total_mb: int
    cpu_percent: tuple[int, ...]
    cpu_mhz: tuple[int, ...]
    gpu_percent: int | None
    temperatures_c: Mapping[str, float]
    rails_mw: Mapping[str, int]

    @classmethod
    def parse(cls, line: str) -> TegraStats:
        """Reads a line.

        Raises:
            ValueError: if it is not one of tegrastats.
        """
        ram, cpu = _RAM.search(line), _CPU.search(line)
        if ram is None or cpu is None:
            raise ValueError(f"not a line of tegrastats: {line[:80]!r}")
        loads = [(int(load), int(mhz)) for load, mhz in _LOAD.findall(cpu.group(1))]
        gpu = _GPU.search(line)
        rails = {name: int(now) for name, now, _mean in _RAIL.findall(line)}
        rails.pop(_NOT_CONNECTED, None)
        return cls(
            ram_mb=int(ram.group(1)),
            ram_total_mb=int(ram.group(2)),
            cpu_percent=tuple(load for load, _ in loads),
            cpu_mhz=tuple(mhz for _, mhz in loads),
            gpu_percent=None if gpu is None else int(gpu.group(1)),
            temperatures_c={name: float(c) for name, c in _TEMPERATURE.findall(line)},
            rails_mw=rails,
        )


def total_w(rails_mw: Mapping[str, float]) -> float | None:
    """Power of the module, W: the rail of its input, or else the sum of all; `None` without any.

    The boards of AGX Orin have no rail for the whole; NVIDIA adds those up that there are.
    """
    for name in INPUT_RAILS:
        if name in rails_mw:
            return rails_mw[name] / 1e3
    return sum(rails_mw.values()) / 1e3 if rails_mw else None
