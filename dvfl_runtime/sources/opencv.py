"""OpenCV without its own log, and the order of its colours."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

_lock = threading.Lock()
_levels: list[int] = []  # the log level before, once for each block that runs


@contextmanager
def quiet_opencv() -> Iterator[None]:
    """Switch OpenCV's log off in the block; blocks of several threads may overlap."""
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


def rgb_from_bgr(bgr: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return (H, W, 3) RGB from (H, W, 3) BGR or (H, W) grey."""
    import cv2

    code = cv2.COLOR_GRAY2RGB if bgr.ndim == 2 else cv2.COLOR_BGR2RGB
    return np.asarray(cv2.cvtColor(bgr, code), np.uint8)
