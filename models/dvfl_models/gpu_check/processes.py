"""Parts of `make gpu-check` that other packages measure, each in a process of its own.

Training knows neither the engines nor the kernels, so it starts them by name. A process may end
without an answer, as TensorRT does when it fails, and is stopped when its time is over.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from dvfl_runtime.files import write_json

# the module of each part writes the file of `--json` anew with each row
MODULES = {
    "engines": "dvfl_bench.comparisons.gpu_engines",
    "kernels": "dvfl_kernels.gpu_check",
}


def run_process(part: str, path: Path, seconds: float, *, tiny: bool) -> dict[str, Any]:
    """Run a part, and return what is in its file; why it ended early is its last row.

    Args:
        part: one of `MODULES`.
        path: of its results.
        seconds: stop it after so long.
        tiny: its small form.
    """
    path.unlink(missing_ok=True)
    module = MODULES[part]
    reason = ""
    if importlib.util.find_spec(module.partition(".")[0]) is None:
        reason = f"the package {module.partition('.')[0]} is not installed"
    else:
        command = [sys.executable, "-m", module, "--json", str(path), *(["--tiny"] if tiny else [])]
        try:
            status = subprocess.run(command, timeout=seconds, check=False).returncode
            reason = f"its process ended with status {status}" if status else ""
        except subprocess.TimeoutExpired:
            reason = f"stopped after {seconds:.0f} s; --seconds {part}=N gives it more"
    found: dict[str, Any] = {"part": part, "rows": []}
    if path.exists():
        found = json.loads(path.read_text(encoding="utf-8"))
    if reason:
        found["rows"].append({"row": part, "reason": reason})
        write_json(path, found)
    return found
