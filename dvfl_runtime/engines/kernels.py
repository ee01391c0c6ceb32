"""Native kernels for the fused nodes of model files, where the package dvfl-kernels is installed.

A machine without it, or with a library that cannot be loaded, runs the nodes by standard operators.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable

logger = logging.getLogger(__name__)

PACKAGE = "dvfl-kernels"
ENGINES = ("onnxruntime", "onnxruntime-cuda", "tensorrt")  # that it can have a library for


def kernel_library(engine: str) -> str:
    """Return the absolute path of the kernels' library for an engine, "" where there is none.

    Args:
        engine: one of `ENGINES`.
    """
    try:
        import dvfl_kernels
    except ImportError:
        return ""
    try:
        return os.path.abspath(dvfl_kernels.library_path(engine))
    except FileNotFoundError as err:  # the package was built without it
        logger.info("no kernels for %s: %s", engine, err)
    except Exception as err:  # a broken package may raise anything
        say_unused(engine, err)
    return ""


def library_mark(engine: str) -> list[int]:
    """Return what tells a library from another one and from none, as JSON has it."""
    path = kernel_library(engine)
    try:
        about = os.stat(path) if path else None
    except OSError:
        about = None
    return [] if about is None else [about.st_size, about.st_mtime_ns]


def say_unused(engine: str, err: Exception) -> None:
    """Warn that the kernels are installed and not used."""
    reason = " ".join(str(err).split()) or type(err).__name__
    logger.warning(
        "%s runs without the kernels of %s, which takes longer: %s; install the newest version of "
        "that package",
        *(engine, PACKAGE, reason[:300]),
    )


def say_lacking(engine: str, nodes: Iterable[str]) -> None:
    """Warn that an older library has no kernels for some kinds of nodes of a file."""
    logger.warning(
        "%s runs %s without kernels, which takes longer: the installed %s has none for them; "
        "install the newest version of that package",
        *(engine, ", ".join(sorted(nodes)), PACKAGE),
    )
