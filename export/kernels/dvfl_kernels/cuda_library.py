"""The CUDA kernels without an engine: built from their sources, called with pointers.

With nvcc they run on a GPU. A C++ compiler builds them against src/cuda/emulation, and they run on
the CPU, slowly and with every index that a GPU would compute.
"""

from __future__ import annotations

import ctypes
import math
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

SOURCES = Path(__file__).resolve().parent.parent / "src" / "cuda"
FILES = ("spatial.cu", "temporal.cu", "bias_gelu.cu", "c_api.cu")
NAMES = ("SpatialContext", "TemporalContext")
MAX_LEVELS = 8  # kMaxLevels in contexts.h


class CannotBuild(Exception):
    """Why the kernels cannot be built here."""


@dataclass(frozen=True)
class Sizes:
    """The sizes of a context node."""

    batch: int
    frames: int
    height: int
    width: int
    channels: int
    kernel_sizes: tuple[int, ...]

    @property
    def tokens(self) -> int:
        """Tokens of one clip."""
        return self.frames * self.height * self.width

    @property
    def levels(self) -> int:
        """Levels of the node."""
        return len(self.kernel_sizes)

    def shapes(self, name: str) -> dict[str, tuple[int, ...]]:
        """Return the shapes of a node's inputs, by their names in the contract."""
        c, gates = self.channels, 2 * (self.levels + 1)
        shapes: dict[str, tuple[int, ...]] = {
            "context": (self.batch, self.tokens, c),
            "gates": (self.batch, self.tokens, gates),
        }
        if name == "TemporalContext":
            shapes["frame_bias"] = (1, c, self.frames, 1)
        for level, size in enumerate(self.kernel_sizes, 1):
            temporal = name == "TemporalContext"
            shapes[f"kernel_{level}"] = (c, c, size, 1) if temporal else (c, 1, size, size)
        return shapes

    def gate_offset(self, name: str) -> int:
        """Return the index of the first of a node's own gates."""
        return self.levels + 1 if name == "TemporalContext" else 0

    def bytes_moved(self, name: str, element: int) -> int:
        """Return the fewest bytes that a node can move: each input read and the output written."""
        output = self.batch * self.tokens * self.channels
        return element * (output + sum(map(math.prod, self.shapes(name).values())))


class CudaLibrary:
    """A built library.

    Args:
        path: of the file.
    """

    def __init__(self, path: Path) -> None:
        self._library = ctypes.CDLL(str(path))
        self._library.dvfl_why_not.restype = ctypes.c_char_p
        self._library.dvfl_error.restype = ctypes.c_char_p
        self._library.dvfl_workspace.restype = ctypes.c_size_t
        self._library.dvfl_bias_gelu.argtypes = [
            *[ctypes.c_void_p] * 3, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_void_p
        ]  # fmt: skip

    def why_not(self, name: str, sizes: Sizes) -> str | None:
        """Tell why a node cannot run, or return None."""
        reason: bytes | None = self._library.dvfl_why_not(_numbers(name, sizes))
        return reason.decode() if reason else None

    def workspace(self, name: str, sizes: Sizes, *, half: bool) -> int:
        """Return how many bytes of workspace a node needs."""
        return int(
            self._library.dvfl_workspace(NAMES.index(name), _numbers(name, sizes), int(half))
        )

    def context(
        self, name: str, sizes: Sizes, pointers: Sequence[int], *, half: bool, stream: int = 0
    ) -> None:
        """Start a context node.

        Args:
            name: of the node.
            sizes: of the node.
            pointers: of context, gates, frame bias (or 0), modulator, workspace, each kernel.
            half: whether elements are float16.
            stream: of CUDA.

        Raises:
            RuntimeError: if CUDA refuses it.
        """
        tensors = (ctypes.c_void_p * (5 + MAX_LEVELS))(*pointers)
        numbers = _numbers(name, sizes)
        self._check(
            self._library.dvfl_context(
                NAMES.index(name), numbers, int(half), tensors, ctypes.c_void_p(stream)
            )
        )

    def bias_gelu(
        self, pointers: Sequence[int], rows: int, features: int, *, half: bool, stream: int = 0
    ) -> None:
        """Start BiasGelu on the pointers of product (rows, features), bias and output.

        Raises:
            RuntimeError: if CUDA refuses it.
        """
        self._check(self._library.dvfl_bias_gelu(*pointers, rows, features, int(half), stream))

    def _check(self, error: int) -> None:
        if error:
            raise RuntimeError(self._library.dvfl_error(error).decode())


def _numbers(name: str, sizes: Sizes) -> ctypes.Array[ctypes.c_int]:
    values = [sizes.batch, sizes.frames, sizes.height, sizes.width, sizes.channels, sizes.levels]
    values += [sizes.gate_offset(name), *sizes.kernel_sizes]
    return (ctypes.c_int * (7 + max(MAX_LEVELS, sizes.levels)))(*values)


def build_for_gpu(target: Path, architecture: str, *, sources: Path = SOURCES) -> str:
    """Build the library with nvcc, and return what ptxas says of registers and memory.

    Args:
        target: the file to write.
        architecture: such as "sm_87". A kernel that spills registers fails the build.
        sources: the folder of the kernels.

    Raises:
        CannotBuild: if there is no nvcc, or it fails.
    """
    if not (nvcc := shutil.which("nvcc") or shutil.which("/usr/local/cuda/bin/nvcc")):
        raise CannotBuild("there is no nvcc")
    command = [nvcc, "-std=c++17", "-O3", f"-arch={architecture}"]
    command += ["-Xptxas=-v,-warn-spills,-Werror"]
    command += ["-Xcompiler=-fPIC,-Wall,-Wextra,-Werror", "--threads=4", "-shared"]
    return _compile([*command, *_files(sources), "-o", str(target)])


def build_emulated(target: Path, *options: str, sources: Path = SOURCES) -> None:
    """Build the library for the CPU.

    Args:
        target: the file to write.
        options: of the compiler, such as those of sanitizers.
        sources: the folder of the kernels.

    Raises:
        CannotBuild: if there is no C++ compiler, or it fails.
    """
    if not (compiler := shutil.which("g++")):
        raise CannotBuild("there is no g++")
    command = [compiler, "-std=c++17", "-O2", "-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas"]
    command += ["-fPIC", "-shared", f"-I{SOURCES / 'emulation'}", *options, "-x", "c++"]
    _compile([*command, *_files(sources), "-o", str(target)])


def _files(sources: Path) -> list[str]:
    if not sources.is_dir():
        raise CannotBuild("the sources of the kernels are not here: run it in a checkout of dvfl")
    return [str(sources / name) for name in FILES]


def _compile(command: Sequence[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        said = done.stderr.strip().splitlines()
        errors = [line for line in said if "error" in line] or said
        raise CannotBuild(f"{Path(command[0]).name} failed: {' '.join(errors)[:2000]}")
    return done.stdout + done.stderr
