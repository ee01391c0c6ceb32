"""What holds for all tests."""

import logging
import os
import signal
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


@pytest.fixture(autouse=True, scope="session")
def _ctrl_c_is_heard() -> None:
    """Scripts start background jobs with SIGINT ignored, and their children inherit that."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _log_levels_of_its_own() -> Iterator[None]:
    """Keeps a comparison, which shows what the runtime logs, from doing so in later tests."""
    loggers = [logging.getLogger(name) for name in ("dvfl_bench", "dvfl_runtime")]
    before = [logger.level for logger in loggers]
    yield
    for logger, level in zip(loggers, before, strict=True):
        logger.setLevel(level)
