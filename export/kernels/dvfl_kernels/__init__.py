"""Where the libraries with dvfl's kernels lie. They are loaded by the engines, never by Python."""

from pathlib import Path

__all__ = ["library_path"]

_STEMS = {
    "onnxruntime": "dvfl_onnxruntime",
    "onnxruntime-cuda": "dvfl_onnxruntime_cuda",
    "tensorrt": "dvfl_tensorrt",
}
_ENDINGS = (".so", ".dylib", ".dll")


def library_path(engine: str) -> Path:
    """Return the absolute path of the library for an engine.

    Args:
        engine: "onnxruntime" (on a CPU), "onnxruntime-cuda" or "tensorrt".

    Raises:
        ValueError: if there is no such engine.
        FileNotFoundError: if this wheel was built without that library.
    """
    if engine not in _STEMS:
        raise ValueError(f"unknown engine {engine!r}; choose one of: {', '.join(_STEMS)}")
    folder = Path(__file__).resolve().parent
    for ending in _ENDINGS:
        if (path := folder / f"lib{_STEMS[engine]}{ending}").is_file():
            return path
    raise FileNotFoundError(
        f"the installed dvfl-kernels has no library for {engine}; build it where the headers of "
        f"{engine} are: pip install --force-reinstall ./export/kernels"
    )
