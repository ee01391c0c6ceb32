"""Energy of work, where a machine measures power: RAPL on x86, the rails of a Jetson.

Power is read before the work, when nothing runs, and during it. The difference is the power of the
work: energy = (mean power during - idle power) x time.
It is that of rails within the machine, not of the wall: what the power supply, the fan, the disk
and the camera take is not in it. Experimental: not yet run on a Jetson.
"""

from __future__ import annotations

import contextlib
import statistics
import subprocess
import threading
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from dvfl_bench.device.jetson import text_of
from dvfl_bench.device.tegrastats import rails_mw, total_w

SAMPLE_S = 0.1
SCOPE = "rail, not wall"  # beside every power and energy
METHOD = (
    "mean power during the work less the mean power of the idle machine before it, times the "
    "time, over the clips"
)


class Meter(Protocol):
    """A meter measures power between `start` and `stop`."""

    @property
    def name(self) -> str:
        """Name of the sensors, such as "rapl package-0"."""

    def start(self) -> None:
        """Begin."""

    def stop(self) -> float:
        """End, and return the mean power since `start`, W."""


class RaplMeter:
    """The energy counters of x86 processors; other parts of the machine are not in them.

    Args:
        zones: folders of the packages.
        clock: seconds.
    """

    def __init__(
        self, zones: Sequence[Path], clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self.name = "rapl " + " ".join(text_of(zone / "name") for zone in zones)
        self._zones = zones
        self._clock = clock
        self._begin: tuple[float, list[int]] = (0.0, [])

    @classmethod
    def find(cls, root: Path = Path("/")) -> RaplMeter | None:
        """Return a meter of the packages whose counters may be read; often only root may."""
        zones = [
            zone
            for zone in sorted((root / "sys/class/powercap").glob("intel-rapl:*"))
            if zone.name.count(":") == 1 and text_of(zone / "energy_uj").isdigit()
        ]
        return cls(zones) if zones else None

    def start(self) -> None:
        """See Meter."""
        self._begin = self._clock(), self._energies_uj()

    def stop(self) -> float:
        """See Meter. A counter may have begun again from 0 once."""
        begin_s, before = self._begin
        used = 0
        for zone, old, new in zip(self._zones, before, self._energies_uj(), strict=True):
            largest = int(text_of(zone / "max_energy_range_uj") or 0)  # then it begins again at 0
            used += new - old if new >= old else new - old + largest
        return used / 1e6 / (self._clock() - begin_s)

    def _energies_uj(self) -> list[int]:
        return [int(text_of(zone / "energy_uj")) for zone in self._zones]


class Ina3221Meter:
    """The INA3221 sensors of a Jetson by sysfs: volts times amperes of each rail, sampled.

    Args:
        channels: for each rail its name, and the files of its voltage and its current.
    """

    def __init__(self, channels: Sequence[tuple[str, Path, Path]]) -> None:
        self.name = "ina3221 " + " ".join(name for name, _, _ in channels)
        self._channels = channels
        self._watts: list[float] = []
        self._done = threading.Event()
        self._thread: threading.Thread | None = None

    @classmethod
    def find(cls, root: Path = Path("/")) -> Ina3221Meter | None:
        """Return a meter of the rails with a name, a voltage and a current."""
        channels = []
        for label in sorted((root / "sys/class/hwmon").glob("hwmon*/in*_label")):
            number = label.name[len("in") : -len("_label")]
            volts, amperes = (label.with_name(f"{of}{number}_input") for of in ("in", "curr"))
            sensor = text_of(label.with_name("name"))
            if sensor.startswith("ina3221") and text_of(volts) and text_of(amperes):
                channels.append((text_of(label), volts, amperes))
        return cls(channels) if channels else None

    def power_w(self) -> float:
        """Return the power of the module now, W."""
        rails = {  # mV x mA = uW
            name: int(text_of(millivolts)) * int(text_of(milliamperes)) / 1e3
            for name, millivolts, milliamperes in self._channels
        }
        return total_w(rails) or 0.0

    def start(self) -> None:
        """See Meter."""
        self._watts, self._done = [self.power_w()], threading.Event()
        self._thread = threading.Thread(target=self._sample, name="dvfl-power", daemon=True)
        self._thread.start()

    def stop(self) -> float:
        """See Meter."""
        self._done.set()
        if self._thread is not None:
            self._thread.join()
        return statistics.fmean(self._watts)

    def _sample(self) -> None:
        while not self._done.wait(SAMPLE_S):
            self._watts.append(self.power_w())


class TegrastatsMeter:
    """The rails of a Jetson by the command tegrastats, where sysfs does not show them."""

    def __init__(self, command: Sequence[str] = ("tegrastats", "--interval", "100")) -> None:
        self.name = "tegrastats"
        self._command = command
        self._process: subprocess.Popen[str] | None = None

    @classmethod
    def find(cls) -> TegrastatsMeter | None:
        """Return a meter, if the command's first lines name the power of rails."""
        meter = cls()
        with contextlib.suppress(OSError, ValueError):
            meter.start()
            time.sleep(3 * SAMPLE_S)
            meter.stop()
            return meter
        return None

    def start(self) -> None:
        """See Meter.

        Raises:
            OSError: if there is no such command.
        """
        self._process = subprocess.Popen(
            self._command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )

    def stop(self) -> float:
        """See Meter.

        Raises:
            ValueError: if no line names the power of a rail.
        """
        assert self._process is not None
        self._process.terminate()
        lines, _ = self._process.communicate()
        watts = []
        for line in lines.splitlines():
            with contextlib.suppress(ValueError):  # the last line may be cut off
                watts.append(total_w(rails_mw(line)))
        known = [value for value in watts if value is not None]
        if not known:
            raise ValueError("tegrastats tells of no power")
        return statistics.fmean(known)


def find_meter(root: Path = Path("/")) -> Meter | None:
    """Return the best meter of this machine, `None` if it has none that may be read."""
    return Ina3221Meter.find(root) or RaplMeter.find(root) or TegrastatsMeter.find()


@dataclass
class Energy:
    """The energy of several pieces of work on one machine.

    Attributes:
        meter: of the power; with `None` nothing is known.
        idle_w: power of the idle machine.
        watts: piece of work -> mean power while it ran.
    """

    meter: Meter | None
    idle_w: float | None = None
    watts: dict[Hashable, float] = field(default_factory=dict)

    def measure_idle(self, seconds: float) -> None:
        """Take the mean power of the next seconds as that of the idle machine."""
        if self.meter is not None:
            self.meter.start()
            time.sleep(seconds)
            self.idle_w = self.meter.stop()

    @contextmanager
    def of(self, work: Hashable) -> Iterator[None]:
        """Measure the power of a piece of work, under a name for it."""
        if self.meter is None:
            yield
            return
        self.meter.start()
        try:
            yield
        finally:
            self.watts[work] = self.meter.stop()

    def per_clip(self, work: Hashable, seconds_per_clip: float) -> dict[str, float | str] | None:
        """Return the energy of a clip (J) and clips per second for each watt, `None` if unknown."""
        if work not in self.watts or self.idle_w is None:
            return None
        above_w = max(0.0, self.watts[work] - self.idle_w)
        joules = above_w * seconds_per_clip
        return {
            "scope": SCOPE,
            "power_w": round(self.watts[work], 2),
            "above_idle_w": round(above_w, 2),
            "joules_per_clip": round(joules, 4),
            "clips_per_s_per_w": round(1 / joules, 3) if joules else 0.0,
        }

    def report(self) -> dict[str, Any]:
        """Return the meter, the method and the idle power, ready for JSON."""
        if self.meter is None:
            return {"meter": None, "why": "this machine has no power sensor that may be read"}
        idle_w = None if self.idle_w is None else round(self.idle_w, 2)
        return {"meter": self.meter.name, "scope": SCOPE, "method": METHOD, "idle_w": idle_w}
