"""One NVIDIA GPU by way of the CUDA driver: its memory, copies and a stream.

`cuda.bindings.driver` needs the driver alone, no CUDA toolkit, and its names are the same from
cuda-bindings 12 to 13. Experimental: not yet run on a GPU.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dvfl_runtime.errors import EngineUnavailable


class Gpu:
    """The first GPU that CUDA shows to this process (CUDA_VISIBLE_DEVICES chooses).

    Memory and stream live in the device's primary context, the one that TensorRT uses too.

    Args:
        driver: the module `cuda.bindings.driver`.

    Raises:
        EngineUnavailable: here and in each method, if the driver refuses.

    Attributes:
        compute_capability: such as "8.7".
        stream: handle of the stream that `upload` and `download` use.
    """

    def __init__(self, driver: ModuleType) -> None:
        self._driver: Any = driver
        self._call("cuInit", 0)
        self._device = self._call("cuDeviceGet", 0)
        self.compute_capability = ".".join(
            str(self._attribute(f"CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_{part}"))
            for part in ("MAJOR", "MINOR")
        )
        self._context = self._call("cuDevicePrimaryCtxRetain", self._device)
        self.make_current()
        self._stream = self._call("cuStreamCreate", 1)  # CU_STREAM_NON_BLOCKING
        self.stream = int(self._stream)

    def make_current(self) -> None:
        """Bind this GPU to the calling thread; every thread that uses it must do so once."""
        self._call("cuCtxSetCurrent", self._context)

    def free_bytes(self) -> int:
        """Return how many bytes of the GPU's memory are free now."""
        free, _total = self._call("cuMemGetInfo")
        return int(free)

    def allocate(self, size_bytes: int) -> int:
        """Return the address of new memory on the GPU."""
        return int(self._call("cuMemAlloc", size_bytes))

    def release(self, address: int) -> None:
        """Give memory back."""
        self._call("cuMemFree", address)

    def upload(self, address: int, values: NDArray[Any]) -> None:
        """Copy a contiguous array to the GPU, in the order of the stream."""
        args = address, values.ctypes.data, values.nbytes, self._stream
        self._call("cuMemcpyHtoDAsync", *args)

    def download(self, values: NDArray[np.float32], address: int) -> None:
        """Fill a contiguous array from the GPU; block until all work on the stream is done."""
        args = values.ctypes.data, address, values.nbytes, self._stream
        self._call("cuMemcpyDtoHAsync", *args)
        self._call("cuStreamSynchronize", self._stream)

    def close(self) -> None:
        """End the stream and give the context back; call it once."""
        self.make_current()
        self._call("cuStreamDestroy", self._stream)
        self._call("cuDevicePrimaryCtxRelease", self._device)

    def _attribute(self, name: str) -> int:
        which = getattr(self._driver.CUdevice_attribute, name)
        return int(self._call("cuDeviceGetAttribute", which, self._device))

    def _call(self, name: str, *args: Any) -> Any:
        """Call the driver; return its results without the status: None, a value or a tuple."""
        status, *values = getattr(self._driver, name)(*args)
        if int(status) != 0:
            raise EngineUnavailable(
                f"the GPU cannot be used: {name} gave {getattr(status, 'name', status)}; "
                f"check the GPU with nvidia-smi (on a Jetson: tegrastats)"
            )
        if len(values) > 1:
            return tuple(values)
        return values[0] if values else None
