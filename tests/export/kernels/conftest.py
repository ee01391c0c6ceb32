"""The library and the check of its arithmetic, built once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from kernels_library import LIBRARY, Unavailable, build


@pytest.fixture(scope="session")
def built(pytestconfig: pytest.Config) -> Callable[..., Path]:
    """Return `kernels_library.build` with the cache of the tests; it skips where that fails."""

    def build_or_skip(target: str, *options: str) -> Path:
        try:
            return build(pytestconfig.cache.mkdir("kernels"), *options, target=target)
        except Unavailable as err:
            pytest.skip(str(err))

    return build_or_skip


@pytest.fixture(scope="session")
def library(built: Callable[..., Path]) -> Path:
    """Return the path of the custom-operator library for onnxruntime."""
    return built("dvfl_onnxruntime") / LIBRARY
