"""Whether an NVIDIA GPU can really be used: the driver is asked, not the packages."""

from __future__ import annotations

import ctypes
import sys


def cuda_problem() -> str | None:
    """Returns why CUDA cannot be used here, None if it can.

    onnxruntime-gpu lists its CUDA provider on machines without any GPU; only the driver knows.
    """
    library = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
    try:
        driver = ctypes.CDLL(library)
    except OSError:
        return f"no NVIDIA driver ({library} cannot be loaded)"
    code = driver.cuInit(0)
    return None if code == 0 else f"the NVIDIA driver finds no GPU (cuInit gave {code})"
