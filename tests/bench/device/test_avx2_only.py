"""A CPU with AVX2 and nothing newer, as the libraries that ask see it."""

import ctypes
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from dvfl_bench.device import avx2_only
from dvfl_bench.device.avx2_only import NEWER, hide_newer, prepare

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() != "x86_64" or not shutil.which("objdump"),
    reason="Linux on x86-64, and objdump",
)

ASKING = """
#include <cpuid.h>
unsigned int asked(unsigned int leaf, int which) {
  unsigned int r[4] = {0};
  __cpuid_count(leaf, 0, r[0], r[1], r[2], r[3]);
  return r[which];
}
"""
PROGRAM = """
import ctypes, sys
asked = ctypes.CDLL(sys.argv[1]).asked
print(asked(7, 1), asked(7, 2), asked(1, 2))
"""


@pytest.fixture(name="asking")
def _asking(tmp_path: Path) -> Path:
    library = tmp_path / "asking.so"
    command = ["cc", "-O2", "-shared", "-fPIC", "-x", "c", "-", "-o", str(library)]
    subprocess.run(command, input=ASKING, text=True, check=True)
    return library


def test_a_library_that_asks_is_not_told_of_avx512(
    asking: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = ctypes.CDLL(str(asking)).asked
    copy = tmp_path / "copy.so"
    shutil.copy(asking, copy)
    assert hide_newer(copy) == 1

    monkeypatch.setattr(avx2_only, "ASKING", {})
    (tmp_path / "run").mkdir()
    program = [sys.executable, "-c", PROGRAM, "--library", str(asking)]
    command = prepare(tmp_path / "run", program)
    preload = next(word for word in command if word.startswith("LD_PRELOAD="))
    told = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(copy)],
        env={**os.environ, "LD_PRELOAD": preload.partition("=")[2]},
        capture_output=True, text=True, check=True,
    ).stdout.split()  # fmt: skip
    of_7_b, of_7_c, of_1_c = map(int, told)
    assert of_7_b & (1 << 16 | 1 << 30 | 1 << 31) == 0  # AVX512F, BW, VL
    assert of_7_c & 1 << 11 == 0  # VNNI
    assert of_7_b & 1 << 5 == mine(7, 1) & 0xFFFFFFFF & 1 << 5  # AVX2
    assert of_1_c & 1 << 12 == mine(1, 2) & 0xFFFFFFFF & 1 << 12  # FMA
    assert command[-1] == str(tmp_path / "run/asking.so")  # --library names a copy of its own
    flags = "fma avx2 avx512f avx512_vnni avx_vnni amx_tile"
    assert NEWER.sub("", flags).split() == ["fma", "avx2"]
