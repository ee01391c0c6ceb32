"""Reads a model with the parser of TensorRT for RTX, builds it unless --parse, prints JSON.

    python tests/rtx_build.py FILE.onnx [--parse] [SM86 ...]

By the code that the engine runs on a device, but in a process of its own: what goes wrong inside
TensorRT may end the process.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

needs_rtx = pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx") is None, reason="tensorrt-rtx-cu13 is not installed"
)


def rtx_build(model: Path, *arguments: str) -> dict[str, Any]:
    """Runs this file; returns `error`, or `plan_bytes`, `timing_bytes` and `shares`."""
    command = [sys.executable, __file__, str(model), *arguments]
    found = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert found.returncode == 0, f"{found.returncode}: {found.stderr}"
    result: dict[str, Any] = json.loads(found.stdout)
    return result


def main(path: Path, *arguments: str) -> dict[str, Any]:
    """Builds for the compute capabilities among the arguments."""
    import tensorrt_rtx as trt

    from dvfl_runtime.artifact import ModelFile
    from dvfl_runtime.engines.plans import PlanBuilder
    from dvfl_runtime.errors import DvflError

    capabilities = [name for name in arguments if name != "--parse"]
    shares: list[float] = []
    try:
        builder = PlanBuilder(trt, ModelFile(path))
        if "--parse" in arguments:
            return {"plan_bytes": 0}
        builder.config.num_compute_capabilities = len(capabilities)
        for index, name in enumerate(capabilities):
            builder.config.set_compute_capability(getattr(trt.ComputeCapability, name), index)
        plan, timings = builder.build(progress=shares.append)
    except DvflError as err:
        return {"error": str(err)}
    return {"plan_bytes": len(plan), "timing_bytes": len(timings), "shares": shares}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main(Path(sys.argv[1]), *sys.argv[2:])))
