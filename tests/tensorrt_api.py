"""Writes tests/tensorrt_api.json: what TensorRT's own Python bindings can be asked for.

    python tests/tensorrt_api.py

The package `tensorrt` comes from outside the package index, its bindings do not: the wheel
`tensorrt-cu12-bindings` holds the real Python module. It can be imported on empty libraries that
define the nine C functions it links to, which is enough to read its classes. Needs a network, pip
and gcc.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import TypeAlias

Surface: TypeAlias = "dict[str, dict[str, list[str] | None]]"  # class -> member -> parameters

FILE = Path(__file__).with_suffix(".json")
VERSIONS = ("10.3.0", "10.16.1.11", "11.4.0.106")  # JetPack 6's, the last of 10, the newest
CLASSES = (
    "Builder", "BuilderFlag", "DataType", "IBuilderConfig", "ICudaEngine", "IExecutionContext",
    "IHostMemory", "ILogger", "INetworkDefinition", "IOptimizationProfile", "IPluginRegistry",
    "IProgressMonitor",
    "ITensor",    "ITimingCache", "MemoryPoolType", "NetworkDefinitionCreationFlag", "OnnxParser",
    "OnnxParserFlag", "ParserError", "Runtime", "TensorIOMode",
)  # fmt: skip
FUNCTIONS = (
    "createInferBuilder_INTERNAL", "createInferRefitter_INTERNAL", "createInferRuntime_INTERNAL",
    "createNvOnnxParserRefitter_INTERNAL", "createNvOnnxParser_INTERNAL",
    "getBuilderPluginRegistry", "getNvOnnxParserVersion", "getPluginRegistry",
    "initLibNvInferPlugins",
)  # fmt: skip


def main() -> None:
    """Reads each version in a process of its own and writes the file, a class to a line."""
    versions = []
    for version in VERSIONS:
        classes = [
            f"  {json.dumps(name)}: {json.dumps(members, separators=(',', ':'))}"
            for name, members in read_version(version).items()
        ]
        versions.append(f"{json.dumps(version)}: {{\n" + ",\n".join(classes) + "\n}")
    FILE.write_text("{\n" + ",\n".join(versions) + "\n}\n", encoding="utf-8")


def read_version(version: str) -> Surface:
    """Downloads the bindings of a version and returns its surface."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        wheel = f"tensorrt-cu12-bindings=={version}"
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        subprocess.run([*pip, "--only-binary=:all:", "--dest", folder, wheel], check=True)
        with zipfile.ZipFile(next(folder.glob("*.whl"))) as archive:
            archive.extractall(folder)
        source = "".join(f"void *{name}(void) {{ return 0; }}\n" for name in FUNCTIONS)
        (folder / "stub.c").write_text(source)
        for name in ("nvinfer", "nvonnxparser", "nvinfer_plugin"):
            library = f"lib{name}.so.{version.partition('.')[0]}"
            command = ["gcc", "-shared", "-fPIC", f"-Wl,-soname,{library}", "-o", library, "stub.c"]
            subprocess.run(command, cwd=folder, check=True)
        found = subprocess.run(
            [sys.executable, __file__, "--surface"],
            cwd=folder,
            env={"LD_LIBRARY_PATH": str(folder), "PYTHONPATH": str(folder)},
            capture_output=True,
            text=True,
            check=True,
        )
    surface: Surface = json.loads(found.stdout)
    return surface


def surface_here() -> Surface:
    """Returns class -> name -> parameters (None for properties and constants)."""
    import tensorrt_bindings as trt

    return {
        name: {
            member: parameters(member, getattr(getattr(trt, name), member))
            for member in sorted(dir(getattr(trt, name)))
            if not member.startswith("_")
        }
        for name in CLASSES
        if hasattr(trt, name)
    }


def parameters(name: str, member: object) -> list[str] | None:
    """Returns the names of all overloads' parameters, from what pybind11 documents."""
    if not callable(member) or isinstance(member, type):
        return None
    signatures = re.findall(rf"\b{name}\((.*)\) -> ", member.__doc__ or "")
    found = [re.findall(r"(\w+): ", signature) for signature in signatures]
    return list(dict.fromkeys(each for names in found for each in names if each != "self"))


if __name__ == "__main__":
    if sys.argv[1:] == ["--surface"]:
        sys.stdout.write(json.dumps(surface_here()))
    else:
        main()
