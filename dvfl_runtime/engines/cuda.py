"""Whether an NVIDIA GPU can really be used: the driver is asked, not the packages.

Experimental: not yet run on a GPU.
"""

from __future__ import annotations

import ctypes
import sys
from typing import Any

LIBRARY = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
MULTIPROCESSOR_COUNT = 16  # CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT


def cuda_problem() -> str | None:
    """Return why CUDA cannot be used here, None if it can.

    onnxruntime-gpu lists its CUDA provider on machines without any GPU; only the driver knows.
    """
    try:
        code = ctypes.CDLL(LIBRARY).cuInit(0)
    except (OSError, AttributeError):  # AttributeError: another library of that name
        return f"no NVIDIA driver ({LIBRARY} cannot be loaded)"
    return None if code == 0 else f"the NVIDIA driver finds no GPU (cuInit gave {code})"


def gpu_model() -> str:
    """Return the model of the GPU that CUDA lists first, such as "Orin with 8 multiprocessors".

    The name alone is "Orin" on all of the modules, from Orin Nano (4 or 8) to AGX Orin (16).

    Raises:
        OSError: if there is no driver; see `cuda_problem`.
    """
    driver: Any = ctypes.CDLL(LIBRARY)
    device, count = ctypes.c_int(), ctypes.c_int()
    name = ctypes.create_string_buffer(128)
    driver.cuInit(0)
    driver.cuDeviceGet(ctypes.byref(device), 0)
    driver.cuDeviceGetName(name, len(name), device)
    driver.cuDeviceGetAttribute(ctypes.byref(count), MULTIPROCESSOR_COUNT, device)
    return f"{name.value.decode(errors='replace').strip()} with {count.value} multiprocessors"
