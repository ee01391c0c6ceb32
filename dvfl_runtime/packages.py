"""What is said when a package is missing: its name for pip, and what else will be needed."""

from __future__ import annotations

import importlib.util
import platform
from collections.abc import Iterator
from contextlib import contextmanager

from dvfl_runtime.errors import DvflError

MEDIA = ("av", "cv2")
DISTRIBUTIONS = {
    "cv2": "opencv-python-headless",
    "cuda.bindings": "cuda-bindings",
}  # where pip's name differs


@contextmanager
def needed(what: str, *packages: str, error: type[DvflError] = DvflError) -> Iterator[None]:
    """Turns what goes wrong with the imports in the block into one message.

    Args:
        what: needs them, as the subject of a sentence.
        packages: all that it needs, by the names that Python imports.
        error: the type of the error.

    Raises:
        DvflError: of the given type, if an import fails.
    """
    try:
        yield
    except Exception as err:  # a broken package may raise anything
        raise error(import_problem(err, what, *packages)) from err


def check_installed(what: str, *packages: str) -> None:
    """Raises DvflError unless all that `what` needs is there, before any of it is imported."""
    if missing := [name for name in packages if not is_installed(name)]:
        raise DvflError(
            f"{what} needs packages that are not installed; run: {pip_install(*missing)}"
        )


def import_problem(err: Exception, what: str, *packages: str) -> str:
    """Returns the message about an import that failed; the arguments are those of `needed`."""
    failed: str = getattr(err, "name", None) or "".join(packages[:1])
    own = (package for package in packages if f"{failed}.".startswith(f"{package}."))
    name = next(own, failed.partition(".")[0])
    if isinstance(err, ModuleNotFoundError) and not is_installed(failed):
        return f"{what} needs {name}, which is not installed; run: {pip_install(name, *packages)}"
    reason = " ".join(str(err).split()) or type(err).__name__
    return (
        f"{what} needs {name}, which is installed but fails to load ({reason}); "
        f"install it again: pip install --force-reinstall {DISTRIBUTIONS.get(name, name)}"
    )


def pip_install(name: str, *others: str) -> str:
    """Returns the command that installs a package, and those of the others that are missing."""
    missing = [name, *(other for other in others if other != name and not is_installed(other))]
    command = f"pip install {' '.join(DISTRIBUTIONS.get(each, each) for each in missing)}"
    if "cv2" in missing and platform.machine() == "aarch64":
        command += " (on a Jetson use JetPack's own OpenCV)"
    return command


def is_installed(name: str) -> bool:
    """Says whether Python finds a package, without importing it."""
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        return False
