"""Opens containers and reads their packets in the same way with every supported PyAV."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import av
    from av.container import InputContainer
    from av.video.stream import VideoStream

REPLACES_METADATA_ERRORS = 19  # this PyAV and later ones read titles that are not UTF-8


def open_container(file: object, **options: Any) -> InputContainer:
    """Open a file or a stream for reading; its titles need not be UTF-8.

    Args:
        file: the address of a file or stream, or a binary file object.
        options: as for `av.open`.

    Raises:
        av.FFmpegError: if it cannot be opened.
    """
    import av

    if int(av.__version__.partition(".")[0]) < REPLACES_METADATA_ERRORS:
        options["metadata_errors"] = "replace"
    container: InputContainer = av.open(file, "r", **options)
    return container


def packets_of(container: InputContainer, stream: VideoStream) -> Iterator[av.Packet[VideoStream]]:
    """Yield the packets of a stream.

    Raises:
        av.FFmpegError: if one cannot be read.
    """
    while True:
        try:
            yield from container.demux(stream)
            return
        except IndexError:  # PyAV raises it where another stream appears in the file
            continue
