"""Errors about missing packages: their names for pip, and the others that will be needed too."""

from __future__ import annotations

import importlib.util
import platform
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from traceback import walk_tb

from dvfl_runtime.errors import DvflError

MEDIA = ("av", "cv2")
CPU_TORCH = "https://download.pytorch.org/whl/cpu"
# packages whose name for pip differs from the one that Python imports
DISTRIBUTIONS = {"cv2": "opencv-python-headless", "cuda.bindings": "cuda-bindings"}


@contextmanager
def needed(what: str, *packages: str, error: type[DvflError] = DvflError) -> Iterator[None]:
    """Turn any failure of the imports in the block into one message.

    Args:
        what: the feature that needs them, as the subject of a sentence.
        packages: all that it needs, by the names that Python imports.
        error: the type of the error.

    Raises:
        DvflError: of the given type, if an import fails.
    """
    try:
        yield
    except (Exception, SystemExit) as err:  # a broken package may raise anything
        raise error(import_problem(err, what, *packages)) from err


def check_installed(what: str, *packages: str) -> None:
    """Raise DvflError unless all packages that `what` needs are there; import none of them."""
    if missing := [name for name in packages if not is_installed(name)]:
        raise DvflError(
            f"{what} needs packages that are not installed; run: {pip_install(*missing)}"
        )


def import_problem(err: BaseException, what: str, *packages: str) -> str:
    """Return the message about a failed import; see `needed` for the arguments."""
    failed = _failed_module(err, packages)
    name = _owner(failed, packages) or failed.partition(".")[0]
    if isinstance(err, ModuleNotFoundError) and not is_installed(failed):
        return f"{what} needs {name}, which is not installed; run: {pip_install(name, *packages)}"
    reason = " ".join(str(err).split()) or type(err).__name__
    return (
        f"{what} needs {name}, which is installed but fails to load ({reason}); "
        f"install it again: pip install --force-reinstall {DISTRIBUTIONS.get(name, name)}"
    )


def _failed_module(err: BaseException, packages: Sequence[str]) -> str:
    """Return the module that an error is about: the one it names, or the one it came from."""
    if isinstance(err, ImportError) and err.name:  # in other errors `name` is no module
        return err.name
    for frame, _ in walk_tb(err.__traceback__):
        module = str(frame.f_globals.get("__name__"))
        if _owner(module, packages):
            return module
    return "".join(packages[:1])


def _owner(module: str, packages: Sequence[str]) -> str | None:
    return next((name for name in packages if f"{module}.".startswith(f"{name}.")), None)


def pip_install(name: str, *others: str) -> str:
    """Return the command that installs a package, and those of the others that are missing."""
    missing = [name, *(other for other in others if other != name and not is_installed(other))]
    command = f"pip install {' '.join(DISTRIBUTIONS.get(name, name) for name in missing)}"
    if "cv2" in missing and platform.machine() == "aarch64":
        command += " (on a Jetson use JetPack's own OpenCV)"
    if "torch" in missing and sys.platform == "linux":
        command += f" (without an NVIDIA GPU add --extra-index-url {CPU_TORCH}: no 3 GB of CUDA)"
    return command


def is_installed(name: str) -> bool:
    """Return whether Python finds a package, without importing it."""
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        return False
