"""The built library, and the sets of instructions that this machine has."""

from __future__ import annotations

from pathlib import Path

import pytest
from kernels_library import LIBRARY, Unavailable, build


@pytest.fixture(scope="session")
def library(pytestconfig: pytest.Config) -> Path:
    """Return the path of the custom-operator library for onnxruntime."""
    try:
        return build(pytestconfig.cache.mkdir("kernels")) / LIBRARY
    except Unavailable as err:
        pytest.skip(str(err))
