"""Peaks of devices that nobody here has, as published.

Dense rates: sparse ones are for weights of which half are zero, and no file here has such. Of a
Jetson the GPU counts, without the DLAs, which do not run these nodes.
"""

from __future__ import annotations

from dataclasses import dataclass, field

CUDA_CORE = 2  # operations per cycle in fp32: a fused multiply-add
NEON_FP32 = 2 * 4 * 2  # operations per cycle of a core: two pipes, four lanes, a multiply-add

ULTRALYTICS = (
    "Ultralytics, NVIDIA Jetson guide, table of devices (docs.ultralytics.com/guides/"
    "nvidia-jetson, as of 2025): CUDA cores, highest GPU clock, memory bandwidth"
)
HALF = "fp16 at half the rate of int8, as the tensor cores of Ampere do it"


@dataclass(frozen=True)
class Peaks:
    """What a device can do at most.

    Attributes:
        gflops: operations per nanosecond in dense products, by precision; a multiply-add is two.
        depthwise_gflops: of depthwise convolutions, in fp32 by the cores that are no matrix units.
        gb_s: memory bandwidth, 1e9 bytes a second.
        sources: where that is said, and when.
    """

    gflops: dict[str, float]
    depthwise_gflops: float
    gb_s: float
    sources: tuple[str, ...] = field(default=())


def _gpu(cores: int, ghz: float, fp16: float, int8: float, gb_s: float, *sources: str) -> Peaks:
    """Return the peaks of a GPU.

    fp32 counts on its CUDA cores, because the runtime switches TF32 off.

    Args:
        cores: CUDA cores.
        ghz: their highest clock.
        fp16: dense rate of its tensor cores, 1e12 operations a second.
        int8: the same.
        gb_s: memory bandwidth.
        sources: of all of it.
    """
    fp32 = cores * CUDA_CORE * ghz
    rates = {"fp32": fp32, "fp16": 1e3 * fp16, "int8": 1e3 * int8}
    return Peaks(rates, fp32, gb_s, sources)


PUBLISHED = {
    "Jetson Orin Nano Super 8GB": _gpu(
        *(1024, 1.020, 16.7, 33.4, 102.0),
        "NVIDIA Technical Blog, Jetson Orin Nano Developer Kit gets a Super boost (December 2024): "
        "67 TOPS of sparse int8, 33 dense, 102 GB/s",
        ULTRALYTICS,
        HALF,
    ),
    "Jetson Orin NX 16GB": _gpu(
        *(1024, 1.173, 19.2, 38.4, 102.4),
        "NVIDIA Technical Blog, JetPack 6.2 brings Super Mode (January 2025): 157 TOPS of sparse "
        "int8, 80 of them of the DLAs; GPU up to 1173 MHz",
        ULTRALYTICS,
        HALF,
    ),
    "Jetson AGX Orin 64GB": _gpu(
        *(2048, 1.3, 42.75, 85.5, 204.8),
        "NVIDIA, github.com/NVIDIA/Deep-Learning-Accelerator-SW, README (2023): 171 TOPS of sparse "
        "int8 of the GPU at MAXN",
        ULTRALYTICS,
        HALF,
    ),
    "Jetson AGX Thor (T5000)": _gpu(
        *(2560, 1.57, 258.5, 517.0, 273.0),
        "NVIDIA, Jetson Thor technical brief TB-12572-001 (August 2025): 2070 TFLOPS of sparse "
        "fp4, 517 of dense fp8 or int8, 258 of dense fp16, 1.57 GHz, 273 GB/s",
        ULTRALYTICS,
    ),
    "Raspberry Pi 5": Peaks(
        {
            precision: 4 * 2.4 * NEON_FP32 * k
            for precision, k in (("fp32", 1), ("fp16", 2), ("int8", 4))
        },
        4 * 2.4 * NEON_FP32,
        17.1,
        (
            "Raspberry Pi, product brief (2023): four Cortex-A76 at 2.4 GHz, LPDDR4X-4267; 32 bits "
            "wide, threedots.ovh (September 2023)",
            "Arm, Cortex-A76 Software Optimization Guide 8.0 (2019), and LLVM's model of the same "
            "pipes, AArch64SchedNeoverseN1.td (2023): two pipes of 128 bits, each a multiply-add "
            "of four fp32 or eight fp16 a cycle; a dot product of sixteen bytes counts as as fast",
        ),
    ),
}
