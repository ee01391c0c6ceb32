"""Lines of tegrastats as the documentation shows them for three generations of Jetsons."""

from __future__ import annotations

import pytest

from dvfl_bench.device.tegrastats import rails_mw, total_w

NANO = (
    "RAM 1542/3964MB (lfb 330x4MB) SWAP 0/1982MB (cached 0MB) IRAM 0/252kB(lfb 252kB) "
    "CPU [13%@102,8%@102,0%@102,0%@102] EMC_FREQ 4%@204 GR3D_FREQ 12%@76 APE 25 PLL@23.5C "
    "CPU@26C PMIC@100C GPU@24C AO@31C thermal@25.25C POM_5V_IN 1234/1180 POM_5V_GPU 40/40 "
    "POM_5V_CPU 123/120"
)
XAVIER_NX = (
    "RAM 2460/7771MB (lfb 1x2MB) SWAP 0/3885MB (cached 0MB) "
    "CPU [3%@1190,1%@1190,off,off,0%@1190,2%@1190] EMC_FREQ 0%@1600 GR3D_FREQ 0%@114 "
    "VIC_FREQ 0%@115 APE 150 MTS fg 0% bg 0% AO@38.5C GPU@38C PMIC@50C AUX@37.5C CPU@39.5C "
    "thermal@38.35C VDD_IN 2868/2868 VDD_CPU_GPU_CV 414/414 VDD_SOC 906/906"
)
XAVIER_AGX = (
    "RAM 1903/31919MB (lfb 6656x4MB) CPU [0%@1190,off,off,0%@1190] EMC_FREQ 1%@665 "
    "GR3D_FREQ 99%@318 APE 150 MTS fg 0% bg 0% AO@33C GPU@32.5C Tdiode@35.5C PMIC@100C "
    "CPU@33.5C thermal@33C GPU 310/155 CPU 311/311 SOC 622/622 CV 0/0 VDDRQ 155/155 SYS5V 1488/1488"
)
ORIN = (
    "12-06-2022 17:01:02 RAM 2518/30536MB (lfb 6x4MB) SWAP 0/15268MB (cached 0MB) "
    "CPU [5%@729,0%@729,off,0%@2201] EMC_FREQ 0%@2133 GR3D_FREQ 37%@[305,0] NVENC off APE 174 "
    "CV0@-256C CPU@46.625C SOC2@43.9C tj@46.625C VDD_GPU_SOC 2383mW/2380mW "
    "VDD_CPU_CV 794mW/794mW VIN_SYS_5V0 3165mW/3160mW NC 0mW/0mW"
)
ORIN_NANO = (
    "RAM 1800/7620MB (lfb 10x4MB) SWAP 0/3810MB (cached 0MB) CPU [1%@729,0%@729] "
    "GR3D_FREQ 0% cpu@47.3C tj@49.5C VDD_IN 4713mW/4713mW VDD_CPU_GPU_CV 483mW/483mW "
    "VDD_SOC 1450mW/1450mW"
)


@pytest.mark.parametrize(
    ("line", "watts"),
    [(NANO, 1.234), (XAVIER_NX, 2.868), (XAVIER_AGX, 2.886), (ORIN, 6.342), (ORIN_NANO, 4.713)],
    ids=["nano", "xavier nx", "xavier agx", "agx orin", "orin nano"],
)
def test_power_of_the_module(line: str, watts: float) -> None:
    assert total_w(rails_mw(line)) == pytest.approx(watts)


def test_memory_is_no_rail_and_what_is_not_connected_is_left_out() -> None:
    assert set(rails_mw(ORIN)) == {"VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"}
    assert set(rails_mw(XAVIER_AGX)) == {*("GPU", "CPU", "SOC", "CV", "VDDRQ", "SYS5V")}


def test_the_input_counts_where_it_is_measured() -> None:
    assert total_w({"VDD_IN": 5000, "VDD_SOC": 900}) == 5
    assert total_w({"VDD_GPU_SOC": 2000, "VDD_CPU_CV": 500}) == 2.5
    assert total_w({}) is None


@pytest.mark.parametrize("line", ["", "RAM 1/2MB", "tegrastats: command not found", NANO[:40]])
def test_other_lines_are_refused(line: str) -> None:
    with pytest.raises(ValueError, match="not a line of tegrastats"):
        rails_mw(line)
