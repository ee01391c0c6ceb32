"""Opening a container in the same way with every supported version of PyAV."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from av.container import InputContainer

TITLES_REPLACED = 19  # from this PyAV on titles that are not UTF-8 need no argument


def open_container(what: object, **how: Any) -> InputContainer:
    """Opens a file or a stream to read; its titles need not be UTF-8.

    Args:
        what: the address of a file or stream, or a binary file object.
        how: what `av.open` takes.

    Raises:
        av.FFmpegError: if it cannot be opened.
    """
    import av

    if int(av.__version__.partition(".")[0]) < TITLES_REPLACED:
        how["metadata_errors"] = "replace"
    container: InputContainer = av.open(what, "r", **how)
    return container
