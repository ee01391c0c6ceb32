"""Opening a container in the same way with every supported version of PyAV."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import av
    from av.container import InputContainer
    from av.video.stream import VideoStream

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


def packets_of(container: InputContainer, stream: VideoStream) -> Iterator[av.Packet[VideoStream]]:
    """Yields the packets of a stream.

    Raises:
        av.FFmpegError: if one cannot be read.
    """
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets, None)
        except IndexError:  # raised by PyAV when a file turns out to have one more stream
            packets = container.demux(stream)
            continue
        if packet is None:
            return
        yield packet
