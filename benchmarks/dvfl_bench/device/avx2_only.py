"""Run a command as on a CPU with AVX2 and nothing newer: no AVX-512, no VNNI, no AMX.

    python -m dvfl_bench.device.avx2_only COMMAND [ARGUMENT ...]

onnxruntime and OpenVINO ask the CPU what it can do and cannot be told otherwise. So they run here
from a copy in which that question is answered without what is newer, and so does dvfl-kernels, and
a library that the command names with `--library`. /proc/cpuinfo says the same; results name what
was hidden. The clock, the caches and the width of the CPU's units stay what they are: a real CPU
with AVX2 alone is another one.

It needs Linux on x86-64, a C compiler, objdump, and the right to mount (root, or user namespaces).
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from dvfl_bench.device.machine import HIDDEN_FLAGS
from dvfl_runtime.arguments import Parser
from dvfl_runtime.errors import DvflError

NEWER = re.compile(r"\b(avx512\w*|avx_vnni\w*|avx_ifma|avx_ne_convert|avx10\w*|amx_\w+)\b")
# package -> its libraries that ask
ASKING = {
    "onnxruntime": "capi/*onnxruntime*.so*",
    "openvino": "libs/libopenvino*.so*",
    "dvfl_kernels": "*.so",
}
# libraries that can be told: oneDNN, MKL, OpenBLAS and PyTorch
TOLD = {
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "MKL_ENABLE_INSTRUCTIONS": "AVX2",
    "OPENBLAS_CORETYPE": "Haswell",
    "ATEN_CPU_CAPABILITY": "avx2",
}
CPUID, BREAKPOINT = b"\x0f\xa2", b"\xcc\x90"


def hide_newer(library: Path) -> int:
    """Put a breakpoint in place of each CPUID of a library; return how many there are.

    Raises:
        DvflError: if its code cannot be read.
    """
    data = bytearray(library.read_bytes())
    if CPUID not in data:
        return 0
    places = [
        (int(size, 16), int(address, 16), int(offset, 16))
        for size, address, offset in re.findall(
            r"^ *\d+ \S+ +([0-9a-f]+) +([0-9a-f]+) +[0-9a-f]+ +([0-9a-f]+)",
            _objdump("-h", library), re.MULTILINE,
        )
    ]  # fmt: skip
    found = re.findall(r"^ *([0-9a-f]+):\tcpuid", _objdump("-d", library), re.MULTILINE)
    for at in (int(text, 16) for text in found):
        begin, offset = next((a, o) for size, a, o in places if a and a <= at < a + size)
        data[at - begin + offset : at - begin + offset + 2] = BREAKPOINT
    library.write_bytes(data)
    return len(found)


def _objdump(what: str, library: Path) -> str:
    return _output("objdump", "--no-show-raw-insn", what, str(library))


def _output(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except FileNotFoundError as err:
        raise DvflError(f"{command[0]} is missing; install a C compiler and binutils") from err
    except subprocess.CalledProcessError as err:
        raise DvflError(f"{command[0]} failed: {err.stderr.strip()}") from err


def prepare(folder: Path, command: list[str]) -> list[str]:
    """Write the copies; return the command that uses them.

    Raises:
        DvflError: if a tool is missing.
    """
    source = Path(__file__).with_suffix(".c")
    preload = folder / "avx2_only.so"
    _output("cc", "-O2", "-shared", "-fPIC", str(source), "-o", str(preload))
    for package, pattern in ASKING.items():
        spec = importlib.util.find_spec(package)
        for place in spec.submodule_search_locations or [] if spec else []:
            copy = folder / "site" / package
            shutil.copytree(place, copy, dirs_exist_ok=True)
            for library in copy.glob(pattern):
                hide_newer(library)
    named = [at for at, word in enumerate(command[:-1], 1) if word == "--library"]
    for at in named:
        copy = folder / Path(command[at]).name
        shutil.copy(command[at], copy)
        hide_newer(copy)
        command = [*command[:at], str(copy), *command[at + 1 :]]
    shown = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    (folder / "cpuinfo").write_text(NEWER.sub("", shown), encoding="utf-8")
    hidden = ",".join(sorted({*NEWER.findall(shown)}))
    mount = 'mount --bind "$1" /proc/cpuinfo && shift && exec env "$@"'
    paths = [str(folder / "site"), *filter(None, [os.environ.get("PYTHONPATH")])]
    variables = {**TOLD, "LD_PRELOAD": preload, "PYTHONPATH": ":".join(paths),
                 HIDDEN_FLAGS: hidden}  # fmt: skip
    apart = ["unshare", "--mount", *(["--map-root-user"] if os.geteuid() else [])]
    settings = [f"{name}={value}" for name, value in variables.items()]
    return [*apart, "sh", "-c", mount, "sh", str(folder / "cpuinfo"), *settings, *command]


def main(argv: list[str] | None = None) -> int:
    """Run the command; return its exit status."""
    parser = Parser(
        prog="python -m dvfl_bench.device.avx2_only",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("command", nargs=argparse.REMAINDER, help="what to run, with its arguments")
    args = parser.parse_args(argv)
    if not args.command:
        parser.error("no command is given")
    with tempfile.TemporaryDirectory() as folder:
        try:
            command = prepare(Path(folder), args.command)
        except (DvflError, OSError) as err:
            return parser.fail(err)
        return subprocess.run(command, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
