"""Recorder: the last seconds of a source, and files of what happens from then on."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

from dvfl_runtime.errors import DvflError, OutputError, SourceError
from dvfl_runtime.errors.checks import check_number
from dvfl_runtime.files import PathLike
from dvfl_runtime.record.encoding import PacketEncoder
from dvfl_runtime.record.packet_file import PacketFile, StreamTemplate
from dvfl_runtime.record.ring import PacketRing, StoredPacket
from dvfl_runtime.sources import Frame, LiveSource, Source
from dvfl_runtime.sources.observed import ObservedSource
from dvfl_runtime.sources.packets import TimedPacket

_logger = logging.getLogger(__name__)

MAX_BYTES = 64 << 20  # of the packets of one source: 30 s of a camera with 16 Mbit/s
WRITE_S = 0.2  # between two writes: a thread that wakes for each packet costs more than it writes
PATIENCE_S = 2.0  # for packets up to the end of a recording, after which there may be none
MAX_GAP_S = 60.0  # after a longer outage a recording goes on in another file
MAX_FRAMES = 4  # of a live source that wait to be encoded; then the oldest is left out
CLOSE_WAIT_S = 10.0
OnDone: TypeAlias = "Callable[[Recording], object]"


class Recording:
    """A file in the making: from a time on, to the end that it is told.

    It has more than one file if a camera came back with other pictures, or after a long outage.

    Args:
        stem: the path of the file without its suffix.
        begin_s: when it begins, on the source's clock, seconds.
        first: number of the first packet.
        on_done: called when it is done, in the thread that writes.

    Attributes:
        begin_s: see above.
        end_s: when it ends; `None` before that is known.
        paths: of the files that are complete.
        error: why nothing, or no more, could be written; `None` if all is well.
    """

    def __init__(
        self, stem: Path, begin_s: float, first: int, on_done: OnDone | None = None
    ) -> None:
        self.begin_s = begin_s
        self.end_s: float | None = None
        self.paths: list[Path] = []
        self.error: DvflError | None = None
        self._stem = stem
        self._next = first  # number of the next packet
        self._on_done = on_done
        self._give_up_s = 0.0  # once it has an end, on the machine's clock
        self._cancelled = False
        self._file: PacketFile | None = None
        self._done = threading.Event()

    @property
    def next_packet(self) -> int:
        """The number of the first packet that is not yet written."""
        return self._next

    def end(self, end_s: float) -> None:
        """Set when it ends, on the source's clock; it is complete soon after that moment."""
        self._give_up_s = time.monotonic() + PATIENCE_S
        self.end_s = end_s

    def cancel(self) -> None:
        """Leave no file, or no further one."""
        self._cancelled = True

    def wait(self, timeout_s: float | None = None) -> bool:
        """Block until the files are complete, or nothing more can be written; return whether."""
        return self._done.wait(timeout_s)

    def write(self, packets: list[tuple[int, StoredPacket]], *, is_last: bool) -> bool:
        """Write these packets; return whether it is done. For the recorder's thread alone.

        Args:
            packets: from `next_packet` on, as far as they are there.
            is_last: whether no further ones come.
        """
        try:
            reached = self._cancelled or self._write(packets)
            if reached or is_last or self._is_overdue():
                self._finish()
        except (DvflError, OSError) as err:
            self.fail(err if isinstance(err, DvflError) else OutputError(str(err)))
        return self._done.is_set()

    def fail(self, err: DvflError) -> None:
        """End it with an error. For the recorder's thread alone."""
        self.error = err
        self._discard()

    def _write(self, packets: list[tuple[int, StoredPacket]]) -> bool:
        """Write the packets; return whether the end was among them."""
        for number, packet in packets:
            if self.end_s is not None and packet.decode_s >= self.end_s:
                return True
            if number > self._next and self._file is not None:  # on with the next key picture
                _logger.warning(
                    "%s: pictures are missing, because writing is slower than the source",
                    self._stem,
                )
            self._next = number + 1
            self._file_for(packet).add(packet)
        return False

    def _file_for(self, packet: StoredPacket) -> PacketFile:
        file = self._file
        if file is None:
            self._file = file = PacketFile(self._stem, packet.template, self.begin_s)
        elif not self._continues(file, packet):
            self.paths.append(file.finish())
            stem = self._stem.with_name(f"{self._stem.name}-{len(self.paths) + 1}")
            self._file = file = PacketFile(stem, packet.template, packet.time_s)
        return file

    def _continues(self, file: PacketFile, packet: StoredPacket) -> bool:
        gap_s = packet.decode_s - file.last_s if file.last_s is not None else 0.0
        return gap_s <= MAX_GAP_S and file.template.is_like(packet.template)

    def _is_overdue(self) -> bool:
        return self.end_s is not None and time.monotonic() > self._give_up_s

    def _finish(self) -> None:
        file = self._file
        if self._cancelled:
            self._discard()
            return
        if file is None:
            raise SourceError(f"there was no picture to record in {self._stem}")
        self.paths.append(file.finish())
        self._file = None
        self._set_done()

    def _discard(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            file.discard()
        self._set_done()

    def _set_done(self) -> None:
        try:
            if self._on_done is not None:
                self._on_done(self)
        finally:
            self._done.set()


class Recorder:
    """Keeps the last seconds of a source in memory, and writes parts of it to files.

        recorder = Recorder(source, pre_roll_s=3)
        for frame in source.frames():
            recorder.observe(frame)
            ...
            recording = recorder.begin("door/wave", frame.time_s)  # with what was 3 s ago
            ...
            recording.end(frame.time_s)

    A source that receives compressed pictures (RTSP, MJPEG) is written as it came, from the key
    picture before the beginning on; of all others the frames are encoded, while they are needed. A
    thread of its own encodes and writes, so that neither a slow disk nor a full one delays the
    source. `close` completes what is being written.

    Args:
        source: not yet read.
        pre_roll_s: how far back a recording may begin, seconds.
        max_bytes: the most memory for packets.

    Attributes:
        remuxes: whether pictures are written as they came.
        cpu_s: the processor time of its thread, seconds.

    Raises:
        OutputError: if PyAV is not installed.
    """

    def __init__(
        self, source: Source, *, pre_roll_s: float = 0.0, max_bytes: int = MAX_BYTES
    ) -> None:
        check_number("pre_roll_s", pre_roll_s, least=0)
        self.cpu_s = 0.0
        self._live = source.live
        self._pre_roll_s = pre_roll_s
        self._ring = PacketRing(pre_roll_s, max_bytes)
        self._changed = threading.Condition()  # guards all below
        self._frames: deque[Frame] = deque()
        self._recordings: list[Recording] = []
        self._closed = False
        self._source_template: tuple[object, StreamTemplate] | None = None
        self.remuxes = False
        if isinstance(source, LiveSource | ObservedSource):
            self.remuxes = source.observe_packets(self._take)
        self._encoder = None if self.remuxes else PacketEncoder()
        self._thread = threading.Thread(
            target=self._run, name=f"dvfl-recorder {source.name}", daemon=True
        )
        self._thread.start()

    def observe(self, frame: Frame) -> None:
        """Take a frame of the source; for the thread that reads it."""
        if self._encoder is None:
            return
        with self._changed:
            if self._closed or not (self._pre_roll_s or self._recordings):
                return
            if not self._live:  # each frame of a file counts
                self._changed.wait_for(lambda: len(self._frames) < MAX_FRAMES or self._closed)
            elif len(self._frames) >= MAX_FRAMES:
                self._frames.popleft()
            self._frames.append(frame)
            self._changed.notify_all()

    def begin(self, stem: PathLike, begin_s: float, on_done: OnDone | None = None) -> Recording:
        """Begin a recording.

        Args:
            stem: the path of the file without its suffix, which follows from the codec.
            begin_s: when it begins, on the source's clock, seconds; what is further back than
                `pre_roll_s` may be gone.
            on_done: called when it is done, in the thread of the recorder.
        """
        with self._changed:
            first = self._ring.key_before(begin_s)
            recording = Recording(Path(stem), begin_s, first, on_done)
            if self._closed:
                recording.cancel()
                recording.write([], is_last=True)
            else:
                self._recordings.append(recording)
                self._changed.notify_all()
        return recording

    def close(self) -> None:
        """Complete all recordings with what there is; further calls do nothing."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join(CLOSE_WAIT_S)

    def _take(self, timed: TimedPacket) -> None:
        """Store a packet; in the thread that reads the source."""
        known = self._source_template
        if known is None or known[0] is not timed.stream:
            known = self._source_template = (timed.stream, StreamTemplate(timed.stream))
        data, is_key = bytes(timed.packet), timed.packet.is_keyframe
        self._store(StoredPacket(data, timed.time_s, timed.decode_s, is_key, known[1]))

    def _store(self, packet: StoredPacket) -> None:
        with self._changed:
            needed = min((one.next_packet for one in self._recordings), default=None)
            self._ring.add(packet, needed)

    def _run(self) -> None:
        """Encode and write until `close`, in a thread of its own."""
        while True:
            with self._changed:
                if self._recordings:
                    self._changed.wait_for(lambda: self._closed or bool(self._frames), WRITE_S)
                else:
                    self._changed.wait_for(
                        lambda: self._closed or bool(self._frames or self._recordings)
                    )
                frames, is_last = list(self._frames), self._closed
                self._frames.clear()
                recordings = list(self._recordings)
                self._changed.notify_all()
            self._encode(frames)
            for recording in recordings:
                self._write(recording, is_last)
            self.cpu_s = time.thread_time()
            if is_last:
                return

    def _encode(self, frames: list[Frame]) -> None:
        if self._encoder is None:
            return
        try:
            for frame in frames:
                for packet in self._encoder.encode(frame):
                    self._store(packet)
        except Exception as err:  # a picture that is none is the reader's to report
            _logger.debug("a frame could not be encoded", exc_info=err)
        if not (self._pre_roll_s or self._recordings):  # the next one begins with a key picture
            self._encoder.reset()
            with self._changed:
                self._ring.clear()

    def _write(self, recording: Recording, is_last: bool) -> None:
        with self._changed:
            packets = self._ring.from_number(recording.next_packet)
        if recording.write(packets, is_last=is_last):
            with self._changed:
                self._recordings.remove(recording)
