"""OpenCV without its own log."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

_lock = threading.Lock()
_levels: list[int] = []  # that of the log before, once for each block that runs


@contextmanager
def quiet_opencv() -> Iterator[None]:
    """Switches OpenCV's log off in the block; blocks of several threads may overlap."""
    from cv2.utils import logging

    with _lock:
        _levels.append(_levels[0] if _levels else logging.getLogLevel())
        logging.setLogLevel(logging.LOG_LEVEL_SILENT)
    try:
        yield
    finally:
        with _lock:
            level = _levels.pop()
            if not _levels:
                logging.setLogLevel(level)
