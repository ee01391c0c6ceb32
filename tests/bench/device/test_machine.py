"""The description of a machine: of this one, and of Jetsons by their documented files."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from dvfl_bench.device.jetson import clocks_held, describe_jetson, temperatures_c
from dvfl_bench.device.machine import describe_machine
from dvfl_bench.device.power import Energy, Ina3221Meter, RaplMeter, TegrastatsMeter

RELEASE = (
    "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64, "
    "DATE: Wed Jan  8 01:49:37 UTC 2025\n"
)


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def nvpmodel(command: Sequence[str]) -> str:
    assert command == ["nvpmodel", "-q"]
    return "NV Power Mode: MAXN_SUPER\n2\n"


def test_this_machine_is_described_without_invention() -> None:
    found = describe_machine(2)
    assert json.loads(json.dumps(found)) == found
    assert found["cpu"]
    assert found["memory_gb"] > 0.5
    assert 1 <= found["usable_cpus"] <= found["cores"]
    assert found["versions"]["onnxruntime"]
    assert found["jetson"] is None


def test_what_a_machine_does_not_tell_is_none(tmp_path: Path) -> None:
    found = describe_machine(1, tmp_path)
    assert found["governor"] is found["memory_gb"] is found["board"] is found["jetson"] is None
    assert found["flags"] == []


def test_a_raspberry_pi_and_its_limits(tmp_path: Path) -> None:
    files = {
        "proc/device-tree/model": "Raspberry Pi 5 Model B Rev 1.0\0",
        "proc/cpuinfo": "processor\t: 0\nFeatures\t: fp asimd asimdhp asimddp\n",
        "proc/meminfo": "MemTotal:        8245596 kB\n",
        "sys/fs/cgroup/memory.max": "2147483648\n",
        "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "ondemand\n",
        "etc/os-release": 'NAME="Debian"\nPRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\n',
    }
    found = describe_machine(4, write(tmp_path, files))
    assert found["board"] == "Raspberry Pi 5 Model B Rev 1.0"
    assert found["flags"] == ["asimd", "asimddp", "asimdhp"]
    assert (found["memory_gb"], found["memory_limit_gb"]) == (7.9, 2.0)
    assert found["governor"] == "ondemand"
    assert found["system"].startswith("Debian GNU/Linux 12 (bookworm), ")


def test_a_jetson_tells_its_release_module_mode_and_clocks(tmp_path: Path) -> None:
    policy = "sys/devices/system/cpu/cpufreq/policy0"
    files = {
        "etc/nv_tegra_release": RELEASE,
        "proc/device-tree/model": "NVIDIA Jetson Orin Nano Developer Kit\0",
        f"{policy}/scaling_min_freq": "1510400\n",
        f"{policy}/scaling_max_freq": "1510400\n",
    }
    assert describe_jetson(write(tmp_path, files), nvpmodel) == {
        "module": "NVIDIA Jetson Orin Nano Developer Kit",
        "l4t": "36.4.3",
        "jetpack": 6,
        "power_mode": {"name": "MAXN_SUPER", "id": 2},
        "clocks_held": True,
    }
    write(tmp_path, {f"{policy}/scaling_min_freq": "729600\n"})
    assert clocks_held(tmp_path) is False


def test_a_jetson_that_does_not_tell_its_mode(tmp_path: Path) -> None:
    root = write(tmp_path, {"etc/nv_tegra_release": "# R99 (release), REVISION: 1.0, GCID: 1"})
    found = describe_jetson(root, lambda _: "")
    assert found is not None
    assert found["l4t"] == "99.1.0"
    assert found["jetpack"] is found["power_mode"] is found["clocks_held"] is None


def test_temperatures(tmp_path: Path) -> None:
    zones = {
        "sys/class/thermal/thermal_zone0/type": "cpu-thermal\n",
        "sys/class/thermal/thermal_zone0/temp": "48312\n",
        "sys/class/thermal/thermal_zone1/type": "gpu-thermal\n",
        "sys/class/thermal/thermal_zone1/temp": "",  # asleep
    }
    assert temperatures_c(write(tmp_path, zones)) == {"cpu-thermal": 48.312}


def test_rapl_counts_over_a_turn_of_the_counter(tmp_path: Path) -> None:
    zone = "sys/class/powercap/intel-rapl:0"
    core = "sys/class/powercap/intel-rapl:0:0"  # a part of the package, not counted twice
    for folder, name in ((zone, "package-0"), (core, "core")):
        write(
            tmp_path,
            {
                f"{folder}/name": f"{name}\n",
                f"{folder}/energy_uj": "9000000\n",
                f"{folder}/max_energy_range_uj": "10000000\n",
            },
        )
    times = iter([0.0, 2.0])
    found = RaplMeter.find(tmp_path)
    assert found is not None
    meter = RaplMeter(found._zones, lambda: next(times))
    assert meter.name == "rapl package-0"
    meter.start()
    write(tmp_path, {f"{zone}/energy_uj": "5000000\n"})
    assert meter.stop() == pytest.approx(3.0)  # 6 J in 2 s
    assert RaplMeter.find(tmp_path / "none") is None


def test_the_sensors_of_a_jetson_are_volts_times_amperes(tmp_path: Path) -> None:
    sensor = "sys/class/hwmon/hwmon3"
    rails = {1: ("VDD_IN", 5000, 1000), 2: ("VDD_CPU_GPU_CV", 5000, 200)}
    files = {f"{sensor}/name": "ina3221\n"}
    for number, (name, millivolts, milliamperes) in rails.items():
        files[f"{sensor}/in{number}_label"] = name
        files[f"{sensor}/in{number}_input"] = f"{millivolts}\n"
        files[f"{sensor}/curr{number}_input"] = f"{milliamperes}\n"
    meter = Ina3221Meter.find(write(tmp_path, files))
    assert meter is not None
    assert meter.power_w() == 5.0
    meter.start()
    time.sleep(0.15)
    assert meter.stop() == pytest.approx(5.0)


def test_tegrastats_is_read_until_it_is_stopped(tmp_path: Path) -> None:
    script = tmp_path / "tegrastats"
    line = "RAM 1/2MB CPU [1%@1] VDD_IN {}mW/1mW"
    lines = "\\n".join([line.format(4000), line.format(6000), "RAM 1/2MB CPU [1%"])
    script.write_text(f"#!/bin/sh\nprintf '{lines.replace('%', '%%')}\\n'\nexec sleep 30\n")
    script.chmod(0o755)
    meter = TegrastatsMeter([str(script)])
    meter.start()
    time.sleep(0.5)
    assert meter.stop() == pytest.approx(5.0)


class Steady:
    """A meter whose power is known in advance."""

    name = "steady"

    def __init__(self, *watts: float) -> None:
        self.watts = list(watts)

    def start(self) -> None:
        pass

    def stop(self) -> float:
        return self.watts.pop(0)


def test_energy_is_what_the_work_adds_to_the_idle_machine() -> None:
    energy = Energy(Steady(4.0, 10.0))
    energy.measure_idle(0.0)
    with energy.of("nano"):
        pass
    assert energy.per_clip("nano", 0.05) == {
        "scope": "rail, not wall",
        "power_w": 10.0,
        "above_idle_w": 6.0,
        "joules_per_clip": 0.3,
        "clips_per_s_per_w": 3.333,
    }
    assert energy.per_clip("another", 0.05) is None
    assert energy.report()["idle_w"] == 4.0
    assert energy.report()["scope"] == "rail, not wall"


def test_without_a_meter_nothing_is_invented() -> None:
    energy = Energy(None)
    energy.measure_idle(60.0)
    with energy.of("nano"):
        pass
    assert energy.per_clip("nano", 0.05) is None
    assert "no power sensor" in energy.report()["why"]
