"""What holds for all tests."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(autouse=True, scope="session")
def _cache_of_its_own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Keeps the tests, and the processes that they start, out of the user's cache."""
    before = os.environ.get("DVFL_CACHE_DIR")
    folder = tmp_path_factory.mktemp("cache")
    os.environ["DVFL_CACHE_DIR"] = str(folder)
    yield folder
    del os.environ["DVFL_CACHE_DIR"]
    if before is not None:
        os.environ["DVFL_CACHE_DIR"] = before
