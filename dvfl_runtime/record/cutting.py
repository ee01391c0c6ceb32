"""Parts of video files, cut out without encoding: a file need not be recorded while it is read."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

from dvfl_runtime.errors import SourceError
from dvfl_runtime.files import PathLike
from dvfl_runtime.record.packet_file import StreamTemplate
from dvfl_runtime.record.recorder import CLOSE_WAIT_S, WRITE_S, OnDone, Recording
from dvfl_runtime.record.ring import StoredPacket
from dvfl_runtime.sources import Frame
from dvfl_runtime.sources.decoding.container import packets_of
from dvfl_runtime.sources.recorded.file import FileSource
from dvfl_runtime.sources.recorded.media import Video, name_of
from dvfl_runtime.sources.recorded.video_file import open_video


class FileRecorder:
    """Cuts parts out of the file that a source reads, when their end is known.

    It is used like a `Recorder`.

    Args:
        source: of a file with timestamps.
    """

    remuxes = True

    def __init__(self, source: FileSource) -> None:
        self._video = source.video
        self._changed = threading.Condition()  # guards all below
        self._recordings: list[Recording] = []
        self._closed = False
        self._thread = threading.Thread(
            target=self._run, name=f"dvfl-recorder {source.name}", daemon=True
        )
        self._thread.start()

    def observe(self, frame: Frame) -> None:
        """Do nothing: the file is read again."""

    def begin(self, stem: PathLike, begin_s: float, on_done: OnDone | None = None) -> Recording:
        """Begin a recording; see `Recorder.begin`."""
        recording = Recording(Path(stem), max(0.0, begin_s), 0, on_done)
        with self._changed:
            self._recordings.append(recording)
            self._changed.notify_all()
        return recording

    def close(self) -> None:
        """Complete all recordings that have an end; further calls do nothing."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join(CLOSE_WAIT_S)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or bool(self._recordings))
                self._changed.wait_for(lambda: self._closed, WRITE_S)
                is_last = self._closed
                ready = [one for one in self._recordings if is_last or one.end_s is not None]
                self._recordings = [one for one in self._recordings if one not in ready]
            for recording in ready:
                self._cut(recording)
            if is_last:
                return

    def _cut(self, recording: Recording) -> None:
        try:
            for number, packet in enumerate(packets_from(self._video, recording.begin_s)):
                if recording.write([(number, packet)], is_last=False):
                    return
        except SourceError as err:
            recording.fail(err)
            return
        recording.write([], is_last=True)


def packets_from(video: Video, begin_s: float) -> Iterator[StoredPacket]:
    """Yield the packets of a file, from the key picture before a time on.

    Raises:
        SourceError: if the file cannot be read.
    """
    import av

    with ExitStack() as stack:
        data = None if isinstance(video, Path) else stack.enter_context(closing(video.open()))
        container, stream = open_video(video, data)
        stack.enter_context(container)
        template = StreamTemplate(stream)
        base = stream.time_base
        assert base is not None
        origin = (container.start_time or 0) / 1e6
        try:
            if begin_s > 0:
                container.seek(round((begin_s + origin) / base), stream=stream)
            for packet in packets_of(container, stream):
                if packet.pts is None or packet.dts is None:
                    continue
                time_s = float(packet.pts * base) - origin
                decode_s = time_s - float((packet.pts - packet.dts) * base)
                yield StoredPacket(bytes(packet), time_s, decode_s, packet.is_keyframe, template)
        except av.FFmpegError as err:
            raise SourceError(f"cannot read {name_of(video)} again: {err.strerror}") from err
