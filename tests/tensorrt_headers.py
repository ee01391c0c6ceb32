"""Folders with headers of TensorRT: the system's, the fetched ones, and those that are named."""

from __future__ import annotations

import os
from pathlib import Path

FETCHED = "dvfl/headers/tensorrt"  # by `make test-tools`, in the user's cache


def tensorrt_includes() -> list[Path]:
    """Return the folders, oldest first.

    DVFL_TENSORRT_INCLUDES names folders of more versions, parted by colons.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folders = [Path(name) for name in os.environ.get("DVFL_TENSORRT_INCLUDES", "").split(":")]
    folders += [cache / FETCHED, Path("/usr/include/x86_64-linux-gnu"),
                Path("/usr/include/aarch64-linux-gnu")]  # fmt: skip
    return [path for path in folders if (path / "NvInferRuntime.h").is_file()]
